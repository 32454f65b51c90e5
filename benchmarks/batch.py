"""Eight documents at once against one after another: `python benchmarks/batch.py` prints one JSON object per case.

`eight_texts`       words only, greedy; texts are compared, and where they differ the margin of the likeliest token over the second is told
`eight_documents`   words and a picture each, of different lengths; pictures are compared

and how both scale with the number of documents. `--quick` runs everything at a fraction of the length; its figures mean nothing.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from document import GUIDANCE, decibels, timed
from measuring import machine, report
from mid import Scripted, mid_model, prompt, scripted
from torch import Tensor

from mm_interleaved.document import Document
from mm_interleaved.generation.engine import Continuation
from mm_interleaved.generation.events import Failed, Finished
from mm_interleaved.generation.load import Model
from mm_interleaved.generation.scheduler import Scheduler
from mm_interleaved.ops.freed_memory import keep_freed_memory

MARGIN = 1e-3
"""Texts may part where the two likeliest tokens are nearer than this: batched and single rows differ by rounding."""


class Endless:
    """Chooses as the model would, but never the end; keeps the margins."""

    def __init__(self, run: Continuation) -> None:
        self._chooser, self._end = run._chooser, run.processor.tokens.end
        self.margins: list[float] = []
        self._given = self._never = frozenset[int]()
        self._indices = torch.empty(0, dtype=torch.long)

    def choose(self, logits: Tensor, *, written: list[int], suppressed: frozenset[int], position: int) -> Tensor:
        if self._given is not suppressed:  # the same set in every step
            self._given, self._never = suppressed, suppressed | {self._end}
            self._indices = torch.tensor(sorted(self._never))
        allowed = logits.float().index_fill(0, self._indices, -torch.inf)
        best = allowed.topk(2).values
        self.margins.append(float(best[0] - best[1]))
        return self._chooser.choose(logits, written=written, suppressed=self._never, position=position)


class Following(Scheduler):
    """A scheduler whose documents follow a script."""

    def __init__(self, model: Model, lengths: list[int] | None, **limits: Any) -> None:
        super().__init__(model.network, model.processor, **limits)
        self._lengths = lengths

    def begin(self, name: Any, *arguments: Any) -> Continuation:
        run = super().begin(name, *arguments)
        if self._lengths is None:
            run._chooser = Endless(run)  # type: ignore[assignment]
        else:
            run._chooser = Scripted(run, self._lengths[name], 1)  # type: ignore[assignment]
        return run


def together(model: Model, documents: list[Document], lengths: list[int] | None, **options: Any) -> list[Document]:
    scheduler = Following(model, lengths, places=len(documents))
    for number, document in enumerate(documents):
        scheduler.add(number, document, **options)
    return finished(scheduler, len(documents))


def finished(scheduler: Scheduler, count: int) -> list[Document]:
    """Runs a scheduler whose documents are called 0, 1 …, and gives them in this order."""
    found: dict[Any, Document] = {}
    for name, event in scheduler:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished):
            found[name] = event.document
    return [found[number] for number in range(count)]


def texts(model: Model, count: int, tokens: int, case: str) -> None:
    documents = [prompt(1, words=12 + 2 * number) for number in range(count)]
    options = {"max_images": 0, "max_tokens": tokens}

    def one_by_one() -> tuple[list[Document], list[list[float]]]:
        made, margins = [], []
        for document in documents:
            run = model.stream(document, **options)
            run._chooser = chooser = Endless(run)  # type: ignore[assignment]
            for _ in run:
                pass
            made.append(run.document)
            margins.append(chooser.margins)
        return made, margins

    together(model, documents, None, max_images=0, max_tokens=3)
    against_seconds, (expected, margins) = timed(one_by_one)
    seconds, found = timed(lambda: together(model, documents, None, **options))
    parted = []
    for one, other, own in zip(found, expected, margins, strict=True):
        pairs = zip(one.texts[-1].token_ids or (), other.texts[-1].token_ids or (), strict=True)
        first = next((place for place, (left, right) in enumerate(pairs) if left != right), None)
        if first is not None:
            parted.append(own[first])
    row = {"case": case, "path": "scheduler", "against": "one_by_one", "seconds": seconds, "against_seconds": against_seconds}
    row |= {"ratio": against_seconds / seconds, "documents": count, "tokens": tokens, "tokens_per_second": count * tokens / seconds}
    report({**row, "texts_parted": len(parted), "parted_above_margin": sum(margin >= MARGIN for margin in parted), "margins": parted})


def documents(model: Model, count: int, words: int, steps: int, case: str) -> None:
    lengths = [words + words * number // 8 for number in range(count)]
    prompts = [prompt(1, words=12 + 2 * number) for number in range(count)]
    options = {"max_images": 1, "max_tokens": 1000, "steps": steps, "guidance": GUIDANCE}

    def one_by_one() -> list[Document]:
        made = []
        for number, document in enumerate(prompts):
            run = scripted(model.stream(document, **options), lengths[number], 1)
            for _ in run:
                pass
            made.append(run.document)
        return made

    together(model, prompts, [2] * count, **{**options, "steps": 1})
    against_seconds, expected = timed(one_by_one)
    seconds, found = timed(lambda: together(model, prompts, lengths, **options))
    near = min(decibels(one.images[-1].array(), other.images[-1].array()) for one, other in zip(found, expected, strict=True))
    row = {"case": case, "path": "scheduler", "against": "one_by_one", "seconds": seconds, "against_seconds": against_seconds}
    row |= {"ratio": against_seconds / seconds, "documents": count, "tokens": lengths, "steps": steps, "steps_of_full_case": 30}
    report({**row, "least_decibels": near, "guidance": GUIDANCE})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fraction of the length")
    parser.add_argument("--only", choices=["texts", "documents"], help="one part")
    quick = (arguments := parser.parse_args()).quick
    report(machine())
    keep_freed_memory()
    model = mid_model()
    if arguments.only in (None, "texts"):
        texts(model, 8, 3 if quick else 60, "eight_texts")
        for count in () if quick else (2, 4, 16):
            texts(model, count, 30, f"{count}_texts")
    if arguments.only in (None, "documents"):
        documents(model, 8, 2 if quick else 16, 1 if quick else 6, "eight_documents")
        for count in () if quick else (2, 4):
            documents(model, count, 16, 4, f"{count}_documents")


if __name__ == "__main__":
    main()
