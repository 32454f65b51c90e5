"""Resampler: learned queries read any number of tokens into a fixed number, through a Q-Former.

Source: arXiv 2401.10208; structure of BLIP-2's Q-Former without its text half (BERT layers, norms after the residual), with a
LayerNorm over each head of queries and keys where `head_norm` is set. Deviations: none; `transformers`' Q-Former is not used
because it has no head norms, no additive mask in float32 and twice the layers of modules.
Axes: B inputs · L tokens of an input · F width of a token · K queries · W width of a query · H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import initialization as init

from mm_interleaved.errors import ConfigError, ShapeError
from mm_interleaved.model.configuration import ResamplerConfig

LAYER_NORM_EPS = 1e-12
"""BERT's epsilon; of the head norms too."""

INITIAL_STD = 0.02
"""Standard deviation of queries before training, and of linear weights at `INITIAL_WIDTH`."""

INITIAL_WIDTH = 768
"""Width at which the published weights started with `INITIAL_STD`. Other widths scale it to the same variance of the outputs: at 128
with 0.02 as it is, the attention's output was a twentieth of the residual and the resampler learnt nothing in 16,000 pictures."""


class Resampler(nn.Module):
    """K learned queries that attend to themselves in every layer and to the input in every k-th one."""

    def __init__(self, config: ResamplerConfig, *, input_width: int) -> None:
        """
        Args:
            config: sizes.
            input_width: width F of the tokens that are read.

        Raises:
            ConfigError: the width is no multiple of the number of heads.
        """
        super().__init__()
        if config.width % config.heads:
            raise ConfigError(f"resampler.width {config.width} is no multiple of resampler.heads {config.heads}.")
        self.input_width = input_width
        self.queries = nn.Parameter(torch.empty(1, config.queries, config.width))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            ResamplerLayer(config, input_width=input_width if index % config.cross_attention_every == 0 else None)
            for index in range(config.layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Queries normal with standard deviation 0.02, weights too at the published width, biases 0, norms the identity."""
        init.normal_(self.queries, std=INITIAL_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init.normal_(module.weight, std=INITIAL_STD * (INITIAL_WIDTH / self.queries.shape[2]) ** 0.5)
                init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                init.ones_(module.weight)
                init.zeros_(module.bias)

    def forward(self, tokens: Float[Tensor, "B L F"], mask: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B K W"]:
        """Reads `tokens` into K vectors.

        Args:
            tokens: what is read.
            mask: False where a token is ignored; None reads all. An input without any readable token gives the mean of its values.

        Raises:
            ShapeError: the tokens have another width than configured.
        """
        if tokens.shape[-1] != self.input_width:
            raise ShapeError(f"Resampler reads tokens of width {self.input_width}, got {tuple(tokens.shape)}.")
        bias = None
        if mask is not None:
            lowest = torch.finfo(torch.float32).min
            bias = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_fill(~mask, lowest)[:, None, None, :]
        # The queries are the same for all inputs until the first cross-attention, where the batch axis broadcasts.
        state = self.dropout(self.norm(self.queries))
        for layer in self.layers:
            state = layer(state, tokens, bias)
        return state.expand(tokens.shape[0], -1, -1)


class ResamplerLayer(nn.Module):
    """Self-attention → cross-attention (where `input_width` is given) → feed-forward, each with its norm after the residual."""

    def __init__(self, config: ResamplerConfig, *, input_width: int | None) -> None:
        super().__init__()
        self.self_attention = ResamplerAttention(config, input_width=config.width)
        self.cross_attention = None if input_width is None else ResamplerAttention(config, input_width=input_width)
        self.feed_forward_in = nn.Linear(config.width, config.feed_forward_width)
        self.feed_forward_out = nn.Linear(config.feed_forward_width, config.width)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, state: Float[Tensor, "#B K W"], tokens: Float[Tensor, "B L F"], bias: Float[Tensor, "B 1 1 L"] | None
    ) -> Float[Tensor, "#B K W"]:
        state = self.self_attention(state, state, None)
        if self.cross_attention is not None:
            state = self.cross_attention(state, tokens, bias)
        change = self.feed_forward_out(F.gelu(self.feed_forward_in(state)))
        return self.feed_forward_norm(state + self.dropout(change))


class ResamplerAttention(nn.Module):
    """Multi-head attention with its output projection, residual and norm."""

    def __init__(self, config: ResamplerConfig, *, input_width: int) -> None:
        super().__init__()
        head_width = config.width // config.heads
        self.heads = config.heads
        self.scale = head_width**-0.5
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(input_width, config.width)
        self.value = nn.Linear(input_width, config.width)
        self.query_norm = nn.LayerNorm(head_width, eps=LAYER_NORM_EPS) if config.head_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(head_width, eps=LAYER_NORM_EPS) if config.head_norm else nn.Identity()
        self.output = nn.Linear(config.width, config.width)
        self.output_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, state: Float[Tensor, "#B K W"], source: Float[Tensor, "B L F"], bias: Float[Tensor, "B 1 1 L"] | None
    ) -> Float[Tensor, "B K W"]:
        query = self.query_norm(self.query(state).unflatten(-1, (self.heads, -1))).transpose(1, 2)  # B|1 H K W/H
        key = self.key_norm(self.key(source).unflatten(-1, (self.heads, -1))).transpose(1, 2)  # B H L W/H
        value = self.value(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B H L W/H
        # Plain products: with so few queries they beat fused attention on a CPU, and the batch of 1 broadcasts.
        scores = (query * self.scale) @ key.transpose(-1, -2)  # B H K L
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if bias is not None:
            scores = scores + bias
        weights = self.dropout(scores.softmax(dim=-1).to(value.dtype))
        read = (weights @ value).transpose(1, 2).flatten(2)  # B K W
        return self.output_norm(state + self.dropout(self.output(read)))
