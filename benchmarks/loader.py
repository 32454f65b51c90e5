"""Reading pictures of a source, beside plain Pillow: `python benchmarks/loader.py` prints one JSON object.

Both decode the same 512-pixel JPEGs and bring them to 224 pixels; ours also reads the shard, checks every picture completely and
makes the tensor that a batch holds. `images_per_second` is ours on one core.

`stall` trains nano on pairs with such pictures, one thread reading ahead: `share` is the part of the time in which training waited.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import compare, report
from PIL import Image as pillow

from mm_interleaved.data.kinds import make_source
from mm_interleaved.data.mixture import Mixture
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.training.feed import Feed
from mm_interleaved.training.loop import _Run
from mm_interleaved.training.recipe import read_recipe

SIDE, VIEW = 512, 224
RECIPE = Path(__file__).parents[1] / "recipes" / "finetune-own.yaml"
WARM = 2
"""Steps that are not counted."""


def photographs(count: int) -> list[bytes]:
    """JPEGs with the smooth areas and edges of photographs; noise would be slower to decode than any picture is."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = pillow.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((SIDE, SIDE), pillow.Resampling.BICUBIC)
        stream = io.BytesIO()
        coarse.save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def plain(encoded: list[bytes]) -> torch.Tensor:
    """Pillow alone: decode, resize, stack."""
    pictures = [pillow.open(io.BytesIO(one)).convert("RGB").resize((VIEW, VIEW), pillow.Resampling.BICUBIC) for one in encoded]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).float().div_(255)


def stall(folder: Path, steps: int) -> None:
    """Trains nano on the pairs of `folder`; reports how long it waited for pictures."""
    source = {"name": "a", "kind": "captions", "weight": 1, "files": [f"{folder}/a.jsonl"], "images": str(folder)}
    changes = {"data.sources": [source], "data.tasks": {}, "output": f"{folder}/run", "training.steps": steps + WARM}
    run = _Run(read_recipe(RECIPE, [f"{name}={json.dumps(value)}" for name, value in changes.items()]), lambda event: None, None)
    settings = run.settings
    feed = Feed(run._prepare, start=0, stop=settings.steps, batch_size=settings.batch_size, ahead=settings.prefetch)
    waited, began = [], []
    ready = iter(feed)
    for _ in range(settings.steps):
        began.append(time.perf_counter())
        batch = next(ready)
        waited.append(time.perf_counter() - began[-1])
        run._one_step(batch)
    seconds = time.perf_counter() - began[WARM]
    feed.close()
    row = {"case": "stall", "share": sum(waited[WARM:]) / seconds, "step_seconds": seconds / steps, "batch_size": settings.batch_size}
    report(row | {"steps": steps, "threads": torch.get_num_threads()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="pictures of one pass")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="training steps in which waiting is measured; 0 for none")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    encoded = photographs(chosen.images)
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(encoded):
            (Path(folder) / f"{number}.jpg").write_bytes(one)
        lines = [json.dumps({"image": f"{number}.jpg", "caption": "a"}) + "\n" for number in range(len(encoded))]
        (Path(folder) / "a.jsonl").write_text("".join(lines))
        source = make_source("captions", {"name": "a", "files": [f"{folder}/a.jsonl"], "images": folder})

        def ours() -> torch.Tensor:
            examples = Mixture([source], seed=0).take([(index, "a") for index in range(len(encoded))])
            return stack_pixels([example.images[0].array() for example in examples], VIEW)

        row = compare("loader", "source", ours, "pillow", lambda: plain(encoded), repeats=chosen.repeats, images=len(encoded))
        report({"case": "loader", "images_per_second": len(encoded) / row["seconds"]})
        if chosen.steps:
            stall(Path(folder), chosen.steps)


if __name__ == "__main__":
    main()
