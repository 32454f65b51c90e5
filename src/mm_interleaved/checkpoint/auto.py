"""Importing this makes transformers' Auto classes find our configuration, model and processor; `checkpoint.native` imports it."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor

AutoConfig.register(MMInterleavedConfig.model_type, MMInterleavedConfig, exist_ok=True)
AutoModel.register(MMInterleavedConfig, MMInterleavedForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(MMInterleavedConfig, MMInterleavedForConditionalGeneration, exist_ok=True)
MMInterleavedProcessor.register(MMInterleavedConfig)
