"""Random upstream parts in a blink, as upstream saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModel

from mm_interleaved.testing import tiny_config

CHANGES: dict[str, Any] = {
    "adapter": {"prior_width": 4, "points": 2, "value_ratio": 1.0, "feed_forward_ratio": 0.5, "extra_extractors": 1},
    "resampler": {"queries": 4, "width": 16, "layers": 2, "heads": 2, "feed_forward_width": 32},
    "mmfs": {"heads": 2, "points": 2, "value_width": 16, "max_images": 8, "every": 2},
    "image_decoder": {
        "resampler": {"queries": 5, "heads": 2, "feed_forward_width": 32},
        "mmfs": {"heads": 2, "points": 2, "value_width": 16},
    },
}
"""Sizes of the new parts."""


def write_painter_and_eyes(folder: Path) -> None:
    """Writes `vision` and `diffusion`."""
    config = tiny_config()
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**config.vision_config.to_dict())).save_pretrained(str(folder / "vision"))
    decoder = config.image_decoder_part
    UNet2DConditionModel(sample_size=16, **decoder.unet).save_pretrained(str(folder / "diffusion" / "unet"))
    AutoencoderKL(**decoder.vae).save_pretrained(str(folder / "diffusion" / "vae"))
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
    scheduler.save_pretrained(str(folder / "diffusion" / "scheduler"))
