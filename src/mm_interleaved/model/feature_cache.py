"""What has been seen: the projected values of every picture, once per layer — the picture side's key-value cache.

Each picture is encoded once. The language model's synchronizers project its maps when it joins, the image decoder's when the first
later picture is painted; every later token, denoising step and guidance branch reads the kept values as they lie there: they are
joined when a picture joins, never when they are read. In memory head follows head, each with the cells of all its pictures, which is
the order in which they are sampled fastest.

Memory is bounded by a number of pictures or of bytes: the oldest pictures leave first and are then no longer seen. Values may be kept
in fewer bits than the model computes in. Both change results; `benchmarks/decode.py` measures what they
cost.

Axes: B rows · N images · S cells · H heads · D head width · F feature width (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mm_interleaved.errors import GenerationError

Values = tuple[Float[Tensor, "B N S H D"], ...]
Projector = Callable[[Tensor], Values]


@runtime_checkable
class TextValues(Protocol):
    """Whatever holds the values that the language model reads."""

    def text_values(self) -> Values | None: ...


class FeatureCache:
    """Values of the pictures of B documents, in reading order; all documents hold the same number."""

    def __init__(
        self,
        project_text: Projector,
        project_image: Projector,
        *,
        previous_only: bool = False,
        max_images: int | None = None,
        max_bytes: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            project_text: maps `B N S F` of the levels that the language model reads → one value tensor per layer.
            project_image: the same for the image decoder.
            previous_only: the image decoder reads the last picture only; the values of the others are not kept, their maps are.
            max_images: pictures that may be kept; None keeps all.
            max_bytes: memory that may be used; None is no bound. The last picture always stays.
            dtype: in which values are kept; None is the one they are computed in.
        """
        self._project_text = project_text
        self._project_image = project_image
        self.previous_only = previous_only
        self.max_images = max_images
        self.max_bytes = max_bytes
        self.dtype = dtype
        self._text: Values | None = None  # all pictures along N
        self._image: Values | None = None  # the first ones along N, those that are projected
        self._maps: list[Float[Tensor, "B S F"]] = []  # of the pictures whose values for the image decoder are not kept

    def __len__(self) -> int:
        return 0 if self._text is None else self._text[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Memory of everything kept, in bytes."""
        return sum(tensor.nbytes for tensor in (*(self._text or ()), *(self._image or ()), *self._maps))

    def append(self, text_maps: Float[Tensor, "B St F"], image_maps: Float[Tensor, "B Si F"]) -> None:
        """One more picture of every document joins.

        Args:
            text_maps: the levels that the language model reads, concatenated finest first.
            image_maps: the levels that the image decoder reads.

        Raises:
            GenerationError: this picture alone needs more memory than `max_bytes`.
        """
        self._text = _join(self._text, self._kept(self._project_text(text_maps[:, None])))
        self._maps.append(image_maps)
        if self.previous_only:
            self._image = None
        self._evict()

    def text_values(self) -> Values | None:
        """Values for the language model's layers, all pictures along N; None without a picture."""
        return self._text

    def image_values(self) -> Values | None:
        """Values for the image decoder's synchronizers, of all pictures or of the last one along N; None without a picture."""
        if self.previous_only:
            if self._image is None and self._maps:
                self._image = self._kept(self._project_image(self._maps[-1][:, None]))
            return self._image
        while self._maps:
            self._image = _join(self._image, self._kept(self._project_image(self._maps[0][:, None])))
            del self._maps[0]
        self._evict()
        return self._image

    def branch(self) -> FeatureCache:
        """The same pictures for another continuation; nothing is copied."""
        other = FeatureCache(
            self._project_text,
            self._project_image,
            previous_only=self.previous_only,
            max_images=self.max_images,
            max_bytes=self.max_bytes,
            dtype=self.dtype,
        )
        other._text, other._image, other._maps = self._text, self._image, list(self._maps)
        return other

    def drop_last(self, count: int) -> None:
        """The last `count` pictures leave; more than there are leaves none."""
        left = max(0, len(self) - count)
        self._text = _narrow(self._text, slice(0, left))
        if self.previous_only:
            self._image = None if count else self._image
            del self._maps[left:]
            return
        projected = 0 if self._image is None else self._image[0].shape[1]
        del self._maps[max(0, left - projected) :]
        self._image = _narrow(self._image, slice(0, min(left, projected)))

    def tensors(self) -> dict[str, Tensor]:
        """Everything kept, by name, for `restore`."""
        found = {f"text.{layer}": values for layer, values in enumerate(self._text or ())}
        found |= {f"image.{layer}": values for layer, values in enumerate(self._image or ())}
        return found | {f"maps.{index}": maps for index, maps in enumerate(self._maps)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes what `tensors` gave."""
        self._text = _in_order(_numbered(tensors, "text.")) or None
        self._image = _in_order(_numbered(tensors, "image.")) or None
        self._maps = list(_numbered(tensors, "maps."))

    def _kept(self, values: Values) -> Values:
        return _in_order(tuple(value.to(self.dtype or value.dtype) for value in values))

    def _evict(self) -> None:
        while len(self) > 1 and (self._too_many() or self._too_large()):
            self._text = _narrow(self._text, slice(1, None))
            if self._image is not None and not self.previous_only:
                self._image = _narrow(self._image, slice(1, None))
            else:
                del self._maps[0]
        if self._too_large():
            needed, bound = self.nbytes / 2**20, (self.max_bytes or 0) / 2**20
            raise GenerationError(
                f"one picture needs {needed:.1f} MiB in the feature cache, its bound is {bound:.1f} MiB; "
                "raise the bound, or keep values in bfloat16."
            )

    def _too_many(self) -> bool:
        return self.max_images is not None and len(self) > self.max_images

    def _too_large(self) -> bool:
        return self.max_bytes is not None and self.nbytes > self.max_bytes


@dataclass(frozen=True, slots=True)
class SideBySide:
    """What the caches of several documents hold, as the rows of one batch; all hold equally many pictures, in one dtype."""

    caches: Sequence[FeatureCache]

    def text_values(self) -> Values | None:
        """Values for the language model's layers, those of the documents along B; copied where there are several."""
        found = [values for cache in self.caches if (values := cache.text_values()) is not None]
        if len(found) < 2:
            return found[0] if found else None
        return tuple(_from_heads(torch.cat([_heads_first(values) for values in layer])) for layer in zip(*found, strict=True))


def _heads_first(values: Float[Tensor, "B N S H D"]) -> Float[Tensor, "B H N S D"]:
    return values.permute(0, 3, 1, 2, 4)


def _from_heads(values: Float[Tensor, "B H N S D"]) -> Float[Tensor, "B N S H D"]:
    return values.permute(0, 2, 3, 1, 4)


def _in_order(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(_from_heads(_heads_first(value).contiguous()) for value in values)


def _join(first: tuple[Tensor, ...] | None, second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if first is None:
        return second
    return tuple(_from_heads(torch.cat([_heads_first(one) for one in pair], dim=2)) for pair in zip(first, second, strict=True))


def _narrow(values: tuple[Tensor, ...] | None, kept: slice) -> tuple[Tensor, ...] | None:
    # Copied, so that the memory of those that leave is free.
    if values is None or len(range(*kept.indices(values[0].shape[1]))) == 0:
        return None
    return tuple(_from_heads(_heads_first(value)[:, :, kept].contiguous()) for value in values)


def _numbered(tensors: dict[str, Tensor], prefix: str) -> tuple[Tensor, ...]:
    names = sorted((name for name in tensors if name.startswith(prefix)), key=lambda name: int(name.removeprefix(prefix)))
    return tuple(tensors[name] for name in names)
