"""What suits the device: number format and form of attention."""

from __future__ import annotations

import torch

from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic of its own; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(check() for check in checks if check is not None)


def choose_attention(model: MMInterleavedForConditionalGeneration, device: torch.device) -> None:
    """Sets plain attention on a CPU: at these sizes two products and a softmax are faster than the fused kernel."""
    model.image_decoder.choose_attention(device.type)
    if device.type == "cpu":
        for part in (model.language_model, model.visual_tokenizer.encoder):
            part.config._attn_implementation = "eager"
