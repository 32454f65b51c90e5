"""One sample: a document in reading order, where its prompt ends, and the truth about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Segment = str | np.ndarray
"""Text, or a picture as H W 3 uint8 sRGB."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A document of the playground."""

    task: str
    segments: tuple[Segment, ...]
    """The whole document. Text after text means: the prompt ends between them; they read on as one text."""
    prompt: int
    """How many first segments are given; the model must produce the others."""
    truth: dict[str, Any]
    """Exact ground truth, JSON-able: always `language`; names are the pack's ids; scenes as `Scene.as_json()`."""
