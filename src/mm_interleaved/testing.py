"""A tiny model and its processor, for tests: every box is real, only small; random weights, built in a blink.

    model, processor = tiny_model(seed=0), tiny_processor()

All gates and zero-initialised outputs are opened, so that a picture changes every later number; a fresh model would hide mistakes
behind its closed gates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mm_interleaved.model.configuration import MMInterleavedConfig

if TYPE_CHECKING:
    from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
    from mm_interleaved.processing.processor import MMInterleavedProcessor

TINY_VOCABULARY = 280
"""Five control tokens, 256 bytes and a few merges."""

TINY_SIDE = 32
"""Side of pictures in pixels, read and painted."""

TINY_TEXTS = (
    "draw a 3D camel on a white ground.",
    "draw a flat cat. draw an ink dog. draw a sticker of a tree.",
    "what is this? a cat, a dog, a car, an apple, a house.",
    "in the style of the picture above, draw a cat.",
    "画一只猫。画一条狗。",
)
"""What the tiny tokenizer is trained on; its words are the known ones."""


def tiny_config(*, noise: str = "flow", context: int = 256) -> MMInterleavedConfig:
    """The configuration of the tiny model: pictures of 32 px behind 4 tokens, 3 layers, MMFS in two of them.

    Args:
        noise: kind of the noise schedule, `flow` or `ddpm`.
        context: longest document in tokens.
    """
    return MMInterleavedConfig(
        text_config={
            "vocab_size": TINY_VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": context,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": TINY_SIDE,
            "patch_size": 8,
        },
        adapter={
            "prior_width": 4,
            "blocks": 2,
            "heads": 2,
            "points": 2,
            "value_ratio": 1.0,
            "feed_forward_ratio": 0.5,
            "extra_extractors": 1,
        },
        resampler={"queries": 4, "width": 16, "layers": 2, "heads": 2, "feed_forward_width": 32, "dropout": 0.0},
        mmfs={"level_sides": (8, 4, 2), "base_side": 4, "heads": 2, "points": 2, "value_width": 16, "max_images": 8, "every": 2},
        image_decoder={
            "unet": {
                "in_channels": 4,
                "out_channels": 4,
                "block_out_channels": (8, 16),
                "layers_per_block": 1,
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                "cross_attention_dim": 16,
                "attention_head_dim": 2,
                "norm_num_groups": 4,
            },
            "vae": {
                "block_out_channels": (8, 16),
                "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
                "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
                "layers_per_block": 1,
                "latent_channels": 4,
                "norm_num_groups": 4,
                "scaling_factor": 1.0,
            },
            "resampler": {
                "queries": 5,
                "width": 16,
                "layers": 1,
                "heads": 2,
                "feed_forward_width": 32,
                "head_norm": False,
                "dropout": 0.0,
            },
            "mmfs": {"level_sides": (16, 8, 4, 2), "base_side": None, "heads": 2, "points": 2, "value_width": 16, "max_images": 8},
            "noise": {"kind": noise},
            "image_side": TINY_SIDE,
            "pooled_context": True,
            "feature_position_side": 8,
        },
        visual_position_side=4,
        begin_image_token_id=3,
        image_token_id=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def tiny_model(seed: int = 0, *, noise: str = "flow", context: int = 256) -> MMInterleavedForConditionalGeneration:
    """The tiny model with random weights, in evaluation mode, all gates open; the same seed gives the same weights.

    Args:
        noise: kind of the noise schedule, `flow` or `ddpm`.
        context: longest document in tokens.
    """
    from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MMInterleavedForConditionalGeneration(tiny_config(noise=noise, context=context))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                closed = parameter.is_floating_point() and bool((parameter == 0).all())
                if closed and not name.startswith("image_decoder.vae"):
                    parameter.normal_(std=0.3)
    return model.eval()


def tiny_processor(*, context: int = 256) -> MMInterleavedProcessor:
    """The processor that belongs to `tiny_model`: its tokenizer is trained on `TINY_TEXTS`."""
    from mm_interleaved.processing.processor import MMInterleavedProcessor
    from mm_interleaved.processing.tokenizer import train_tokenizer

    config = tiny_config(context=context)
    tokenizer = train_tokenizer(TINY_TEXTS, TINY_VOCABULARY)
    return MMInterleavedProcessor(
        tokenizer,
        image_side=TINY_SIDE,
        target_side=TINY_SIDE,
        image_tokens=config.image_tokens,
        context_limit=context,
        known_words=sorted({word.strip(".,?") for text in TINY_TEXTS for word in text.split()}),
    )
