"""Live sample pages of a training run: held-out prompts, continued by the averaged weights of the moment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import MMInterleavedError
from mm_interleaved.generation.load import Model
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor

EACH = 2
"""Prompts per task."""

LIMITS = {"max_images": 3, "max_tokens": 48, "steps": 12, "seed": 0}
"""Options of generation: small, because training waits."""


def sample_page(
    network: MMInterleavedForConditionalGeneration, processor: MMInterleavedProcessor, step: int, folder: Path, *, tasks: Iterable[str]
) -> Path:
    """Writes `step-….html` below `folder`: per task two prompts that training never shows, and what the model makes of them."""
    world = World(Pack.load(), WorldConfig(split="test"))
    model = Model(network, processor)
    segments: list[Text | Image] = []
    for task in tasks:
        for index in range(EACH):
            made = sample(task, world, 0, index)
            prompt = [_segment(part) for part in made.segments[: made.prompt]]
            segments.append(Text(f"\n\n{task} {index + 1}\n\n"))
            try:
                segments += list(model.continue_document(Document(prompt), stop=None, **LIMITS))
            except MMInterleavedError as error:
                segments += [*prompt, Text(f" [{error}]")]
    path = folder / f"step-{step:06d}.html"
    Document(segments).save(path)
    return path


def _segment(part: object) -> Text | Image:
    return Text(part) if isinstance(part, str) else Image.from_array(part)  # type: ignore[arg-type]
