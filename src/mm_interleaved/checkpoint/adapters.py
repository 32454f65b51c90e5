"""Adapters: low-rank changes of the language model (and the UNet) that are kept in a small file beside the weights they change.

    adapter.json         kind, rank, alpha, parts, and which model it was trained on
    adapter.safetensors  the low-rank matrices, and every part that was trained in full beside them

peft makes the layers. It is told the language model's own projections by name: `all-linear` would also change MMFS, the visual
tokenizer and the UNet, which are new parts and are trained in full.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mm_interleaved.errors import CheckpointError, ConfigError

TARGETS = {
    "language_model": r"language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
    "image_decoder.unet": r"image_decoder\.unet\.(down_blocks|mid_block|up_blocks)\..*\.(to_q|to_k|to_v|to_out\.0)",
}
"""Names of the layers that are changed, by part."""

NAME = "default"

WEIGHTS, SETTINGS = "adapter.safetensors", "adapter.json"


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What kind of change."""

    kind: Literal["lora", "dora"] = "lora"
    """`dora` also learns the length of every row."""
    rank: int = 8
    """Rank of the change."""
    alpha: float = 16.0
    """The change is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout in front of the change, in training."""
    parts: Sequence[str] = ("language_model",)
    """Which parts are changed (`TARGETS`)."""


def insert_adapter(model: nn.Module, settings: AdapterSettings) -> Any:
    """Puts the low-rank layers into the model, where they change nothing at first.

    Returns:
        peft's handle, whose `merge_and_unload()` adds the changes to the weights and takes the layers out again.

    Raises:
        ConfigError: an unknown part, or peft is missing.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise ConfigError("adapters are made by peft; install mm-interleaved[train].") from error
    unknown = [part for part in settings.parts if part not in TARGETS]
    if unknown or not settings.parts:
        raise ConfigError(f"adapter.parts: {unknown or 'nothing'}; expected some of {', '.join(TARGETS)}.")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a ratio, fractions are fine
        lora_dropout=settings.dropout,
        use_dora=settings.kind == "dora",
        target_modules="|".join(f"(?:{TARGETS[part]})" for part in settings.parts),
    )
    return LoraModel(model, {NAME: config}, NAME)


def save_adapter(folder: Path, settings: AdapterSettings, tensors: Mapping[str, Tensor], *, base: str) -> None:
    """Writes an adapter.

    Args:
        tensors: everything that was trained, by the model's names.
        base: which model it belongs to, for people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / WEIGHTS)
    values = {"format": "mm-interleaved/adapter", "version": 1, "base": base, "settings": asdict(settings)}
    (folder / SETTINGS).write_text(json.dumps(values, indent=2), encoding="utf-8")


def adapter_hash(folder: Path) -> str:
    """Fingerprint of an adapter: the first 16 digits of the SHA-256 of its weights."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Adds an adapter to the weights of the model it was trained on; afterwards the model is an ordinary one.

    Raises:
        CheckpointError: it is missing, damaged, or belongs to a model of other sizes.
    """
    try:
        values = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        settings = AdapterSettings(**values["settings"])
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no adapter that can be read ({error}); expected {SETTINGS} and {WEIGHTS}.") from error
    handle = insert_adapter(model, settings)
    own = dict(model.named_parameters())
    changed = [name for name in own if ".lora_" in name]
    problems = [name for name in tensors if name not in own or own[name].shape != tensors[name].shape]
    problems += [name for name in changed if name not in tensors]
    if problems:
        handle.unload()
        raise CheckpointError(
            f"{folder}: {len(problems)} tensors do not fit this model, such as '{problems[0]}'; it was trained on {values.get('base')}."
        )
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)
    handle.merge_and_unload()
