"""MMFS: each query samples a few learned points from the multi-scale features of every image it may see.

Source: arXiv 2401.10208 (Multi-Modal Feature Synchronizer); release `models/utils/ops/modules/mmfs.py`. Deviations: none in
numbers. The exact cheaper form is used throughout: the query is projected once instead of once per image, the recency embedding
goes through the two small projections as a table (its row of invisible images holds the mask), with many queries the two projections
are multiplied first, levels share their points, values are projected once per image by `project` and reused by the caller, and the
attention sink is a single zero logit per head.
Axes: B rows · Q queries · N images · S cells of all levels of one image · F feature width · D query width · H heads ·
L levels · P points (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mm_interleaved.errors import ShapeError
from mm_interleaved.model.configuration import MMFSConfig
from mm_interleaved.ops import few_rows
from mm_interleaved.ops.deformable import Backend, compiled, deformable_attention
from mm_interleaved.ops.numbers import numbers_on


def recency(visible: Bool[Tensor, "B Q N"]) -> Int[Tensor, "B Q N"]:
    """Counts visible images backwards: 1 for the most recent one, 2 for the one before; 0 for images that are not visible."""
    counted = visible.long()
    return counted * counted.flip(-1).cumsum(-1).flip(-1)


@dataclass(frozen=True, slots=True)
class _Recent:
    """What ranks add to offsets and logits; `factors` are exponentials of the latter."""

    offsets: Float[Tensor, "R H P 2"]
    factors: Float[Tensor, "R H LP"]
    largest_logit: float


def _once_for_all(visible: Bool[Tensor, "B Q N"]) -> Bool[Tensor, "B Q1 N"]:
    # Expanded: every query sees the same images, one row of ranks stands for all.
    return visible[:, :1] if visible.stride(1) == 0 else visible


class MMFS(nn.Module):
    """Deformable attention over all visible images with an attention sink.

    In one forward pass: (1) every query gets sampling offsets and logits for each image, shifted by the image's recency;
    (2) all levels are sampled at the same place of the picture; (3) one softmax runs over images × levels × points and a sink
    whose logit is 0; (4) the weighted samples, plus the sink's share of the null value, are projected back.
    """

    def __init__(self, config: MMFSConfig, *, query_width: int, feature_width: int) -> None:
        super().__init__()
        if config.value_width % config.heads:
            raise ShapeError(f"MMFS: value_width {config.value_width} is not a multiple of heads {config.heads}.")
        if config.base_side is None:
            raise ShapeError("MMFS: base_side must be a number here; the image decoder fills in its grid side.")
        self.config = config
        levels, heads, points = len(config.level_sides), config.heads, config.points
        self.query_projection = nn.Linear(query_width, query_width)
        self.offsets = nn.Linear(query_width, heads * points * 2)
        # The last logit of each level is never read; the published weights have it (spec §2.5).
        self.attention_weights = nn.Linear(query_width, heads * levels * (points + 1))
        self.value_projection = nn.Linear(feature_width, config.value_width)
        self.output_projection = nn.Linear(config.value_width, query_width)
        self.recency = nn.Embedding(config.max_images, query_width)
        self.null_value = nn.Parameter(torch.zeros(config.value_width))
        self._recent_kept: tuple[torch.dtype, list[Any], _Recent, list[Tensor]] | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every image and level starts with the same random points and even logits (spec §2.8)."""
        for linear in (self.query_projection, self.attention_weights):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.offsets.weight)
        nn.init.uniform_(self.offsets.bias, -self.config.offset_init, self.config.offset_init)
        for linear in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.trunc_normal_(self.recency.weight, std=0.02)
        nn.init.zeros_(self.null_value)

    def project(self, features: Float[Tensor, "B N S F"], padding: Bool[Tensor, "B N S"] | None = None) -> Float[Tensor, "B N S H D"]:
        """Projects image features to values, once per image; the result may be kept for every later query.

        Args:
            features: levels concatenated finest first, each row-major.
            padding: True at cells that hold no picture; they count as zero.
        """
        values = self.value_projection(features)
        if padding is not None:
            values = values.masked_fill(padding[..., None], 0.0)
        return rearrange(values, "B N S (H D) -> B N S H D", H=self.config.heads)

    def forward(
        self,
        query: Float[Tensor, "B Q D"],
        reference_xy: Float[Tensor, "*any xy"],
        values: Float[Tensor, "B N S H Dh"],
        visible: Bool[Tensor, "B Q N"],
        level_shapes: Sequence[tuple[int, int]] | None = None,
        *,
        backend: Backend = "auto",
    ) -> Float[Tensor, "B Q D"]:
        """Reads image features at learned offsets around each query's reference point.

        Args:
            reference_xy: `1|B Q 2`, or `1|B Q G 2|4` with G = 1 or N·L: fractions of width and height, (0, 0) is the top-left
                corner, (1, 1) the bottom-right; four numbers are boxes (centre x, centre y, width, height) that scale the offsets.
            values: from `project`; with N = 0 every query receives the null value.
            visible: True where the query may read the image; a query that sees none receives the null value.
            level_shapes: real (height, width) of each level; None means the configured squares.
            backend: of the deformable attention; `reference` also adds the recency embedding in the published order, which
                differs by float32 rounding only (a point that sits on a cell border may fall to its other side).

        Raises:
            ShapeError: the cells of one image are not the sum of the levels' areas.
        """
        null = rearrange(self.null_value, "(H D) -> H D", H=self.config.heads)
        if values.shape[1] == 0:  # no picture at all: every query gives its whole weight to the sink
            return self.output_projection(self.null_value.expand(*query.shape[:2], -1).to(query.dtype))
        shapes = self._shapes(level_shapes)
        images, cells = values.shape[1:3]
        if cells != sum(height * width for height, width in shapes):
            raise ShapeError(f"MMFS: one image has {cells} cells, the levels {tuple(shapes)} have {sum(h * w for h, w in shapes)}.")
        if backend in ("auto", "compiled") and self._at_once(query, reference_xy, values):
            read = self._read(query, reference_xy, values, visible, shapes)
            if read is not None:
                return self.output_projection(rearrange(read, "B Q H D -> B Q (H D)").to(query.dtype))
        locations, weights, sink = self.attend(query, reference_xy, visible, level_shapes, literal=backend == "reference")
        sampled = deformable_attention(
            values.flatten(1, 2),
            list(shapes) * images,
            locations.flatten(3, 4),
            weights.flatten(3, 4),
            backend=backend,
        )
        joined = sampled + (sink[..., None] * null).to(sampled.dtype)
        return self.output_projection(rearrange(joined, "B Q H D -> B Q (H D)").to(query.dtype))

    def attend(
        self,
        query: Float[Tensor, "B Q D"],
        reference_xy: Float[Tensor, "*any xy"],
        visible: Bool[Tensor, "B Q N"],
        level_shapes: Sequence[tuple[int, int]] | None = None,
        *,
        literal: bool = False,
    ) -> tuple[Float[Tensor, "B Q H N L1 P 2"], Float[Tensor, "B Q H N L P"], Float[Tensor, "B Q H"]]:
        """Where each query looks, how much each sample weighs, and the weight of the sink; in float32 or finer.

        The levels' axis of the places is 1 where all levels are read at the same place of the picture, else L.
        """
        images = visible.shape[-1]
        offsets, logits = (self._literal if literal else self._offsets_and_logits)(query, visible)
        joint = functional.pad(logits.flatten(3), (0, 1)).softmax(dim=-1)  # the sink's logit is 0
        weights = joint[..., :-1].unflatten(-1, logits.shape[3:])

        scale = self._offset_scale(self._shapes(level_shapes), offsets)  # 1|L 1 xy
        reference = reference_xy if reference_xy.dim() == 4 else reference_xy[:, :, None, :]
        if reference.shape[2] == 1:
            reference = reference[:, :, None, None, :, None, :]  # B Q H N L P
        else:
            reference = rearrange(reference, "B Q (N L) r -> B Q 1 N L 1 r", N=images)
        if reference.shape[-1] == 4:
            # As in Deformable DETR, offsets of a box are shares of half its size, spread over the points.
            sides = numbers_on(scale.device, [(width, height) for height, width in self._shapes(level_shapes)], scale.dtype)[:, None, :]
            scale = scale * sides * (0.5 / self.config.points) * reference[..., 2:]
        return reference[..., :2].to(offsets.dtype) + offsets[:, :, :, :, None] * scale, weights, joint[..., -1]

    def _literal(self, query: Tensor, visible: Tensor) -> tuple[Float[Tensor, "B Q H N P 2"], Float[Tensor, "B Q H N L P"]]:
        """Offsets and logits in the published order of operations, with each projection called as a module."""
        projected = self.query_projection(query)
        shifted = projected[:, :, None] + self.recency(recency(visible)).to(projected.dtype)
        numeric = torch.promote_types(shifted.dtype, torch.float32)
        offsets, logits = self.offsets(shifted).to(numeric), self._read_logits(self.attention_weights(shifted)).to(numeric)
        offsets, logits = self._by_head(offsets, logits)
        return offsets, logits.masked_fill(~visible[:, :, None, :, None, None], float("-inf"))

    def _offsets_and_logits(self, query: Tensor, visible: Tensor) -> tuple[Float[Tensor, "B Q H N P 2"], Float[Tensor, "B Q H N L P"]]:
        """The same, exactly but for rounding: (W z + b) per query plus a row of W E per image is W (z + E[rank]) + b (spec §2.10)."""
        if not self._plain():
            return self._literal(query, visible)
        per_query, per_rank = self._summands(query, visible.shape[2])
        numeric = torch.promote_types(query.dtype, torch.float32)
        hidden_row = functional.pad(per_rank[1][1:].to(numeric), (0, 0, 1, 0), value=float("-inf"))  # rank 0: not visible
        ranks = recency(_once_for_all(visible))
        summed = (
            pair[0].to(numeric)[:, :, None] + functional.embedding(ranks, pair[1])
            for pair in ((per_query[0], per_rank[0].to(numeric)), (per_query[1], hidden_row))
        )
        return self._by_head(*summed)

    def _plain(self) -> bool:
        # Else an adapter or a quantised weight: only the module knows its product.
        linears = (self.query_projection, self.offsets, self.attention_weights)
        return all(
            type(linear) in (nn.Linear, few_rows.FewRowsLinear) and type(linear.weight) in (nn.Parameter, Tensor) for linear in linears
        )

    def _summands(self, query: Tensor, images: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """`_per_query` and `_per_rank`; with few queries from the same products, so that each weight is read once."""
        if not self._few(query):
            return self._per_query(query), self._per_rank(images, query.dtype)
        rows = torch.cat([self.query_projection(query).flatten(0, 1), self.recency.weight[: images + 1].to(query.dtype)])
        offsets, logits = (few_rows.linear(rows, part.weight) for part in (self.offsets, self.attention_weights))
        own, ranks = zip(*(part.tensor_split([query.shape[:2].numel()]) for part in (offsets, logits)), strict=True)
        per_query = (
            own[0].unflatten(0, query.shape[:2]) + self.offsets.bias,
            self._read_logits(own[1].unflatten(0, query.shape[:2]) + self.attention_weights.bias),
        )
        return per_query, (ranks[0], self._read_logits(ranks[1]))

    def _few(self, query: Tensor) -> bool:
        # Else one product of the small projections costs less than two for each query.
        return query.shape[:2].numel() <= self.offsets.out_features + self.attention_weights.out_features

    def _per_query(self, query: Tensor) -> tuple[Float[Tensor, "B Q HP2"], Float[Tensor, "B Q HLP"]]:
        """Offsets of each query, and the logits that are read."""
        offsets, logits = self.offsets, self.attention_weights
        if self._few(query):
            projected = self.query_projection(query)
            return offsets(projected), self._read_logits(logits(projected))
        # Many queries: W_S W_D costs less than W_D z for each of them, and so does leaving out the logits that are never read.
        used = self._read_logits(logits.weight.T).T
        rows, shift = torch.cat([offsets.weight, used]), torch.cat([offsets.bias, self._read_logits(logits.bias)])
        both = functional.linear(query, rows @ self.query_projection.weight, rows @ self.query_projection.bias + shift)
        found, read = both.split([offsets.out_features, len(used)], dim=-1)
        return found, read

    def _per_rank(self, images: int, dtype: torch.dtype) -> tuple[Float[Tensor, "R HP2"], Float[Tensor, "R HLP"]]:
        """What an image's rank adds to both; rows of up to so many images, since no rank is larger."""
        table = self.recency.weight[: images + 1].to(dtype)
        return functional.linear(table, self.offsets.weight), self._read_logits(functional.linear(table, self.attention_weights.weight))

    def _recent(self, dtype: torch.dtype) -> _Recent:
        """The same for all ranks as the compiled loop takes it: computed once for as long as no weight changes."""
        weights = (self.recency.weight, self.offsets.weight, self.attention_weights.weight)
        state = [(weight.data_ptr(), weight.dtype, weight._version) for weight in weights]
        if self._recent_kept is None or self._recent_kept[:2] != (dtype, state):
            offsets, logits = (part.to(torch.promote_types(dtype, torch.float32)) for part in self._per_rank(self.config.max_images, dtype))
            recent = _Recent(
                rearrange(offsets, "R (H P xy) -> R H P xy", H=self.config.heads, xy=2),
                rearrange(logits.exp(), "R (H LP) -> R H LP", H=self.config.heads),
                float(logits.abs().amax()),
            )
            # The weights' storage is held, so that no other can come to lie at its address.
            self._recent_kept = (dtype, state, recent, [weight.detach() for weight in weights])
        return self._recent_kept[2]

    def _at_once(self, query: Tensor, reference_xy: Tensor, values: Tensor) -> bool:
        """Whether `_read` may be tried."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or query.device.type != "cpu" or query.shape[1] == 0:
            return False
        return reference_xy.dim() == 3 and compiled.unsupported(values) is None and self._plain()

    def _read(
        self, query: Tensor, reference_xy: Tensor, values: Tensor, visible: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "B Q H D"] | None:
        """What `attend`, sampling and the sink give, in one compiled loop; None where its arithmetic would not do."""
        scale, recent = self._offset_scale(shapes, reference_xy), self._recent(query.dtype)
        if len(scale) > 1 or recent.largest_logit > compiled.MOST_RECENT_LOGIT:
            return None
        offsets, logits = self._per_query(query)
        heads = self.config.heads
        return compiled.read(
            values,
            shapes,
            rearrange(offsets, "B Q (H P xy) -> B Q H P xy", H=heads, xy=2),
            rearrange(logits, "B Q (H LP) -> B Q H LP", H=heads),
            recent.offsets,
            recent.factors,
            recency(_once_for_all(visible)),
            reference_xy,
            scale[0, 0],
            rearrange(self.null_value, "(H D) -> H D", H=heads),
        )

    def _read_logits(self, logits: Float[Tensor, "*any HLP1"]) -> Float[Tensor, "*any HLP"]:
        """Leaves out the last logit of each level, which nothing reads."""
        return logits.unflatten(-1, (-1, self.config.points + 1))[..., :-1].flatten(-2)

    def _by_head(self, offsets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        heads, levels = self.config.heads, len(self.config.level_sides)
        offsets = rearrange(offsets, "B Q N (H P xy) -> B Q H N P xy", H=heads, xy=2)
        return offsets, rearrange(logits, "B Q N (H L P) -> B Q H N L P", H=heads, L=levels)

    def _shapes(self, level_shapes: Sequence[tuple[int, int]] | None) -> Sequence[tuple[int, int]]:
        return level_shapes if level_shapes is not None else [(side, side) for side in self.config.level_sides]

    def _offset_scale(self, shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        # One unit of offset is 1/base_side of the picture while the maps have their configured sides.
        base = self.config.base_side or 1
        ratios = [
            (side / width / base, side / height / base)  # equal for all levels of one scale, to the last bit
            for side, (height, width) in zip(self.config.level_sides, shapes, strict=True)
        ]
        distinct = ratios[:1] if len(set(ratios)) == 1 else ratios
        return numbers_on(like.device, distinct, like.dtype)[:, None, :]
