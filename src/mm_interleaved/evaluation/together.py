"""Continues several documents and paints their pictures in one batch: a denoising step of sixteen rows costs little more than of four.

Each document is still read and written by the engine alone; only the denoising loop is shared. Noise, words and order are those of
`Model.stream`; latents differ from it by rounding.

Axes: R rows, one per waiting document · N pictures before · S H D as in the cache (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mm_interleaved.document import Document
from mm_interleaved.generation.engine import Continuation
from mm_interleaved.generation.events import Event, ImageDone, ImageProgress
from mm_interleaved.generation.image import denoise
from mm_interleaved.generation.load import Model
from mm_interleaved.generation.options import Options


def continue_together(
    model: Model, documents: Sequence[Document], seeds: Sequence[int], *, first_picture_only: bool = False, **options: Any
) -> list[list[Event]]:
    """Continues documents side by side.

    Args:
        seeds: one per document.
        first_picture_only: leave a document after its first picture.
        **options: fields of `generation.options.Options`, the same for all.

    Returns:
        The events of each document.

    Raises:
        LayoutError: a document does not fit into the model.
    """
    runs = [
        _Waiting(model.network, model.processor, document, Options.read({**options, "seed": seed}), model_hash=model.model_hash)
        for document, seed in zip(documents, seeds, strict=True)
    ]
    events: list[list[Event]] = [[] for _ in runs]
    active = list(range(len(runs)))
    while active:
        active = [place for place in active if _advance(runs[place], events[place], first_picture_only)]
        # Rows of one batch read the same number of pictures.
        for count in sorted({runs[place].pictures_before for place in active}):
            _paint([runs[place] for place in active if runs[place].pictures_before == count])
    return events


class _Waiting(Continuation):
    """A continuation that leaves the denoising to somebody else: it stops at the first step of a picture until `latents` is there."""

    generator: torch.Generator
    latents: Tensor

    @property
    def pictures_before(self) -> int:
        return self._state.images

    @property
    def condition(self) -> Tensor:
        return self._state.picture_condition()

    def values(self) -> tuple[Tensor, ...] | None:
        """What the image decoder's synchronizers read of the pictures before, `1 N S H D` each."""
        return self._state.features.image_values(previous_only=self.model.behaviour.previous_image_only)

    def _denoise(self, generator: torch.Generator) -> Iterator[Tensor]:
        self.generator = generator
        yield torch.empty(0)  # tells the driver that this run waits
        yield self.latents


def _advance(run: _Waiting, events: list[Event], first_picture_only: bool) -> bool:
    """Goes on until the run waits for a picture; returns whether it does."""
    for event in run:
        events.append(event)
        if isinstance(event, ImageProgress) and event.step == 1:
            return True
        if first_picture_only and isinstance(event, ImageDone):
            return False
    return False


@torch.no_grad()
def _paint(runs: Sequence[_Waiting]) -> None:
    network, options = runs[0].model, runs[0].options
    decoder = network.image_decoder
    condition = torch.cat([run.condition for run in runs])
    found = [values for run in runs if (values := run.values()) is not None]
    joined = tuple(torch.cat(layer) for layer in zip(*found, strict=True)) if found else None

    def predict(latents: Tensor, timestep: Tensor, conditions: Tensor) -> Tensor:
        if joined is None:
            return decoder.predict(latents, timestep, conditions)
        copies = latents.shape[0] // len(runs)  # guidance doubles the rows: all negative ones, then all conditioned ones
        values = tuple(torch.cat([value] * copies) for value in joined)
        visible = torch.ones(latents.shape[0], values[0].shape[1], dtype=torch.bool, device=latents.device)
        return decoder.predict(latents, timestep, conditions, values, visible, network.image_shapes)

    *_, finished = denoise(
        predict,
        decoder.schedule,
        condition=condition,
        negative=decoder.negative_condition(len(runs)).to(condition.dtype),
        guidance=options.guidance,
        steps=options.steps,
        shape=(decoder.latent_channels, decoder.latent_side, decoder.latent_side),
        generators=[run.generator for run in runs],
    )
    for place, run in enumerate(runs):
        run.latents = finished[place : place + 1]
