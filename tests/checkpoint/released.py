"""A stand-in for the released checkpoint: all of its names, small shapes, random numbers, two files with an index."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mm_interleaved.checkpoint.convert import empty_model
from mm_interleaved.checkpoint.published import TABLE, config_from_published

LAYOUT_FILE = Path(__file__).parent / "state_dict_layout.json.gz"
"""Name → shape of every released tensor, in the released order (spec §9)."""

FILES = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
INDEX = "pytorch_model.bin.index.json"


def layout() -> dict[str, list[int]]:
    return json.loads(gzip.decompress(LAYOUT_FILE.read_bytes()))


def small_arguments(*, width: int = 16, vocabulary: int = 40) -> dict[str, Any]:
    """Constructor arguments with as many layers as released, and hardly anything in them.

    Args:
        width: of the language model.
        vocabulary: its entries, the two control tokens included.
    """
    resampler = {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 8}
    return {
        "overrides": {
            "adapter_conv_inplane": 2,
            "adapter_points": 1,
            "llama_mmfs_heads": 2,
            "llama_mmfs_points": 1,
            "llama_mmfs_max_images": 3,
            "sd_mmfs_attn_dim": 8,
            "sd_mmfs_heads": 2,
            "sd_mmfs_points": 1,
            "sd_mmfs_max_images": 3,
        },
        "model": {
            "llm_model_path": {
                "hidden_size": width,
                "intermediate_size": 2 * width,
                "num_attention_heads": 2,
                "max_position_embeddings": 64,
            },
            "txt_vocab_size": vocabulary,
            "special_token_dict": {"soi_token_id": vocabulary - 2, "image_token_id": vocabulary - 1, "pad_token_id": 0},
            "image_embed_dim": 8,
            "visual_tokenizer_config": {
                "encoder_model_path": {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2},
                "perceiver_config": {"num_queries": 3, **resampler},
            },
            "image_decoder_config": {
                "pretrained_model_name_or_path": {
                    "unet": {
                        "sample_size": 8,
                        "block_out_channels": [4, 8, 16, 16],
                        "cross_attention_dim": 12,
                        "attention_head_dim": [2, 2, 2, 2],
                        "use_linear_projection": True,
                        "norm_num_groups": 2,
                    },
                    "vae": {
                        "block_out_channels": [4, 8, 16, 16],
                        "down_block_types": ["DownEncoderBlock2D"] * 4,
                        "up_block_types": ["UpDecoderBlock2D"] * 4,
                        "latent_channels": 4,
                        "layers_per_block": 2,
                        "norm_num_groups": 2,
                        "scaling_factor": 0.18215,
                    },
                },
                "image_size": 64,
                "perceiver_config": {"num_queries": 4, **resampler},
            },
        },
    }


def released_state(arguments: Mapping[str, Any], *, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors by their released names, in the released order."""
    shapes = TABLE.rename(empty_model(config_from_published(dict(arguments))).state_dict(), direction="to_published")
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name in layout():
        like = shapes[name]
        state[name] = (
            torch.randn(like.shape, generator=generator)
            if like.is_floating_point()
            else torch.arange(like.numel(), dtype=like.dtype).reshape(like.shape)
        )
    return state


def write_released(folder: Path, state: Mapping[str, Tensor]) -> Path:
    """Writes two files and their index, cut in the middle."""
    folder.mkdir(parents=True)
    names = list(state)
    half = len(names) // 2
    parts = dict(zip(FILES, (names[:half], names[half:]), strict=True))
    for file, keys in parts.items():
        torch.save({key: state[key].clone() for key in keys}, folder / file)
    total = sum(tensor.numel() * tensor.itemsize for tensor in state.values())
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder
