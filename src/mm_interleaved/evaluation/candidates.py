"""Pictures as the release painted them for its figures: by its own sampler, several candidates a place, of which CLIP keeps one.

The kept candidate is the one whose cosine with the words before it is highest. The release chose by CLIP ViT-L/14; here it is the
user's. A CLIP score of pictures that the same network chose is flattered by the choice, and the guide says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mm_interleaved.checkpoint.clip import Clip
from mm_interleaved.document import Document, Image
from mm_interleaved.errors import ConfigError, GenerationError
from mm_interleaved.evaluation.making import GREY
from mm_interleaved.evaluation.tasks.task import Task
from mm_interleaved.generation.load import Model
from mm_interleaved.generation.published import draw_noise, generate_images
from mm_interleaved.generation.published_options import PublishedImageOptions
from mm_interleaved.processing.images import from_pixels

FIRST_SEEDS = 30_000
"""Below this number the release drew the seed of its first candidate."""

PLACE = np.full((2, 2, 3), GREY, np.uint8)
"""Stands where the picture will be; nothing of it reaches the picture."""


@dataclass(frozen=True, slots=True)
class ReleasedPainter:
    """Paints one picture behind a document."""

    model: Model
    options: PublishedImageOptions
    """Those of the benchmark; each picture has a seed of its own."""
    clip: Clip | None
    """Chooses; None where there is one candidate."""

    def __call__(self, document: Document, seed: int) -> tuple[Image, dict[str, Any]]:
        """
        Args:
            seed: of this picture; the first candidate has its remainder by `FIRST_SEEDS`, each further one the next number.

        Returns:
            The picture, and which candidate it was with the cosines of all; nothing of that where there was one.

        Raises:
            LayoutError: the model cannot take the document.
            GenerationError: there are no words to choose by.
        """
        candidates = self._paint(document, replace(self.options, seed=seed % FIRST_SEEDS))
        if self.clip is None:
            return candidates[0], {}
        if not document.texts:
            raise GenerationError("CLIP chooses by the words before a picture, and there are none.")
        fits = self.clip.pictures(candidates) @ self.clip.captions([document.texts[-1].text.strip()])[0]
        place = int(fits.argmax())
        return candidates[place], {"candidate": place, "fits": [round(float(fit), 6) for fit in fits]}

    def _paint(self, document: Document, options: PublishedImageOptions) -> list[Image]:
        network, processor = self.model.network, self.model.processor
        layout = processor.open_layout([*document, PLACE])
        ids = torch.tensor([layout.token_ids], device=network.device)
        pixels = torch.stack([*(processor.pixels(picture) for picture in document.images), processor.pixels(PLACE)])
        decoder = network.image_decoder
        initial, steps = draw_noise(1, (decoder.latent_channels, decoder.latent_side, decoder.latent_side), options)
        painted = generate_images(
            network,
            ids,
            torch.ones_like(ids),
            pixels.to(network.device, network.dtype),
            initial_latents=initial,
            step_noise=steps,
            targets=[len(document.images)],
            guidance=options.guidance,
        )
        return [Image.from_array(from_pixels(each)) for each in painted]


def released_painter(model: Model, task: Task, clip: Clip | None) -> ReleasedPainter:
    """The painter of a benchmark's published protocol.

    Raises:
        ConfigError: the release had no settings for it, or no CLIP was given to choose by.
    """
    if task.image is None:
        raise ConfigError(f"--protocol published: the release came without settings for painting {task.name}; use ours.")
    if task.image.candidates == 1:
        return ReleasedPainter(model, task.image, None)
    if clip is None:
        raise ConfigError(
            f"--protocol published: the release painted {task.image.candidates} candidates of every picture of {task.name} and kept the "
            "one that CLIP found to fit its words best; give one with --clip FOLDER (ViT-L/14 was theirs)."
        )
    return ReleasedPainter(model, task.image, clip)
