"""How a document is continued: every setting with its unit and limits, checked before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from mm_interleaved.errors import ConfigError

SAMPLERS = ("plain", "dpm++", "unipc")
"""Values of `Options.sampler`; see `generation/samplers.py`."""

CACHE_DTYPES = ("same", "bfloat16")
"""Values of `Options.cache_dtype`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Settings of one continuation."""

    max_images: int = 4
    """New pictures at most; after them the model may go on with words, but cannot begin another picture."""
    max_tokens: int = 256
    """New tokens at most, counting each picture as one."""
    seed: int = 0
    """Seed of everything random, 0 … 2**63 - 1; the same seed gives the same document on the same software and machine."""
    steps: int = 20
    """Denoising steps of a picture."""
    guidance: float = 2.0
    """Scale of classifier-free guidance; 1 is none and costs half."""
    temperature: float = 0.0
    """Randomness of words: 0 takes the likeliest token, 1 samples as the model believes."""
    top_k: int = 0
    """Sample among this many likeliest tokens; 0 is no limit."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens already written in this run become less likely; the prompt does not count."""
    force_image: bool = False
    """Begin with a picture at once, whatever the model would do."""
    preview_every: int = 0
    """Denoising steps between previews in `ImageProgress`; 0 is none. Each costs one decoding."""
    sampler: str = "plain"
    """How the steps of a picture are taken: `plain` (DDPM as published, or straight along a flow), or the multistep `dpm++` or
    `unipc`, made for fewer steps."""
    cache_mib: int = 0
    """Bound of the feature cache in MiB: the oldest pictures leave first and are then no longer seen. 0 is no bound."""
    cache_dtype: str = "same"
    """In what the feature cache keeps its values: `same` as the model computes in, or `bfloat16` for half of float32's memory."""

    def __post_init__(self) -> None:
        whole = {"max_images": 0, "max_tokens": 0, "seed": 0, "steps": 1, "top_k": 0, "preview_every": 0, "cache_mib": 0}
        for name, least in whole.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value < 2**63:
                raise ConfigError(f"{name}: expected a whole number from {least}, got {value!r:.60}.")
        ranges = {"guidance": (0.0, 100.0), "temperature": (0.0, 100.0), "top_p": (0.0, 1.0), "repetition_penalty": (0.1, 10.0)}
        for name, (lowest, highest) in ranges.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value) or not lowest <= value <= highest:
                raise ConfigError(f"{name}: expected a number from {lowest:g} to {highest:g}, got {value!r:.60}.")
        if self.top_p == 0:
            raise ConfigError("top_p: expected a probability above 0, got 0; for the likeliest token use temperature 0.")
        for name, allowed in {"sampler": SAMPLERS, "cache_dtype": CACHE_DTYPES}.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: expected {', '.join(allowed)}, got {getattr(self, name)!r:.60}.")
        if self.force_image and self.max_images == 0:
            raise ConfigError("force_image asks for a picture, but max_images is 0; allow at least one.")

    @classmethod
    def read(cls, values: dict[str, Any]) -> Options:
        """Makes settings from keyword arguments.

        Raises:
            ConfigError: an unknown name, with the nearest known one, or a value out of range.
        """
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise ConfigError(f"unknown setting '{name}'; the nearest is '{nearest}'. Settings: {', '.join(known)}.")
        return cls(**values)
