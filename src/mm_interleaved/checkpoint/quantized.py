"""Loading with a language model in few bits: its layers' Linear weights as int8 or 4-bit, by bitsandbytes; everything else as it is.

MMFS, the visual tokenizer, the image decoder, embeddings and heads keep the dtype of loading (bfloat16): they are small, or trained,
or a picture would show the rounding.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch
from transformers import BitsAndBytesConfig

from mm_interleaved.errors import BackendError, ConfigError
from mm_interleaved.model.configuration import MMInterleavedConfig

FewBits = Literal["int8", "int4"]
FEW_BITS: tuple[FewBits, ...] = ("int8", "int4")

INT8_SCALE_BYTES = 4
"""One float32 scale for each row of a weight."""

INT4_BLOCK = 64
"""Weights that share one scale; the scale is itself 8 bits."""

INT4_SCALE_BLOCK = 256
"""Scales that share one float32."""


def quantization(form: FewBits, config: MMInterleavedConfig) -> BitsAndBytesConfig:
    """What `load_model(…, dtype=torch.bfloat16, quantization_config=…)` needs for a language model in few bits.

    Args:
        form: `int8` (rows with one scale), or `int4` (NF4 with doubly quantised scales).
        config: of the model that is loaded; its parts that keep their bits are named.

    Raises:
        BackendError: bitsandbytes is not installed.
        ConfigError: another form, or sizes that it cannot pack.
    """
    if form not in FEW_BITS:
        raise ConfigError(f"quantization '{form}': expected one of {', '.join(FEW_BITS)}.")
    if find_spec("bitsandbytes") is None:
        raise BackendError(f"{form} weights need bitsandbytes, which is not installed: pip install 'mm-interleaved[quantized]'.")
    text = config.text_config
    for name, size in (("hidden_size", text.hidden_size), ("intermediate_size", text.intermediate_size)):
        if form == "int4" and size % INT4_BLOCK:
            raise ConfigError(f"int4 weights: the language model has {name} {size}: expected multiples of {INT4_BLOCK}; use int8.")
    synchronizers = [f"language_model.layers.{layer}.synchronizer" for layer in range(0, text.num_hidden_layers, config.mmfs_part.every)]
    kept = ["visual_tokenizer", "image_decoder", "text_head", "context_projection", "language_model.embed_tokens", *synchronizers]
    if form == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=kept,
    )
