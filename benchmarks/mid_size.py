"""A model of 126 million parameters, between the one in the box and the published one: what whole-model benchmarks run.

`mid_size.json` holds the constructor arguments that the released code was measured with at this size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mm_interleaved.checkpoint.published import config_from_published
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration


def mid_config(behaviour: dict[str, Any] | None = None) -> MMInterleavedConfig:
    """The configuration; `behaviour` None means as published."""
    config = config_from_published(json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")))
    if behaviour is not None:
        config.behaviour = behaviour
    return config


def mid_model(seed: int = 0, behaviour: dict[str, Any] | None = None) -> MMInterleavedForConditionalGeneration:
    """A model with every gate and zero-initialised output opened, so that pictures matter to every number."""
    torch.manual_seed(seed)
    model = MMInterleavedForConditionalGeneration(mid_config(behaviour))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate") or "output_convolution" in name:
                parameter.normal_(std=0.02)
    return model
