"""The model that the whole-model benchmarks run: the published architecture at 126 million parameters, with random weights.

Its sizes are those that the release's own code was measured at: 8 layers of 512, 12 vision layers of 256 at 224 px, 64 tokens a picture,
16 MMFS heads of 64 with 8 points, a UNet of 64-256 channels for 256 px, DDPM. All gates are open, so that a picture changes every
later number. The tokenizer is a small one; the vocabulary keeps its 32,002 entries.
"""

from __future__ import annotations

import numpy as np
import torch

from mm_interleaved.checkpoint.published import config_from_published
from mm_interleaved.document import Document, Image
from mm_interleaved.generation.engine import Continuation
from mm_interleaved.generation.load import Model, choose_fast_forms
from mm_interleaved.model.configuration import Behaviour
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.processing.tokenizer import train_tokenizer

WORDS = "a picture of a camel that looks for an apple and finds a tree, a house, a boat and a friend on the way home. "
CONTROL = {"begin_image_token_id": 3, "image_token_id": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE_SIDE = 256

_BLOCKS = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_SIZES = {
    "overrides": {
        "adapter_conv_inplane": 64,
        "adapter_points": 4,
        "clip_image_size": 224,
        "llama_mmfs_heads": 16,
        "llama_mmfs_points": 8,
        "llama_mmfs_base_spatial_shape": 16,
        "llama_mmfs_max_images": 50,
        "sd_mmfs_attn_dim": 256,
        "sd_mmfs_heads": 16,
        "sd_mmfs_points": 8,
        "sd_mmfs_max_images": 10,
    },
    "model": {
        "llm_model_path": {
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
        },
        "txt_vocab_size": 32002,
        "num_img_token": 64,
        "image_embed_dim": 256,
        "cross_attention_frequency": 4,
        "spatial_shapes": [32, 16, 8],
        "visual_tokenizer_config": {
            "encoder_model_path": {
                "hidden_size": 256,
                "intermediate_size": 1024,
                "num_hidden_layers": 12,
                "num_attention_heads": 4,
                "image_size": 224,
                "patch_size": 14,
                "hidden_act": "quick_gelu",
            },
            "perceiver_config": {
                "num_queries": 64,
                "hidden_size": 256,
                "encoder_hidden_size": 256,
                "intermediate_size": 1024,
                "cross_attention_frequency": 2,
                "num_hidden_layers": 6,
                "num_attention_heads": 4,
                "qk_normalization": True,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
        },
        "image_decoder_config": {
            "pretrained_model_name_or_path": {
                "scheduler": {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "steps_offset": 1},
                "vae": {
                    "down_block_types": ["DownEncoderBlock2D"] * 4,
                    "up_block_types": ["UpDecoderBlock2D"] * 4,
                    "block_out_channels": [32, 64, 128, 128],
                    "layers_per_block": 2,
                    "latent_channels": 4,
                    "norm_num_groups": 32,
                    "sample_size": IMAGE_SIDE,
                    "scaling_factor": 0.18215,
                },
                "unet": {
                    "sample_size": 32,
                    "in_channels": 4,
                    "out_channels": 4,
                    "block_out_channels": [64, 128, 256, 256],
                    "layers_per_block": 2,
                    "cross_attention_dim": 256,
                    "attention_head_dim": [2, 4, 8, 8],
                    "use_linear_projection": True,
                    "norm_num_groups": 32,
                    **_BLOCKS,
                },
            },
            "seq_len": 77,
            "embed_dim": 256,
            "image_size": IMAGE_SIDE,
            "perceiver_config": {
                "num_queries": 77,
                "hidden_size": 256,
                "encoder_hidden_size": 512,
                "intermediate_size": 1024,
                "cross_attention_frequency": 1,
                "num_hidden_layers": 1,
                "num_attention_heads": 8,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
        },
    },
}


def mid_model(*, published: bool = True, dtype: torch.dtype = torch.float32) -> Model:
    """The model with its processor.

    Args:
        published: the behaviour of the release (a picture is painted from the one before); else of new training (from all).
        dtype: in which it computes; the autoencoder stays float32.
    """
    config = config_from_published(_SIZES)
    for name, token in CONTROL.items():
        setattr(config, name, token)
    if not published:
        config.behaviour = {name: getattr(Behaviour(), name) for name in config.behaviour}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MMInterleavedForConditionalGeneration(config)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if bool((parameter == 0).all()) and not name.startswith("image_decoder.vae"):
                    parameter.normal_(std=0.05)
    network.to(dtype).image_decoder.vae.float()
    choose_fast_forms(network)
    processor = MMInterleavedProcessor(
        train_tokenizer([WORDS], 280),
        image_side=config.image_side,
        target_side=IMAGE_SIDE,
        image_tokens=config.image_tokens,
        context_limit=2048,
        known_words=[],
    )
    return Model(network.eval(), processor)


def prompt(pictures: int, words: int = 16) -> Document:
    """Pictures of noise, and so many tokens of words behind them."""
    drawn = [Image.from_array(np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)) for seed in range(pictures)]
    return Document([*drawn, WORDS[:words]])


class Scripted:
    """Chooses as the model would, then writes what the script says: so many words, a picture, so many words, a picture …"""

    def __init__(self, run: Continuation, words: int, pictures: int) -> None:
        self._chooser = run._chooser
        self._script = iter(([260] * words + [CONTROL["begin_image_token_id"]]) * pictures if pictures else [260] * words)

    def choose(self, logits: torch.Tensor, *, written: list[int], suppressed: frozenset[int], position: int) -> torch.Tensor | int:
        self._chooser.choose(logits, written=written, suppressed=suppressed, position=position)
        return next(self._script, CONTROL["eos_token_id"])


def scripted(run: Continuation, words: int, pictures: int) -> Continuation:
    """Makes a continuation follow the script: a random model would not know when to draw."""
    run._chooser = Scripted(run, words, pictures)  # type: ignore[assignment]
    return run
