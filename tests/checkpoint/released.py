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


def released_shapes(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Empty tensors by their released names, in the released order."""
    shapes = TABLE.rename(empty_model(config_from_published(dict(arguments))).state_dict(), direction="to_published")
    return {name: shapes[name] for name in layout()}


def filled(shapes: Mapping[str, Tensor], *, seed: int = 0) -> dict[str, Tensor]:
    """Random numbers in the shapes of empty tensors."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(like.shape, generator=generator)
        if like.is_floating_point()
        else torch.arange(like.numel(), dtype=like.dtype).reshape(like.shape)
        for name, like in shapes.items()
    }


def released_state(arguments: Mapping[str, Any], *, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors by their released names, in the released order."""
    return filled(released_shapes(arguments), seed=seed)


def write_released(folder: Path, state: Mapping[str, Tensor]) -> Path:
    """Writes two files and their index, cut in the middle.

    Args:
        state: tensors by released names; those on the meta device are filled with random numbers one file at a time, so that a
            checkpoint larger than the memory can be written.
    """
    folder.mkdir(parents=True)
    names = list(state)
    half = len(names) // 2
    parts = dict(zip(FILES, (names[:half], names[half:]), strict=True))
    for seed, (file, keys) in enumerate(parts.items()):
        tensors = {key: state[key] for key in keys}
        if any(tensor.is_meta for tensor in tensors.values()):
            tensors = filled(tensors, seed=seed)
        torch.save({key: tensor if tensor._base is None else tensor.clone() for key, tensor in tensors.items()}, folder / file)
    total = sum(tensor.numel() * tensor.itemsize for tensor in state.values())
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder
