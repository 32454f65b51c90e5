"""Documents that write words together: one pass of the language model for a token of each, in tensors of fixed shape.

A document joins with what it has read (its token cache and its pictures' values are copied into a row), stays while it writes, and
takes its new tokens along when it leaves. Its own state is untouched until then, so that a pass that fails loses nothing. Rows in use
stand in front; with `compiled`, `grouped` or `recorded`, passes always have all rows, so that their shape never changes. Whatever
differs from token to token is written into tensors that stay where they are.

Axes: R rows · V vocabulary · N pictures of the row with the most · S cells · H heads · D head width (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mm_interleaved.generation.groups import LayerGroups
from mm_interleaved.generation.recording import record
from mm_interleaved.generation.state import DocumentState, context_limit
from mm_interleaved.generation.token_cache import RowCache, places_for
from mm_interleaved.model.feature_cache import Values
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration


@dataclass(slots=True)
class _Row:
    state: DocumentState
    joined_at: int
    hidden: list[Tensor] = field(default_factory=list)


class TextRows:
    """Up to `rows` documents side by side."""

    def __init__(
        self,
        model: MMInterleavedForConditionalGeneration,
        rows: int,
        *,
        compiled: bool = False,
        grouped: bool = False,
        tuned: bool = False,
        recorded: bool = False,
    ) -> None:
        """
        Args:
            rows: documents that may write together.
            compiled: run the pass through torch.compile; it pays where very many tokens are written.
            grouped: run the layers through torch.compile, group by group (`LayerGroups`): nearly the same kernels for a tenth of the
                compiling. The first token waits for it, and so may the first after other sizes.
            tuned: with `grouped`, let torch.compile also write and measure the products; it takes minutes.
            recorded: record the pass as a CUDA graph, anew whenever a longer document or one with more pictures joins; then starting
                the kernels of a token costs nothing.
        """
        self.model = model
        self.rows = rows
        self._fixed = compiled or grouped or recorded
        self._cache = RowCache(model.config.text_config.num_hidden_layers, rows, 0, device=model.device)
        self._values: Values | None = None  # R N S H D for each synchronizer
        self._visible: Bool[Tensor, "R 1 N"] = torch.zeros(rows, 1, 0, dtype=torch.bool, device=model.device)
        self._tokens: Int[Tensor, "R 1"] = torch.zeros(rows, 1, dtype=torch.long, device=model.device)
        self._members: list[_Row] = []
        self._pass: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = self._read
        self._groups = LayerGroups(model.language_model, tuned=tuned) if grouped else None
        if compiled:
            self._pass = torch.compile(self._read, dynamic=False, fullgraph=True)
        self._recorded = recorded
        self._replay: Callable[[], tuple[Tensor, ...]] | None = None  # of the tensors as they are now

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, state: DocumentState) -> bool:
        return any(member.state is state for member in self._members)

    @property
    def nbytes(self) -> int:
        """Memory of the rows, in bytes, beside that of the documents themselves."""
        return self._cache.nbytes + sum(values.nbytes for values in self._values or ())

    def text_values(self) -> Values | None:
        """What the synchronizers of the language model read: `FeatureCache.text_values` of the rows of this pass."""
        return None if self._values is None else tuple(values[: self._width] for values in self._values)

    def gather(self, states: Sequence[DocumentState]) -> None:
        """Sees to it that exactly these documents are here, at most `rows`."""
        for member in list(self._members):
            if not any(member.state is state for state in states):
                self.leave(member.state)
        for state in states:
            if state not in self:
                self._join(state)

    @torch.no_grad()
    def leave(self, state: DocumentState) -> None:
        """A document takes what it has written along and frees its row; nothing happens if it is not here."""
        row = next((row for row, member in enumerate(self._members) if member.state is state), None)
        if row is None:
            return
        member = self._members[row]
        try:
            if member.hidden:
                self._cache.take(row, state.tokens, member.joined_at, member.joined_at + len(member.hidden))
                state.absorb(member.hidden)
        finally:
            self._free(row)

    @torch.no_grad()
    def read(self, states: Sequence[DocumentState], tokens: Sequence[int]) -> None:
        """Reads one more token of each document that is here.

        Args:
            states: all documents that are here, in any order.
            tokens: of each.
        """
        place = {id(member.state): row for row, member in enumerate(self._members)}
        order = [place[id(state)] for state in states]
        longest = max(member.state.position for member in self._members) + 1
        self._make_room(longest)
        self._cache.look(self._cache.places if self._fixed else longest)
        ids, positions = [0] * self._width, [0] * self._width
        for row, state, token in zip(order, states, tokens, strict=True):
            ids[row], positions[row] = token, state.position
        self._cache.position[: self._width, 0].copy_(torch.tensor(positions), non_blocking=True)
        self._tokens[: self._width, 0].copy_(torch.tensor(ids), non_blocking=True)
        hidden, logits = self._run()
        for row, member in enumerate(self._members):
            member.hidden.append(hidden[row : row + 1])
            member.state.note(logits[row])

    @torch.no_grad()
    def _join(self, state: DocumentState) -> None:
        row = len(self._members)
        self._make_room(state.position + 1)
        self._cache.put(row, state.tokens)
        self._put_values(row, state.features.text_values())
        self._members.append(_Row(state, state.position))

    def _free(self, row: int) -> None:
        last = len(self._members) - 1
        if row != last:
            self._cache.move(last, row, self._members[last].state.position)
            for values in self._values or ():
                values[row] = values[last]
            self._visible[row] = self._visible[last]
            self._members[row] = self._members[last]
        self._visible[last] = False
        self._members.pop()

    @property
    def _width(self) -> int:
        return self.rows if self._fixed else len(self._members)

    def _run(self) -> tuple[Tensor, ...]:
        inputs = self._tokens[: self._width], self._visible[: self._width]
        if not self._recorded:
            return self._pass(*inputs)
        if self._replay is None:
            self._replay = record(lambda: self._pass(*inputs), self.model.device)
        return self._replay()

    def _read(self, tokens: Int[Tensor, "R 1"], visible: Bool[Tensor, "R 1 N"]) -> tuple[Float[Tensor, "R 1 D"], Float[Tensor, "R V"]]:
        embeddings, position = self.model.embed(tokens), self._cache.position[: tokens.shape[0]]
        mask = self._cache.mask(tokens.shape[0], self.model.dtype)
        if self._groups is None:
            hidden = self.model.read(
                embeddings, visible=visible, cache=self, past_key_values=self._cache, position_ids=position, attention_mask=mask
            )
        else:
            hidden = self._groups(
                embeddings,
                position_ids=position,
                attention_mask=mask,
                caches=self._cache.by_layer,
                visible=visible,
                values=self.text_values(),
            )
        return hidden, self.model.logits(hidden)[:, 0]

    def _make_room(self, tokens: int) -> None:
        if tokens > self._cache.places:
            self._cache.grow(min(places_for(tokens), context_limit(self.model.config)))
            self._replay = None

    def _put_values(self, row: int, values: Values | None) -> None:
        count = 0 if values is None else values[0].shape[1]
        room = self._visible.shape[2]
        if values is not None and count > room:
            old, self._values = self._values, tuple(value.new_zeros(self.rows, count, *value.shape[2:]) for value in values)
            for fresh, kept in zip(self._values, old or (), strict=False):
                fresh[:, :room] = kept
            self._visible = torch.cat([self._visible, self._visible.new_zeros(self.rows, 1, count - room)], dim=2)
            self._replay = None
        self._visible[row] = False
        self._visible[row, :, :count] = True
        for target, value in zip(self._values or (), values or (), strict=False):
            target[row, :count] = value[0]
