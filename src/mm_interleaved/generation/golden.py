"""What a model makes of fixed prompts, written down beside its weights, so that later drift of the code shows.

Words are compared exactly. Pictures are compared as 8 × 8 thumbnails within `TOLERANCE` grey levels: another library version or
another processor may round differently, another picture is hundreds of levels away.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pillow

from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import CheckpointError
from mm_interleaved.generation.load import Model

NAME = "golden.json"
"""File beside the weights."""

TOLERANCE = 12
"""Grey levels of one thumbnail cell, out of 255. Between float32 on one and on two threads at most 1 was measured."""

SIDE = 8
PROMPTS = ("draw a 3D cat on a white ground.", "tell a story: a flat dog looks for an apple.")
OPTIONS: dict[str, Any] = {"seed": 7, "steps": 8, "max_images": 1, "max_tokens": 24}


def make_golden(model: Model) -> list[dict[str, Any]]:
    """Continues the fixed prompts and writes down what came."""
    return [{"prompt": prompt, **_fingerprint(model.continue_document(Document([prompt]), **OPTIONS))} for prompt in PROMPTS]


def write_golden(model: Model, folder: Path) -> None:
    """Writes `golden.json` into the folder of the model."""
    (folder / NAME).write_text(json.dumps(make_golden(model), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def drift(model: Model, folder: Path) -> list[str]:
    """Compares what the model makes now with what is written down; an empty list means no drift.

    Raises:
        CheckpointError: the folder has no golden output.
    """
    path = folder / NAME
    if not path.is_file():
        raise CheckpointError(f"{path}: expected the golden output of this model, found none; write it with scripts/make_box.py.")
    found = []
    for before, now in zip(json.loads(path.read_text(encoding="utf-8")), make_golden(model), strict=True):
        if before["texts"] != now["texts"]:
            found.append(f"{before['prompt']!r}: words were {before['texts']}, now {now['texts']}")
        if len(before["pictures"]) != len(now["pictures"]):
            found.append(f"{before['prompt']!r}: there were {len(before['pictures'])} pictures, now {len(now['pictures'])}")
            continue
        for number, (old, new) in enumerate(zip(before["pictures"], now["pictures"], strict=True)):
            farthest = int(np.abs(np.asarray(old) - np.asarray(new)).max())
            if farthest > TOLERANCE:
                found.append(f"{before['prompt']!r}: picture {number + 1} differs by {farthest} grey levels")
    return found


def _fingerprint(document: Document) -> dict[str, Any]:
    made = [segment for segment in document if segment.origin == "generated"]
    return {
        "texts": [segment.text for segment in made if isinstance(segment, Text)],
        "pictures": [_thumbnail(segment) for segment in made if isinstance(segment, Image)],
    }


def _thumbnail(image: Image) -> list[list[list[int]]]:
    small = pillow.fromarray(image.array()).resize((SIDE, SIDE), pillow.Resampling.BOX)
    return np.asarray(small).astype(int).tolist()
