"""The language model: upstream decoder layers that, between attention and MLP, also look into the pictures.

    h += attention(norm(h))
    h += tanh(gate) · MMFS(query_norm(h), pictures)      in every k-th layer; the gate starts at 0, so nothing changes at first
    h += MLP(norm(h))

Source: arXiv 2401.10208; release `models/decoders/modeling_llama_mmfs.py`, `models/decoders/decoder_text.py` (spec §1.3, §2.7).
Deviations: values are projected once per picture by `project_features` and handed to every later call; released code projects
them again for every token.
Axes: B rows · Q tokens of this call · N images of the fullest row · S cells of all levels of one image · F feature width ·
H heads · C value width of a head · D hidden width · V vocabulary (docs/glossary.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from mm_interleaved.errors import ConfigError, ShapeError
from mm_interleaved.model.configuration import MMFSConfig, MMInterleavedConfig
from mm_interleaved.model.mmfs import MMFS
from mm_interleaved.ops import few_rows
from mm_interleaved.ops.numbers import numbers_on

CONTROL_HEAD_FROZEN_BIAS = -100.0
"""Bias of the frozen head's rows for the control tokens: by itself it never writes one (spec §1.3)."""

CONTROL_HEAD_BIAS = 95.0
"""Initial bias of the control head; together the logit of a control token starts at -5, whatever the hidden state."""


@dataclass
class MMFSInputs:
    """What the layers need to look into the pictures of a batch."""

    visible: Bool[Tensor, "B Q N"]
    """Which images each token of this call may read; while decoding with a cache, Q = 1."""
    values: tuple[Float[Tensor, "B N S H C"], ...]
    """Projected values, one entry per layer with MMFS in order, from `MMFSLlamaModel.project_features`."""
    level_shapes: tuple[tuple[int, int], ...] | None = None
    """Real (height, width) of each level, finest first; None means the configured squares."""
    synchronized: Bool[Tensor, "B Q 1"] | None = None
    """Where the synchronizers add anything; None means everywhere. Elsewhere pictures are known through their tokens alone."""

    def of(self, synchronizer: int) -> Float[Tensor, "B N S H C"]:
        """The values of one layer with MMFS, by its place among them."""
        return self.values[synchronizer]


class FusedNorm(LlamaRMSNorm):
    """Upstream's norm in one kernel where the device has it, instead of eight; it shares the weight of the norm in whose place it stands.

    Upstream rounds once more, before it multiplies with the weight.
    """

    def __init__(self, other: LlamaRMSNorm) -> None:
        nn.Module.__init__(self)
        self.weight, self.variance_epsilon = other.weight, other.variance_epsilon

    def forward(self, hidden_states: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        if hidden_states.dtype != self.weight.dtype:
            return cast(Tensor, super().forward(hidden_states))
        return functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


def fuse_norms(module: nn.Module) -> None:
    """Puts a `FusedNorm` in the place of every norm of upstream's inside `module`: same parameters, same names."""
    for name, child in module.named_children():
        if type(child) is LlamaRMSNorm and "forward" not in vars(child):
            setattr(module, name, FusedNorm(child))
        else:
            fuse_norms(child)


class Synchronizer(nn.Module):
    """MMFS inside a decoder layer: norms around it and a gate behind it.

    The reference point is always the centre of the picture; where to look is up to the learned offsets.
    """

    def __init__(self, config: MMFSConfig, *, width: int, feature_width: int) -> None:
        super().__init__()
        self.query_norm = LlamaRMSNorm(width, eps=config.eps)
        self.feature_norm = LlamaRMSNorm(feature_width, eps=config.eps)
        self.mmfs = MMFS(config, query_width=width, feature_width=feature_width)
        self.gate = nn.Parameter(torch.zeros(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Closes the gate, so that the layer equals the upstream one; norms start at 1 and MMFS resets itself."""
        init.ones_(self.query_norm.weight)
        init.ones_(self.feature_norm.weight)
        init.zeros_(self.gate)
        self.mmfs.reset_parameters()

    def project(self, features: Float[Tensor, "B N S F"]) -> Float[Tensor, "B N S H C"]:
        """Normalises and projects picture features to values, once per picture."""
        return self.mmfs.project(self.feature_norm(features.to(self.gate.dtype)))

    def forward(
        self,
        hidden: Float[Tensor, "B Q D"],
        values: Float[Tensor, "B N S H C"],
        visible: Bool[Tensor, "B Q N"],
        level_shapes: tuple[tuple[int, int], ...] | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """What is added to the hidden states; in their dtype, computed in this module's own (frozen layers may be bfloat16)."""
        query = self.query_norm(hidden.to(self.gate.dtype))
        centre = torch.full((1, query.shape[1], 2), 0.5, dtype=torch.promote_types(query.dtype, torch.float32), device=query.device)
        # Kept values may have fewer bits (`FeatureCache`); converting all of them for a few samples would cost more than it saves.
        values = values.to(query.dtype) if torch.is_grad_enabled() else values
        seen = self.mmfs(query, centre, values, visible, level_shapes)
        return (self.gate.tanh() * seen).to(hidden.dtype)


class _SynchronizedLayer(nn.Module):
    """The shared body of every layer family whose layer is attention, MLP and one norm before each.

    Mixed in before an upstream layer class, which builds `self_attn`, `mlp`, `input_layernorm` and `post_attention_layernorm`.
    """

    synchronizer: Synchronizer
    synchronizer_index: int

    def __init__(self, config: LlamaConfig, layer_idx: int, *, mmfs: MMFSConfig, feature_width: int, synchronizer_index: int) -> None:
        super().__init__(config, layer_idx)  # type: ignore[call-arg]  # the upstream layer, next in line
        self.synchronizer_index = synchronizer_index
        self.synchronizer = Synchronizer(mmfs, width=config.hidden_size, feature_width=feature_width)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        mmfs: MMFSInputs | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Like the upstream layer, with the pictures between attention and MLP; without pictures exactly the upstream layer."""
        attended, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        hidden_states = hidden_states + attended
        if mmfs is not None:
            values = mmfs.of(self.synchronizer_index)
            seen = self.synchronizer(hidden_states, values, mmfs.visible, mmfs.level_shapes)
            hidden_states = hidden_states + (seen if mmfs.synchronized is None else seen * mmfs.synchronized)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class MMFSDecoderLayer(_SynchronizedLayer, LlamaDecoderLayer):
    """A Llama layer that also looks into the pictures."""


LAYER_FAMILIES: dict[str, type[_SynchronizedLayer]] = {"llama": MMFSDecoderLayer}
"""Layer with MMFS by `model_type` of the text config. A family fits if its layer is attention, MLP and one norm before each
(Mistral, Qwen2, Qwen3 are); each entry is tested to equal its upstream layer while the gate is closed."""


class MMFSLlamaModel(LlamaModel):
    """Upstream's decoder whose layers 0, k, 2k, … also look into the pictures.

    Calling it: as upstream, with `mmfs=` in addition, which reaches the layers; None leaves the pictures out. An attention mask of
    four axes (B 1 Q K, additive, causal part included) is taken as it is: this is how packed documents are kept apart.

    `project_features` is a second entry point besides `forward`: sharding engines must be told of it, and of
    `Synchronizer.project`, which it calls (`register_fsdp_forward_method`).

    Args:
        config: upstream's configuration; `vocab_size` counts the control tokens.
        mmfs: fields of the synchronizers, and in which layers they stand.
        feature_width: channels of the picture features.
    """

    _no_split_modules = ["LlamaDecoderLayer", *(layer.__name__ for layer in LAYER_FAMILIES.values())]

    def __init__(self, config: LlamaConfig, mmfs: MMFSConfig, *, feature_width: int) -> None:
        if config.model_type not in LAYER_FAMILIES:
            raise ConfigError(
                f"the language model family '{config.model_type}' has no layer with MMFS; there are: {', '.join(LAYER_FAMILIES)}."
            )
        super().__init__(config)
        layer_class = LAYER_FAMILIES[config.model_type]
        self.mmfs_layers = tuple(range(0, config.num_hidden_layers, mmfs.every))
        for index, layer in enumerate(self.mmfs_layers):
            self.layers[layer] = layer_class(config, layer, mmfs=mmfs, feature_width=feature_width, synchronizer_index=index)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Upstream draws every Linear from N(0, .02) after construction, which would undo the synchronizers' own start.
        if isinstance(module, (Synchronizer, MMFS)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def project_features(self, features: Float[Tensor, "B N S F"]) -> tuple[Float[Tensor, "B N S H C"], ...]:
        """Projects picture features to the values of each layer with MMFS, once per picture.

        Args:
            features: levels concatenated finest first, each row-major; slots of missing images may hold anything finite.

        Raises:
            ShapeError: the features have another width than the synchronizers were built for.
        """
        synchronizers = [cast("Synchronizer", self.layers[layer].synchronizer) for layer in self.mmfs_layers]
        width = synchronizers[0].feature_norm.weight.shape[0]
        if features.shape[-1] != width:
            raise ShapeError(
                f"picture features are {features.shape[-1]} wide, the language model reads {width}; use the maps of its own tokenizer."
            )
        return tuple(synchronizer.project(features) for synchronizer in synchronizers)


class TextHead(nn.Module):
    """Hidden states → logits over the vocabulary, the two control tokens included.

    Three forms, by the configuration:

    - one Linear without bias (new training);
    - tied: no weights of its own, the embedding table is handed in with each call (`text_config.tie_word_embeddings`);
    - `Behaviour.separate_control_head`: a small trained head for the two control tokens, so that the text of a frozen head stays
      as it was. It is *added* to a frozen head with bias (as published), or *replaces* the two columns of a tied one, whose
      rows for the control tokens are embeddings and cannot be blank.
    """

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        text = config.text_config
        self.control_token_ids = (config.begin_image_token_id, config.image_token_id)
        self.initializer_range = text.initializer_range
        self.tied: bool = bool(text.tie_word_embeddings)
        separate = config.behaviour_part.separate_control_head
        if separate and not all(0 <= token < text.vocab_size for token in self.control_token_ids):
            raise ConfigError(
                f"the control tokens {self.control_token_ids} do not lie in the vocabulary of {text.vocab_size}; vocab_size counts them."
            )
        self.head = None if self.tied else nn.Linear(text.hidden_size, text.vocab_size, bias=separate)
        self.control_head = nn.Linear(text.hidden_size, len(self.control_token_ids)) if separate else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """With a control head, both control tokens start with the logit -5 whatever the hidden state (spec §1.3)."""
        if self.head is not None:
            init.normal_(self.head.weight, std=self.initializer_range)
        if self.head is not None and self.head.bias is not None:
            weight, bias = self.head.weight.detach().clone(), torch.zeros_like(self.head.bias)
            weight[list(self.control_token_ids)] = 0.0
            bias[list(self.control_token_ids)] = CONTROL_HEAD_FROZEN_BIAS
            init.copy_(self.head.weight, weight)
            init.copy_(self.head.bias, bias)
        if self.control_head is not None:
            init.zeros_(self.control_head.weight)
            init.constant_(self.control_head.bias, CONTROL_HEAD_BIAS + (CONTROL_HEAD_FROZEN_BIAS if self.head is None else 0.0))

    def forward(self, hidden: Float[Tensor, "... D"], embedding: Float[Tensor, "V D"] | None = None) -> Float[Tensor, "... V"]:
        """Gives one logit per vocabulary entry.

        Args:
            embedding: the embedding table; needed by a tied head, ignored otherwise.

        Raises:
            ShapeError: a tied head was called without the embedding table.
        """
        if self.head is not None:
            logits = self.head(hidden)
        elif embedding is None:
            raise ShapeError("the text head is tied to the embedding; hand in language_model.embed_tokens.weight.")
        else:
            logits = few_rows.linear(hidden, embedding)
        if self.control_head is None:
            return logits
        control = self.control_head(hidden)
        # Not in place: `logits` is a view, whose gradient would then be copied six times; it is the largest tensor of a step.
        columns, control = numbers_on(logits.device, self.control_token_ids, torch.long), control.to(logits.dtype)
        return logits.index_copy(-1, columns, control) if self.head is None else logits.index_add(-1, columns, control)
