"""What suits the device: number format and form of attention."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration

Precision: TypeAlias = Literal["float32", "bf16", "fp16", "float64"]


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic of its own; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(check() for check in checks if check is not None)


def precision_of(wanted: str, device: torch.device) -> Precision:
    """The precision of a recipe on a device."""
    if wanted == "auto":
        return "bf16" if computes_bf16(device) else "float32"
    return cast("Precision", wanted)


def compute_in_float64(model: MMInterleavedForConditionalGeneration) -> None:
    """Makes the whole model compute in float64: upstream's RMSNorm and plain attention would go through float32 in between."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    for part in (model.language_model, model.visual_tokenizer.encoder):
        part.config._attn_implementation = "sdpa"
    model.double()


def choose_attention(model: MMInterleavedForConditionalGeneration, device: torch.device, precision: Precision) -> None:
    """Sets plain attention on a CPU where at these sizes two products and a softmax are faster than the fused kernel.

    On CUDA cuDNN's attention is left out: it plans every length anew.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    model.image_decoder.choose_attention(device.type, backward=True, half=precision in ("bf16", "fp16"))
    if device.type == "cpu":
        for part in (model.language_model, model.visual_tokenizer.encoder):
            part.config._attn_implementation = "eager"
