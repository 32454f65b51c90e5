"""Every random draw is keyed by what it is for: (seed, sample or place, purpose), never by rank, worker or order of calls."""

from __future__ import annotations

import hashlib

import numpy as np


def key(*parts: int | str) -> int:
    """A 63-bit number that depends on nothing but `parts`: the seed of one purpose."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def random_of(*parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `key`."""
    return np.random.default_rng(key(*parts))
