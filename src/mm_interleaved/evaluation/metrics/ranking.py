"""Retrieval by VisDial's rules: where the true answer stands among the options, and NDCG over answers of graded relevance.

Source: visualdialog.org (evaluation of v1.0): NDCG at k, where k is the number of options with a relevance above 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mm_interleaved.errors import ShapeError


def rank_of(scores: Sequence[float], true: int) -> int:
    """Place of the true option, from 1; of equal scores the true one comes last, so that a constant score gains nothing."""
    found = np.asarray(scores, np.float64)
    if not 0 <= true < len(found):
        raise ShapeError(f"the true option is number {true}, but {len(found)} options were scored.")
    return int((found >= found[true]).sum())


def retrieval(rank: int) -> dict[str, float]:
    """The figures of one rank: reciprocal, recall at 1, 5 and 10, and the rank itself."""
    return {"mrr": 1 / rank, **{f"recall@{most}": float(rank <= most) for most in (1, 5, 10)}, "rank": float(rank)}


def ndcg(scores: Sequence[float], relevance: Sequence[float]) -> float:
    """Normalised discounted cumulative gain of the order that scores give.

    Raises:
        ShapeError: not as many scores as relevances, or nothing is relevant.
    """
    found, gain = np.asarray(scores, np.float64), np.asarray(relevance, np.float64)
    most = int((gain > 0).sum())
    if len(found) != len(gain) or most == 0:
        raise ShapeError(f"{len(found)} scores for {len(gain)} relevances, of which {most} above 0; expected as many, and at least one.")
    discount = 1 / np.log2(np.arange(most) + 2)
    order = np.argsort(-found, kind="stable")[:most]
    best = np.sort(gain)[::-1][:most]
    return float((gain[order] * discount).sum() / (best * discount).sum())
