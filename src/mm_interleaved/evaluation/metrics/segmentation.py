"""Mean overlap of two label maps, as ADE20K counts it: over all pictures together, class by class, unlabelled pixels left out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from mm_interleaved.errors import ShapeError

UNLABELLED = 0
"""Label of pixels that count nowhere; the classes are numbered from 1."""


def overlaps(made: Int[np.ndarray, "H W"], true: Int[np.ndarray, "H W"], classes: int) -> Int[np.ndarray, "2 classes"]:
    """Pixels of one picture that both maps give to a class, and those that either gives to it. Sums over pictures are what is scored.

    Raises:
        ShapeError: the maps differ in shape, or a label is no class.
    """
    if made.shape != true.shape or true.max(initial=0) > classes or min(true.min(initial=0), made.min(initial=0)) < 0:
        raise ShapeError(
            f"label maps: expected one shape and labels from 0 to {classes}, got {made.shape} up to {made.max(initial=0)} and "
            f"{true.shape} up to {true.max(initial=0)}."
        )
    counted = true != UNLABELLED
    sizes = [np.bincount(labels, minlength=classes + 1)[1 : classes + 1] for labels in (made[counted], true[counted])]
    both = np.bincount(true[counted & (made == true)], minlength=classes + 1)[1 : classes + 1]
    return np.stack([both, sizes[0] + sizes[1] - both])


def mean_overlap(sums: Int[np.ndarray, "2 classes"]) -> float:
    """mIoU: mean over the classes that either map shows anywhere; 0 if there is none."""
    shown = sums[1] > 0
    return float((sums[0][shown] / sums[1][shown]).mean()) if shown.any() else 0.0
