"""The decoder's layers for one token of each row, compiled group by group: all groups that are alike share one program.

torch.compile unrolls the layers that it is given, and forty of them take it minutes. Given the layers from one that looks into the
pictures up to the next, it compiles a group once: what differs between the groups (weights, tokens, values) comes as tensors. Between
two products little is left but one kernel, which is most of a recorded token's time beside the products.

Axes: R rows · N pictures of the row with the most · S cells · H heads · K places for tokens · C value width of a head · D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mm_interleaved.generation.token_cache import RowLayer
from mm_interleaved.model.feature_cache import Values
from mm_interleaved.model.language_model import MMFSInputs, MMFSLlamaModel

TUNED: dict[str, Any] = {"coordinate_descent_tuning": True}
"""Options of torch.compile with which it also writes the products of one row itself, and measures forms of every kernel."""


@dataclass
class _Own(MMFSInputs):
    """The values of the one layer of a group; its number is not looked at, else the program would fit this group only."""

    def of(self, synchronizer: int) -> Float[Tensor, "R N S H C"]:
        return self.values[0]


class LayerGroups:
    """The language model between embedding and logits, on a `RowCache`'s layers."""

    def __init__(self, network: MMFSLlamaModel, *, tuned: bool = False) -> None:
        """
        Args:
            network: its layers are read when they run, its weights may change in place.
            tuned: with `TUNED`; compiling then takes minutes.
        """
        self._network = network
        layers = list(network.layers)
        self._bounds = list(pairwise((*network.mmfs_layers, len(layers))))
        self._groups = [tuple(layers[first:last]) for first, last in self._bounds]
        self._program = torch.compile(_through, options=TUNED if tuned else None)

    def __call__(
        self,
        hidden: Float[Tensor, "R 1 D"],
        *,
        position_ids: Int[Tensor, "R 1"],
        attention_mask: Float[Tensor, "R 1 1 K"],
        caches: Sequence[RowLayer],
        visible: Bool[Tensor, "R 1 N"],
        values: Values | None,
    ) -> Float[Tensor, "R 1 D"]:
        """Hidden states after the final norm; the tokens are written into the caches, one per layer."""
        rotary = self._network.rotary_emb(hidden, position_ids=position_ids)
        if values is None:  # every token reads the null value
            values = (hidden.new_zeros(len(hidden), 0, 0, 0, 0),) * len(self._groups)
            visible = visible[:, :, :0]
        for layers, (first, last), own in zip(self._groups, self._bounds, values, strict=True):
            hidden = self._program(layers, hidden, attention_mask, rotary, tuple(caches[first:last]), visible, own)
        return self._network.norm(hidden)


def _through(
    layers: tuple[nn.Module, ...],
    hidden: Tensor,
    attention_mask: Tensor,
    rotary: tuple[Tensor, Tensor],
    caches: tuple[RowLayer, ...],
    visible: Tensor,
    values: Tensor,
) -> Tensor:
    told = {"mmfs": _Own(visible, (values,))}  # for the first one only
    for layer, cache in zip(layers, caches, strict=True):
        # A layer's cache stands for the whole one: upstream calls nothing but `update`.
        hidden = layer(hidden, attention_mask=attention_mask, position_embeddings=rotary, past_key_values=cache, **told)
        told = {}
    return hidden
