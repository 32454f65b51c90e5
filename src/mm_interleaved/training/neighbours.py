"""Vectors of the pictures of a source, for solved examples by nearest picture (`data/tuning/nearest.py`).

Either of the model itself, which needs nothing else, or of a CLIP in a local folder (`checkpoint/clip.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from mm_interleaved.checkpoint.native import load_model
from mm_interleaved.data.seeds import random_of
from mm_interleaved.data.sources import Skip, Skips, Source
from mm_interleaved.data.tuning.nearest import Embed, write_neighbours
from mm_interleaved.data.tuning.prompts import Prompted
from mm_interleaved.document import Image
from mm_interleaved.errors import ConfigError
from mm_interleaved.processing.images import stack_pixels

TOGETHER = 32
"""Pictures that are embedded at once."""


def embed_by_model(folder: Path) -> Embed:
    """Means of the coarsest feature map of a model of ours; picture tokens may be alike where all is read from the maps.

    Raises:
        CheckpointError: the folder holds none.
    """
    model = load_model(folder, dtype=torch.float32).eval()
    side = model.config.image_side

    @torch.no_grad()
    def embed(images: Sequence[Image]) -> Float[np.ndarray, "I D"]:
        pixels = stack_pixels([image.array() for image in images], side)
        return model.visual_tokenizer(pixels).maps[-1].mean(dim=(2, 3)).numpy()

    return embed


def embed_source(source: Source, embed: Embed, out: Path, skips: Skips) -> int:
    """Writes the vectors of all records of a source; returns how many.

    Args:
        skips: counts records whose picture cannot be used; they have no vector and are no examples.

    Raises:
        ConfigError: the source has no prompts.
        StorageError: the file cannot be written.
    """
    if not isinstance(source, Prompted):
        raise ConfigError(f"source '{source.name}' has no prompts with answers, so it takes no solved examples (data/tuning).")
    places: list[str] = []
    vectors: list[np.ndarray] = []
    waiting: list[Image] = []
    for shard in source.shards():
        try:
            for record in source.records(shard):
                try:
                    if record.problem is not None:
                        raise record.problem
                    prompt, _ = source.asked(record, random_of(0, record.place))
                except Skip as skip:
                    skips.add(source.name, record.place, skip)
                    continue
                waiting.append([part for part in prompt if isinstance(part, Image)][-1])
                places.append(record.place)
                if len(waiting) == TOGETHER:
                    vectors.append(embed(waiting))
                    waiting = []
        except Skip as skip:
            skips.add(source.name, shard, skip)
    if waiting:
        vectors.append(embed(waiting))
    if not places:
        raise ConfigError(f"source '{source.name}': none of its records can be used ({skips.by_reason(source.name)}).")
    write_neighbours(out, places, np.concatenate(vectors))
    return len(places)
