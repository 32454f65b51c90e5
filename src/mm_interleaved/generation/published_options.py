"""Settings of the released generation, with its defaults and those of its tasks.

Source: release `models/mm_interleaved.py`, `custom_datasets/collator.py`, `configs/release` (spec §4.1, §4.2, §4.4, §5.4).
Deviations: `max_new_tokens`, `beams`, `sample`, `returned`, `steps`, `guidance` and `candidates` have other names there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mm_interleaved.errors import ConfigError

HIDDEN_TOP_K = 50
"""Sampling takes one of so many likeliest tokens, whatever `top_p` says: a default of transformers that the release never named."""

_TEXT_NAMES = {
    "max_length": "max_new_tokens",
    "min_length": "min_length",
    "num_beams": "beams",
    "use_nucleus_sampling": "sample",
    "top_p": "top_p",
    "temperature": "temperature",
    "repetition_penalty": "repetition_penalty",
    "length_penalty": "length_penalty",
    "num_captions": "returned",
}
_IMAGE_NAMES = {"num_inference_steps": "steps", "guidance_scale": "guidance", "num_validation_images": "candidates"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTextOptions:
    """How the release continues a text; the defaults are those of its `generate_texts`."""

    max_new_tokens: int = 30
    """New tokens at most, the stop token among them; released name `max_length`."""
    min_length: int = 8
    """Length below which no text ends, counting the placeholder bos: m lets the first stop token come as new token m."""
    beams: int = 5
    """Beams of the search; 1 is greedy, or sampling."""
    sample: bool = False
    """Draw tokens instead of taking the likeliest; only with one beam."""
    top_p: float = 0.9
    """Sample among the likeliest tokens that together have this probability, and that are among the `HIDDEN_TOP_K`."""
    temperature: float = 1.0
    """Divides the logits before sampling."""
    repetition_penalty: float = 1.0
    """Above 1, the placeholder and tokens already written become less likely; the prompt does not count."""
    length_penalty: float = 1.0
    """Exponent of the length that a beam's log-probability is divided by; above 0 favours longer texts."""
    returned: int = 1
    """Texts per row, best first; with one beam only by sampling. Released name `num_captions`."""

    def __post_init__(self) -> None:
        for name, least in {"max_new_tokens": 1, "min_length": 0, "beams": 1, "returned": 1}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name}: expected a whole number from {least}, got {value!r:.60}.")
        if self.sample and self.beams > 1:
            raise ConfigError(f"sampling works with one beam, got {self.beams}; set beams to 1.")
        if not self.sample and self.returned > self.beams:
            raise ConfigError(f"{self.returned} texts per row need as many beams, got {self.beams}.")

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> PublishedTextOptions:
        """Makes settings from released names, as in released configurations.

        Raises:
            ConfigError: an unknown name.
        """
        return cls(**_rename(values, _TEXT_NAMES))


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedImageOptions:
    """How the release paints; the defaults are those of its `generate_images`."""

    steps: int = 30
    """Denoising steps of a picture."""
    guidance: float = 7.5
    """Scale of classifier-free guidance, on the words only; none up to 1."""
    candidates: int = 1
    """Pictures per place."""
    seed: int = 42
    """Seed of the first candidate; each next one has the next number. 42 is the released demonstration's."""

    def __post_init__(self) -> None:
        for name in ("steps", "candidates"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name}: expected a whole number from 1, got {value!r:.60}.")

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> PublishedImageOptions:
        """Makes settings from released names, as in released configurations.

        Raises:
            ConfigError: an unknown name.
        """
        return cls(**_rename(values, _IMAGE_NAMES))


CAPTION = PublishedTextOptions(max_new_tokens=20)
"""Short captions."""

PARAGRAPH = PublishedTextOptions(max_new_tokens=90, min_length=90, repetition_penalty=1.2)
"""Descriptions of a paragraph."""

ANSWER = PublishedTextOptions(max_new_tokens=10, min_length=0, beams=3, length_penalty=0.0)
"""Answers to questions about a picture."""

STORY = PublishedTextOptions(max_new_tokens=90, beams=1, sample=True, repetition_penalty=1.3)
"""Words of the released interleaved demonstration."""

TEXT_TO_IMAGE = PublishedImageOptions(steps=250, guidance=3.5, candidates=8)
"""Text-to-image evaluation. The release drew its first seed at random below 30000."""


def _rename(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ConfigError(f"unknown released setting '{unknown[0]}'; there are: {', '.join(names)}.")
    return {names[name]: value for name, value in values.items()}
