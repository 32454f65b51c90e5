"""Where the language model keeps the keys and values of the tokens it has read, in two forms.

`GrowingLayer` holds one document and only grows: a new token is written behind the others instead of copying all of them, a branch
shares what is there until one of the two goes on, and going back is free. `RowLayer` holds several documents side by side in
tensors of fixed shape, each at its own place: what `torch.compile` and batched decoding need.

Axes: B documents · R rows · H key-value heads · T tokens of this call · K places for tokens · D head width (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

ROOM = 256
"""Places for tokens are made in multiples of this."""

STRIDE = 32
"""A call of several documents looks at a multiple of so many places."""


def places_for(tokens: int) -> int:
    """Places to be made for so many tokens: the next multiple of `ROOM`."""
    return -(-tokens // ROOM) * ROOM


class GrowingLayer(DynamicLayer):
    """One layer of one document; `keys` and `values` are the filled part of larger buffers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._shared = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the new tokens behind the others and returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._buffers is None or self._shared or self._buffers[0].shape[-2] < after:
            self._make_room(key_states, before, after)
        assert self._buffers is not None  # made above
        keys, values = self._buffers
        keys[..., before:after, :] = key_states
        values[..., before:after, :] = value_states
        self.keys, self.values = keys[..., :after, :], values[..., :after, :]
        return self.keys, self.values

    def branch(self) -> GrowingLayer:
        """The same tokens for another continuation; nothing is copied until one of the two grows."""
        other = GrowingLayer()
        if self.parts:
            other.lazy_initialization(*self.parts)
            other.keys, other.values, other._buffers = self.keys, self.values, self._buffers
            other._shared = self._shared = True
        return other

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Keys and values; nothing before the first token."""
        return () if self.keys is None or self.values is None else (self.keys, self.values)

    @property
    def nbytes(self) -> int:
        """Memory of the buffers, in bytes."""
        return sum(buffer.nbytes for buffer in self._buffers or ())

    def _make_room(self, like: Tensor, before: int, after: int) -> None:
        shape = (*like.shape[:-2], places_for(after), like.shape[-1])
        fresh = like.new_empty(shape), like.new_empty(shape)
        if before:
            for buffer, old in zip(fresh, self.parts, strict=True):
                buffer[..., :before, :] = old
        self._buffers, self._shared = fresh, False


class GrowingCache(Cache):
    """The tokens of one document in all layers."""

    def __init__(self, layers: list[GrowingLayer] | None = None) -> None:
        if layers is None:
            super().__init__(layer_class_to_replicate=GrowingLayer)
        else:
            super().__init__(layers=list(layers))

    @property
    def growing(self) -> list[GrowingLayer]:
        """The layers."""
        return cast("list[GrowingLayer]", self.layers)

    def branch(self) -> GrowingCache:
        """See `GrowingLayer.branch`."""
        return GrowingCache([layer.branch() for layer in self.growing]) if self.layers else GrowingCache()

    def split(self, lengths: Sequence[int]) -> list[GrowingCache]:
        """The first so many tokens of each row as a document of its own; copied, except where there is one row, which has so many."""
        if len(lengths) == 1:
            return [self]
        found = []
        for row, length in enumerate(lengths):
            layers = [GrowingLayer() for _ in self.growing]
            for mine, whole in zip(layers, self.growing, strict=True):
                keys, values = (part[row : row + 1, :, :length] for part in whole.parts)
                mine.update(keys, values)
            found.append(GrowingCache(layers))
        return found

    @property
    def nbytes(self) -> int:
        """Memory of all layers, in bytes."""
        return sum(layer.nbytes for layer in self.growing)


class RowLayer(CacheLayerMixin):
    """One layer of several documents; every call writes at the places that its `RowCache` names."""

    is_compileable = True

    def __init__(self, owner: RowCache) -> None:
        super().__init__()
        self._owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.resize(self._owner.rows, self._owner.places, like=key_states)
        self.is_initialized = True

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Keys and values; nothing before the first use."""
        return () if self.keys is None or self.values is None else (self.keys, self.values)

    def resize(self, rows: int, places: int, like: Tensor) -> None:
        """Makes tensors of another size and keeps what fits; the rest is zero, since masked places are still multiplied."""
        old = self.parts
        self.keys, self.values = (like.new_zeros(rows, like.shape[1], places, like.shape[3]) for _ in range(2))
        for fresh, kept in zip(self.parts, old, strict=False):
            fresh[: kept.shape[0], :, : kept.shape[2]] = kept

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes one call's tokens at their places and returns the leading rows up to the reach."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows = key_states.shape[0]
        row, position = self._owner.row[:rows], self._owner.position[:rows]
        for part, states in zip(self.parts, (key_states, value_states), strict=True):
            # Not by `scatter_`: compiled, that copies the whole tensor twice.
            part[row, :, position] = states.transpose(1, 2)
        keys, values = (part[:rows, :, : self._owner.reach] for part in self.parts)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._owner.reach, 0

    def get_seq_length(self) -> int:
        return 0  # each row has its own length; positions and mask are always given

    def get_max_length(self) -> int:
        return self._owner.places


class RowCache(Cache):
    """The tokens of several documents in all layers, in tensors of fixed shape."""

    def __init__(self, layers: int, rows: int, places: int, *, device: torch.device) -> None:
        """
        Args:
            layers: of the language model.
            rows: documents side by side.
            places: tokens that each may have.
        """
        self.rows = rows
        self.places = places
        self.reach = places
        """Places that this call looks at, from the first; behind them no row has a token."""
        self.position: Int[Tensor, "R 1"] = torch.zeros(rows, 1, dtype=torch.long, device=device)
        """Where the token of this call stands in each row."""
        self.row: Int[Tensor, "R 1"] = torch.arange(rows, device=device)[:, None]
        self.by_layer = [RowLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.by_layer))

    @property
    def nbytes(self) -> int:
        """Memory of all layers, in bytes."""
        return sum(part.nbytes for layer in self.by_layer for part in layer.parts)

    def put(self, row: int, tokens: GrowingCache) -> None:
        """Copies a document into a row."""
        for mine, theirs in zip(self.by_layer, tokens.growing, strict=True):
            if not mine.is_initialized:
                mine.lazy_initialization(*theirs.parts)
            for part, read in zip(mine.parts, theirs.parts, strict=True):
                part[row, :, : read.shape[2]] = read[0]

    def take(self, row: int, tokens: GrowingCache, first: int, last: int) -> None:
        """Copies the tokens from `first` up to `last` of a row behind those that a document has already."""
        for mine, theirs in zip(self.by_layer, tokens.growing, strict=True):
            keys, values = (part[row : row + 1, :, first:last] for part in mine.parts)
            theirs.update(keys, values)

    def move(self, source: int, target: int, length: int) -> None:
        """Copies a row's first `length` tokens to another row."""
        for layer in self.by_layer:
            for part in layer.parts:
                part[target, :, :length] = part[source, :, :length]

    def grow(self, places: int) -> None:
        """Makes more places."""
        self.places = self.reach = places
        for layer in self.by_layer:
            if layer.is_initialized:
                layer.resize(self.rows, places, like=layer.parts[0])

    def look(self, tokens: int) -> None:
        """The next calls look at the places of so many tokens, and at a few more, so that their shape changes seldom."""
        self.reach = min(-(-tokens // STRIDE) * STRIDE, self.places)

    def mask(self, rows: int, dtype: torch.dtype) -> Float[Tensor, "R 1 1 K"]:
        """What one token per row may attend to: 0 up to its own place, the dtype's minimum behind it."""
        reached = torch.arange(self.reach, device=self.position.device) <= self.position[:rows]
        return torch.zeros(reached.shape, dtype=dtype, device=reached.device).masked_fill(~reached, torch.finfo(dtype).min)[:, None, None]
