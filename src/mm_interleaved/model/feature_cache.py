"""What has been seen: the projected values of every picture, once per layer — the picture side's key-value cache.

Each picture is encoded once. The language model's synchronizers project its maps when it joins, the image decoder's when the first
later picture is painted; every later token, denoising step and guidance branch reads the kept values.

Axes: B rows · N images · S cells · H heads · D head width (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Values = tuple[Float[Tensor, "B N S H D"], ...]
Projector = Callable[[Tensor], Values]


class FeatureCache:
    """Values of the pictures of B documents, in reading order; all documents hold the same number.

    Args:
        project_text: maps `B N S F` of the levels that the language model reads → one value tensor per layer.
        project_image: the same for the image decoder.
        max_images: pictures that may be kept; the oldest leaves first. None keeps all.
    """

    def __init__(self, project_text: Projector, project_image: Projector, *, max_images: int | None = None) -> None:
        self._project_text = project_text
        self._project_image = project_image
        self.max_images = max_images
        self._text: list[Values] = []
        self._image: list[Values | None] = []
        self._image_maps: list[Tensor | None] = []

    def __len__(self) -> int:
        return len(self._text)

    @property
    def nbytes(self) -> int:
        """Memory of everything kept, in bytes."""
        kept = [tensor for values in (*self._text, *(v for v in self._image if v is not None)) for tensor in values]
        kept += [maps for maps in self._image_maps if maps is not None]
        return sum(tensor.nbytes for tensor in kept)

    def append(self, text_maps: Float[Tensor, "B St F"], image_maps: Float[Tensor, "B Si F"]) -> None:
        """One more picture of every document joins.

        Args:
            text_maps: the levels that the language model reads, concatenated finest first.
            image_maps: the levels that the image decoder reads.
        """
        self._text.append(self._project_text(text_maps[:, None]))
        self._image.append(None)
        self._image_maps.append(image_maps)
        if self.max_images is not None and len(self._text) > self.max_images:
            for entries in (self._text, self._image, self._image_maps):
                del entries[0]

    def text_values(self) -> Values | None:
        """Values for the language model's layers, all pictures joined along N; None without a picture."""
        return _join(self._text)

    def image_values(self, *, previous_only: bool = False) -> Values | None:
        """Values for the image decoder's synchronizers; None without a picture.

        Args:
            previous_only: only the last picture's.
        """
        first = len(self._image) - 1 if previous_only and self._image else 0
        for index in range(first, len(self._image)):
            maps = self._image_maps[index]
            if maps is not None:
                self._image[index] = self._project_image(maps[:, None])
                self._image_maps[index] = None
        return _join([values for values in self._image[first:] if values is not None])


def _join(entries: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...] | None:
    if not entries:
        return None
    if len(entries) == 1:
        return entries[0]
    return tuple(torch.cat(layer, dim=1) for layer in zip(*entries, strict=True))
