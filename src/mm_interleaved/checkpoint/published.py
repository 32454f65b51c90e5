"""The released checkpoint: its names, its constructor arguments, and how a model takes its weights.

Source: release `mm_interleaved_pretrain` (2,659 tensors, spec §9) and `configs/release/mm_pretrain.yaml`. Foreign pickles are read
with `weights_only=True`. Released loading skips keys that do not fit; here every key is used or listed, or loading fails.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mm_interleaved.checkpoint.published_image import IMAGE_DECODER_RULES
from mm_interleaved.checkpoint.published_language import RULES as LANGUAGE_RULES
from mm_interleaved.checkpoint.published_visual import RULES as VISUAL_RULES
from mm_interleaved.checkpoint.rename import NameTable, Rule
from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.model.configuration import PUBLISHED, MMInterleavedConfig

if TYPE_CHECKING:
    from torch import nn

TABLE = NameTable(
    [
        *VISUAL_RULES,
        *LANGUAGE_RULES,
        # The sink's value has three leading axes of length 1 in every released synchronizer.
        *(Rule(published, ours, leading_axes=3 * published.endswith(".ignore_token")) for published, ours in IMAGE_DECODER_RULES),
    ]
)
"""Every key of the released checkpoint."""

_RELEASED_LANGUAGE: dict[str, Any] = {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
_RELEASED_VISION: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}
_RELEASED_UNET: dict[str, Any] = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
_RELEASED_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
    "sample_size": 512,
}
_VISUAL_POSITION_SIDE = 16
"""Side of the sin-cos table in the released tokenizer, whatever the patch grid."""

_UNET_LEVEL_SIDES = (64, 32, 16, 8)
"""Sides that the UNet's synchronizers are configured for, whatever the size of the maps: offsets contract on smaller ones."""


def config_from_published(config_json: dict[str, Any]) -> MMInterleavedConfig:
    """Turns the constructor arguments of released code into our configuration, with behaviour `PUBLISHED`.

    Args:
        config_json: `model` holds the constructor arguments, where the paths of pretrained parts are replaced by the fields of their
            configurations; `overrides` holds what released code writes as constants. What is absent has the released value, so
            `{"model": {}}` is the released 13-billion model.

    Raises:
        ConfigError: a pretrained part is given as a path.
    """
    model, constants = config_json["model"], config_json.get("overrides", {})
    tokenizer, decoder = model.get("visual_tokenizer_config", {}), model.get("image_decoder_config", {})
    language = _fields(model, "llm_model_path", _RELEASED_LANGUAGE)
    vision = _fields(tokenizer, "encoder_model_path", _RELEASED_VISION)
    diffusion = _fields(decoder, "pretrained_model_name_or_path", {})
    unet, vae, scheduler = diffusion.get("unet", _RELEASED_UNET), diffusion.get("vae", _RELEASED_VAE), diffusion.get("scheduler", {})
    tokens: dict[str, int] = model.get("special_token_dict", {})
    feature_width = model.get("image_embed_dim", vision["hidden_size"])
    return MMInterleavedConfig(
        # Growing the embedding for the control tokens loses its padding row in released code.
        text_config={**language, "vocab_size": model.get("txt_vocab_size", 32002), "pad_token_id": None},
        vision_config=vision,
        adapter={
            "prior_width": constants.get("adapter_conv_inplane", 64),
            "heads": vision["num_attention_heads"],
            "points": constants.get("adapter_points", 4),
        },
        resampler={"dropout": 0.1, "head_norm": True, **_resampler(tokenizer.get("perceiver_config", {}))},
        mmfs={
            "level_sides": tuple(model.get("spatial_shapes", (32, 16, 8))),
            "base_side": constants.get("llama_mmfs_base_spatial_shape", 16),
            "heads": constants.get("llama_mmfs_heads", 16),
            "points": constants.get("llama_mmfs_points", 8),
            "value_width": feature_width,
            "max_images": constants.get("llama_mmfs_max_images", 50),
            "every": model.get("cross_attention_frequency", 4),
        },
        image_decoder={
            "unet": unet,
            "vae": vae,
            "resampler": {
                **{"queries": 77, "width": 1024, "layers": 1, "heads": 16, "feed_forward_width": 3072, "cross_attention_every": 1},
                **{"head_norm": False, "dropout": 0.0},
                **_resampler(decoder.get("perceiver_config", {})),
            },
            "mmfs": {
                "level_sides": _UNET_LEVEL_SIDES,
                "base_side": None,
                "heads": constants.get("sd_mmfs_heads", 16),
                "points": constants.get("sd_mmfs_points", 8),
                "value_width": constants.get("sd_mmfs_attn_dim", 1024),
                "offset_init": 1.0,
                "max_images": constants.get("sd_mmfs_max_images", 10),
            },
            "noise": {
                "kind": "ddpm",
                "train_steps": scheduler.get("num_train_timesteps", 1000),
                "beta_start": scheduler.get("beta_start", 0.00085),
                "beta_end": scheduler.get("beta_end", 0.012),
                "steps_offset": scheduler.get("steps_offset", 1),
            },
            "image_side": decoder.get("image_size", 512),
            "drop_condition": decoder.get("uncond_prob", 0.1),
            "feature_position_side": unet["sample_size"],
        },
        behaviour=PUBLISHED,
        visual_position_side=_VISUAL_POSITION_SIDE,
        begin_image_token_id=tokens.get("soi_token_id", 32000),
        image_token_id=tokens.get("image_token_id", 32001),
        pad_token_id=tokens.get("pad_token_id", 31999),
        bos_token_id=tokens.get("bos_token_id", 1),
        eos_token_id=tokens.get("eos_token_id", 2),
        image_loss_weight=model.get("loss_img_weight", 10.0),
        text_loss_weight=model.get("loss_txt_weight", 1.0),
    )


