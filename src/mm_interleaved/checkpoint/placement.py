"""A model larger than its device: the language model's attention and MLP weights wait on the CPU or the disk, the rest stays there.

accelerate brings each waiting weight when it is needed and drops it afterwards. The waiting ones are 95 % of the released language
model; MMFS, norms, embeddings, visual tokenizer and image decoder stay, so that a picture's many steps never wait.
"""

from __future__ import annotations

import re
from typing import Literal

from mm_interleaved.model.configuration import MMInterleavedConfig

WaitingPlace = Literal["cpu", "disk"]

_LAYER_PARTS = {"self_attn": True, "mlp": True, "input_layernorm": False, "post_attention_layernorm": False}
"""Parts of a decoder layer, and whether they wait."""

_STAYING = (
    *("visual_tokenizer", "image_decoder", "text_head", "context_projection", "begin_image_embedding"),
    *("language_model.embed_tokens", "language_model.norm", "language_model.rotary_emb"),
)

_WAITING = re.compile(r"language_model\.layers\.\d+\.(?:" + "|".join(part for part, waits in _LAYER_PARTS.items() if waits) + r")\.")


def offload_map(config: MMInterleavedConfig, *, device: str, wait_on: WaitingPlace = "cpu") -> dict[str, str]:
    """The `device_map` of a model whose language model's layers wait.

    Args:
        device: where everything computes.
        wait_on: where the weights wait; on the disk they stay in the checkpoint's own files.
    """
    places = dict.fromkeys(_STAYING, device)
    for layer in range(config.text_config.num_hidden_layers):
        prefix = f"language_model.layers.{layer}"
        places |= {f"{prefix}.{part}": wait_on if waits else device for part, waits in _LAYER_PARTS.items()}
        if layer % config.mmfs_part.every == 0:
            places[f"{prefix}.synchronizer"] = device
    return places


def waits(name: str) -> bool:
    """Whether a weight waits under `offload_map`."""
    return _WAITING.match(name) is not None
