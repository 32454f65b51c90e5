"""The Fréchet distance between two sets of features: FID, once the features are those of the Inception network.

Sums, not features, are kept, so that any number of pictures can be added from any number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mm_interleaved.errors import DataError, ShapeError


@dataclass(slots=True)
class Moments:
    """Sums over the features of some pictures, in float64."""

    count: int
    total: np.ndarray
    """Sum of the features, width."""
    products: np.ndarray
    """Sum of their outer products, width x width."""

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """The sums of features, pictures x width.

        Raises:
            ShapeError: it is no matrix.
        """
        if features.ndim != 2:
            raise ShapeError(f"features: expected pictures x width, got {features.shape}.")
        values = features.astype(np.float64)
        return cls(len(values), values.sum(0), values.T @ values)

    def __add__(self, other: Moments) -> Moments:
        if self.total.shape != other.total.shape:
            raise ShapeError(
                f"features of width {len(self.total)} and {len(other.total)} cannot be compared; use one extractor for both sides."
            )
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    @property
    def mean(self) -> np.ndarray:
        return self.total / self.count

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased.

        Raises:
            DataError: there are fewer than two pictures.
        """
        if self.count < 2:
            raise DataError(f"a Fréchet distance needs at least two pictures on either side, got {self.count}.")
        return (self.products - self.count * np.outer(self.mean, self.mean)) / (self.count - 1)


def frechet_distance(one: Moments, two: Moments) -> float:
    """Squared distance of the means, plus that of the covariances.

    Raises:
        DataError: fewer than two pictures on a side.
        ShapeError: features of other widths.
    """
    if one.total.shape != two.total.shape:
        raise ShapeError(f"features of width {len(one.total)} and {len(two.total)} cannot be compared; use one extractor for both sides.")
    apart = float(((one.mean - two.mean) ** 2).sum())
    first, second = one.covariance, two.covariance
    # The trace of the root of a product is the sum of the roots of its eigenvalues, which are real and not negative.
    shared = np.sqrt(np.clip(np.linalg.eigvals(first @ second).real, 0, None)).sum()
    return apart + float(np.trace(first) + np.trace(second) - 2 * shared)