def load_published(model: nn.Module, state: dict[str, Tensor], *, where: str = "released checkpoint") -> None:
    """Copies released weights into a model, exactly.

    Args:
        model: `MMInterleavedForConditionalGeneration`, built from `config_from_published`.
        state: the released tensors by their released names, see `read_published`.

    Raises:
        CheckpointError: a key is left over, missing, or of another shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(TABLE.rename(state, shapes, where=where))


def export_published(model: nn.Module) -> dict[str, Tensor]:
    """Gives the weights of a model their released names; keys that are listed as dropped do not come back."""
    return TABLE.rename(model.state_dict(), direction="to_published", where="model")


def read_published(folder: Path) -> dict[str, Tensor]:
    """Reads every `*.safetensors`, or else every `*.bin`, of a folder; tensors stay on the disk until they are used.

    Raises:
        CheckpointError: the folder has neither, or a file cannot be read.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise CheckpointError(f"{folder} holds neither *.safetensors nor *.bin; give the folder of the released checkpoint.")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            part = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); download it again.") from error
        if twice := sorted(set(part) & set(state)):
            raise CheckpointError(f"{file}: the key '{twice[0]}' is also in another file of the folder; keep one set of files.")
        state.update(part)
    return state


def _fields(arguments: dict[str, Any], key: str, released: dict[str, Any]) -> dict[str, Any]:
    fields = arguments.get(key, released)
    if not isinstance(fields, dict):
        raise ConfigError(f"'{key}' is {fields!r}; give the fields of that part's configuration instead of its path.")
    return {**released, **fields}


def _resampler(arguments: dict[str, Any]) -> dict[str, Any]:
    names = {
        "num_queries": "queries",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "feed_forward_width",
        "cross_attention_frequency": "cross_attention_every",
        "qk_normalization": "head_norm",
        "hidden_dropout_prob": "dropout",
    }
    return {ours: arguments[theirs] for theirs, ours in names.items() if theirs in arguments}
