"""How much memory a model takes, counted on a model without numbers before anything is loaded.

Only weights and what training keeps beside them are counted: activations come on top, and the cache of keys and values is given per
document. Quantised plans hold the Linear weights of the language model's own layers in few bits (`quantized.quantization`); everything
else — embeddings, head, MMFS, image decoder, visual tokenizer — stays in bfloat16, because it is trained or small.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mm_interleaved.checkpoint.placement import waits
from mm_interleaved.checkpoint.quantized import INT4_BLOCK, INT4_SCALE_BLOCK, INT8_SCALE_BYTES
from mm_interleaved.errors import ConfigError
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.name_patterns import is_chosen

Format = Literal["fp32", "bf16", "int8", "int4"]
FORMATS: tuple[Format, ...] = ("fp32", "bf16", "int8", "int4")

TRAINING_BYTES = 16
"""Of one trained number: weight, gradient and AdamW's two averages, all float32."""

FROZEN_BYTES = 2
"""Of one frozen number while training: bfloat16."""

TRAINED = (
    "visual_tokenizer.*",
    "!visual_tokenizer.encoder.embeddings.*",
    "!visual_tokenizer.encoder.pre_layrnorm.*",
    "!visual_tokenizer.encoder.encoder.*",
    "language_model.layers.*.synchronizer.*",
    "text_head.control_head.*",
    "image_decoder.*",
    "!image_decoder.vae.*",
    "!image_decoder.unet.*.mmfs.null_value",
    "context_projection.*",
    "begin_image_embedding",
)
"""What the published training trains, as patterns of a recipe's `trainable` (spec §1.5); everything else is frozen."""

PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("visual tokenizer: vision transformer", ("visual_tokenizer.encoder.e", "visual_tokenizer.encoder.pre_layrnorm.")),
    ("visual tokenizer: adapter, resampler", ("visual_tokenizer.",)),
    ("language model: embeddings, norm", ("language_model.embed_tokens.", "language_model.norm.")),
    ("language model: MMFS", ("language_model.layers.*.synchronizer.",)),
    ("language model: layers", ("language_model.",)),
    ("text head", ("text_head.",)),
    ("image decoder: autoencoder", ("image_decoder.vae.",)),
    ("image decoder: MMFS", ("image_decoder.unet.skip_synchronizers.", "image_decoder.unet.middle_synchronizer.")),
    ("image decoder: UNet", ("image_decoder.unet.",)),
    ("image decoder: resampler", ("image_decoder.",)),
    ("projection, begin-of-image", ("",)),
)
"""Name of each part and beginnings of its names; the first that fits counts."""


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """One line of the plan."""

    name: str
    elements: int
    """Numbers, buffers included."""
    trained: int
    """Those of them that the published training trains."""
    bytes: dict[Format, int]
    """Memory of the weights in each format."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory of one model."""

    parts: tuple[PartSize, ...]
    devices: int
    """Devices that FSDP shards over."""
    largest_unit: dict[Format, int]
    """Largest block that FSDP gathers as a whole, beside a device's share."""
    staying: dict[Format, int]
    """What stays on the device while the language model's layers wait on the CPU, and the largest weight that is brought there."""
    key_value_bytes: int
    """Keys and values of one document of full length, in bfloat16."""

    @property
    def elements(self) -> int:
        return sum(part.elements for part in self.parts)

    @property
    def trained(self) -> int:
        return sum(part.trained for part in self.parts)

    def total(self, form: Format) -> int:
        """Bytes of all weights."""
        return sum(part.bytes[form] for part in self.parts)

    def offloaded(self, form: Format) -> int | None:
        """Bytes on the device with `placement.offload_map`; None in few bits, which cannot wait elsewhere."""
        return self.staying[form] if form in ("fp32", "bf16") else None

    def sharded(self, form: Format) -> int:
        """Bytes on each of `devices` with FSDP, without training: its share, one block as a whole, and the next one."""
        if self.devices == 1:
            return self.total(form)
        return -(-self.total(form) // self.devices) + 2 * self.largest_unit[form]

    def training(self) -> int:
        """Bytes on each of `devices` in training with FSDP: frozen in bfloat16, trained in float32 with AdamW; no activations."""
        whole = self.trained * TRAINING_BYTES + (self.elements - self.trained) * FROZEN_BYTES
        return whole if self.devices == 1 else -(-whole // self.devices) + 2 * self.largest_unit["fp32"]


def plan_memory(config: MMInterleavedConfig, *, devices: int = 1) -> MemoryPlan:
    """Counts the memory of a model from its configuration.

    Args:
        devices: over how many FSDP shards.

    Raises:
        ConfigError: no device, or sizes that do not fit each other.
    """
    from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration

    with torch.device("meta"):
        model = MMInterleavedForConditionalGeneration(config)
    return plan_of(model, devices=devices)


def plan_of(model: nn.Module, *, devices: int = 1) -> MemoryPlan:
    """Counts the memory of a model that is there, on whatever device; see `plan_memory`."""
    if devices < 1:
        raise ConfigError(f"devices: expected at least 1, got {devices}.")
    state = model.state_dict()
    parameters = {name for name, _ in model.named_parameters()}
    quantised = _quantised_names(model)
    members: dict[str, list[str]] = {name: [] for name, _ in PARTS}
    for name in state:
        members[_part_of(name)].append(name)
    parts = tuple(
        PartSize(
            name=part,
            elements=sum(state[name].numel() for name in names),
            trained=sum(state[name].numel() for name in names if name in parameters and is_chosen(name, TRAINED)),
            bytes={form: sum(tensor_bytes(state[name], form, quantised=name in quantised) for name in names) for form in FORMATS},
        )
        for part, names in members.items()
        if names
    )
    config: Any = model.config
    text = config.text_config
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * head_width * text.max_position_embeddings
    units = [[name for name in state if name.startswith(prefix)] for prefix in _units(model)]
    return MemoryPlan(
        parts=parts,
        devices=devices,
        largest_unit={
            form: max((sum(tensor_bytes(state[name], form, quantised=name in quantised) for name in unit) for unit in units), default=0)
            for form in FORMATS
        },
        staying={
            form: sum(tensor_bytes(tensor, form, quantised=name in quantised) for name, tensor in state.items() if not waits(name))
            + max((tensor_bytes(tensor, form, quantised=name in quantised) for name, tensor in state.items() if waits(name)), default=0)
            for form in FORMATS
        },
        key_value_bytes=cached * FROZEN_BYTES,
    )


def tensor_bytes(tensor: Tensor, form: Format, *, quantised: bool) -> int:
    """Bytes of one tensor in a format.

    Args:
        quantised: whether int8 and int4 hold it in few bits; otherwise they hold it in bfloat16.
    """
    count = tensor.numel()
    if not tensor.is_floating_point():
        return count * tensor.element_size()
    if form == "fp32":
        return 4 * count
    if form == "bf16" or not quantised:
        return 2 * count
    if form == "int8":
        return count + INT8_SCALE_BYTES * tensor.shape[0]
    scales = -(-count // INT4_BLOCK)
    return (count + 1) // 2 + scales + 4 * -(-scales // INT4_SCALE_BLOCK)


def _quantised_names(model: nn.Module) -> set[str]:
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("language_model.layers.") and ".synchronizer." not in name
    }


def _part_of(name: str) -> str:
    return next(part for part, prefixes in PARTS if any(fnmatchcase(name, prefix + "*") for prefix in prefixes))


def _units(model: nn.Module) -> Iterable[str]:
    """Beginnings of the names of what is moved as a whole: decoder layers, transformer layers, blocks of the UNet, embeddings, head."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name:
            inside = any(isinstance(parent, nn.ModuleList) for parent in _parents(model, name))
            if not inside:
                yield from (f"{name}.{child}." for child, _ in module.named_children())
    yield from ("language_model.embed_tokens.", "text_head.", "image_decoder.vae.")


def _parents(model: nn.Module, name: str) -> Iterable[nn.Module]:
    pieces = name.split(".")
    for length in range(1, len(pieces)):
        yield model.get_submodule(".".join(pieces[:length]))
