"""Whole documents: `python benchmarks/document.py` prints one JSON object per case.

`four_pictures_same_numerics`   60 tokens and a picture of 30 steps, four times, against the released loop on the same weights; the
                                pictures are compared as well; the loop gives freed memory back, as the release does, and ours
                                keeps it, as `mmi` does
`four_pictures_memory_kept`     the same where the loop keeps its memory too
`four_pictures_equal_quality`   the same document in bfloat16 with the sampler and step count of `--sampler` and `--steps`, whose equal
                                quality `picture_quality.py` shows
`four_pictures_equal_to_judge`  the same with so few steps (`--judged-steps`) that the judge of `picture_quality.py` alone sees no less
`picture_8_against_1`           what the eighth picture of a document costs against the first, under both behaviours
`token_at_N_images`             what a token costs with so many pictures in the cache against one; and against one with words instead
                                of the other pictures' tokens, so that the text before it is as long

Both paths do the whole document once after a small warm-up: it takes minutes, and noise of seconds does not change its ratios. `--quick`
runs everything at a fraction of the length, to see that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measuring import machine, report
from mid import mid_model, prompt, scripted
from recompute import Recomputed

from mm_interleaved.document import Pixels
from mm_interleaved.generation.events import ImageDone, ImageProgress
from mm_interleaved.generation.load import Model, choose_fast_forms
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.ops.freed_memory import keep_freed_memory

GUIDANCE = 7.5


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = run()
    return time.perf_counter() - began, found


def ours(model: Model, *, words: int, pictures: int, steps: int, sampler: str = "plain") -> list[Pixels]:
    """The document by the engine."""
    run = model.stream(prompt(1), max_images=pictures, max_tokens=10_000, steps=steps, guidance=GUIDANCE, sampler=sampler)
    return [event.image.array() for event in scripted(run, words, pictures) if isinstance(event, ImageDone)]


def recomputed(model: Model, *, words: int, pictures: int, steps: int) -> list[Pixels]:
    """The document by the released loop."""
    document = Recomputed(model, prompt(1))
    made = []
    for _ in range(pictures):
        document.write([260] * words)
        made.append(document.paint(steps=steps, guidance=GUIDANCE))
    return made


def decibels(one: Pixels, other: Pixels) -> float:
    error = float(np.square(one.astype(float) - other.astype(float)).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def four_pictures(words: int, steps: int, fewer: dict[str, int], sampler: str) -> None:
    model = mid_model()
    sizes = {"tokens": words, "steps": steps, "pictures": 4, "guidance": GUIDANCE, "repeats": 1, "threads": torch.get_num_threads()}
    for warm in (recomputed, ours):
        warm(model, words=2, pictures=1, steps=2)
    kept_seconds, _ = timed(lambda: recomputed(model, words=words, pictures=4, steps=steps))
    keep_freed_memory(False)
    against_seconds, expected = timed(lambda: recomputed(model, words=words, pictures=4, steps=steps))
    keep_freed_memory()
    seconds, found = timed(lambda: ours(model, words=words, pictures=4, steps=steps))
    near = min(decibels(*pair) for pair in zip(found, expected, strict=True))
    row = {"against": "recompute", "against_seconds": against_seconds, **sizes}
    report(
        {
            "case": "four_pictures_same_numerics",
            "path": "ours",
            "seconds": seconds,
            "ratio": against_seconds / seconds,
            **row,
            "least_decibels": near,
        }
    )
    kept_row = {**row, "against_seconds": kept_seconds}
    report({"case": "four_pictures_memory_kept", "path": "ours", "seconds": seconds, "ratio": kept_seconds / seconds, **kept_row})
    model.network.to(torch.bfloat16).image_decoder.vae.float()
    choose_fast_forms(model.network)
    ours(model, words=2, pictures=1, steps=2, sampler=sampler)
    for case, path_steps in fewer.items():
        seconds, _ = timed(lambda path_steps=path_steps: ours(model, words=words, pictures=4, steps=path_steps, sampler=sampler))
        better = {"sampler": sampler, "path_steps": path_steps, "dtype": "bfloat16"}
        report({"case": case, "path": "ours", "seconds": seconds, "ratio": against_seconds / seconds, **row, **better})


def later_pictures(published: bool, words: int, steps: int) -> None:
    """Seconds of each of eight pictures, from the first denoising step to its place in the context."""
    model = mid_model(published=published)
    run = model.stream(prompt(1), max_images=8, max_tokens=10_000, steps=steps, guidance=GUIDANCE)
    taken, began = [], 0.0
    for event in scripted(run, words, 8):
        if isinstance(event, ImageProgress) and event.step == 0:
            began = time.perf_counter()
        elif isinstance(event, ImageDone):
            taken.append(time.perf_counter() - began)
    report(
        {
            "case": "picture_8_against_1",
            "path": "published" if published else "ours",
            "against": "first picture",
            "seconds": taken[7],
            "against_seconds": taken[0],
            "ratio": taken[0] / taken[7],
            "growth": taken[7] / taken[0] - 1,
            "growth_per_picture": (taken[7] / taken[0] - 1) / 7,
            "each": [round(one, 3) for one in taken],
            "steps": steps,
            "steps_of_full_case": 30,
            "cache_bytes": run.state.nbytes,
        }
    )


def later_tokens(words: int, counts: tuple[int, ...]) -> None:
    """Seconds of a token with one picture in the cache and with more, by turns; the text before it grows with the pictures, and a second
    document with one picture has words in their place."""
    model = mid_model()

    def read(pictures: int, length: int = 0) -> DocumentState:
        run = model.stream(prompt(pictures), max_images=0, max_tokens=1)
        list(scripted(run, 1, 0))
        run.settle()
        while run.state.position < length:
            run.state.append_token(260)
        return run.state

    states = {f"{count} images": read(count) for count in counts}
    states |= {f"1 image and words for {count}": read(1, states[f"{count} images"].position) for count in counts[1:]}
    taken: dict[str, list[float]] = {name: [] for name in states}
    for _ in range(words):
        for name, state in states.items():
            began = time.perf_counter()
            state.append_token(260)
            state.next_logits().argmax()
            taken[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times[len(times) // 10 :]) for name, times in taken.items()}
    for count in counts[1:]:
        path = f"{count} images"
        for against in (f"{counts[0]} images", f"1 image and words for {count}"):
            row = {"case": f"token_at_{count}_images", "path": path, "against": against, "seconds": medians[path]}
            row |= {"against_seconds": medians[against], "ratio": medians[against] / medians[path]}
            row |= {"growth": medians[path] / medians[against] - 1, "tokens": words, "context": states[path].position}
            report({**row, "against_context": states[against].position, "cache_bytes": states[path].nbytes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fraction of the length")
    parser.add_argument("--sampler", default="unipc", help="of the equal-quality case")
    parser.add_argument("--steps", type=int, default=13, help="of the equal-quality case")
    parser.add_argument("--judged-steps", type=int, default=6, help="of the case that is equal to the judge")
    parser.add_argument("--only", choices=["four", "later", "token"], help="one part")
    arguments = parser.parse_args()
    report(machine())
    keep_freed_memory()
    if arguments.only in (None, "four"):
        fewer = {"four_pictures_equal_quality": arguments.steps, "four_pictures_equal_to_judge": arguments.judged_steps}
        words, steps = (60, 30) if not arguments.quick else (3, 2)
        four_pictures(words, steps, fewer if not arguments.quick else dict.fromkeys(fewer, 1), arguments.sampler)
    if arguments.only in (None, "later"):
        for published in (True, False):
            later_pictures(published, 8, 6 if not arguments.quick else 1)
    if arguments.only in (None, "token"):
        later_tokens(*((60, (1, 2, 4, 8, 16, 30)) if not arguments.quick else (3, (1, 2))))


if __name__ == "__main__":
    main()
