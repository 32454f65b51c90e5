"""Random numbers of generation: each purpose and place in the document has its own generator, always on the CPU.

A number depends on (seed, purpose, place) only, never on what was drawn before: a document that is continued in two runs is the
document of one run, and one seed is the same noise on every device.
"""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, purpose: str, place: int) -> torch.Generator:
    """A fresh CPU generator for one purpose at one place of a document.

    Args:
        seed: the user's seed.
        purpose: what the numbers are for: "text", "image".
        place: token position or picture index in the document, counted from 0.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{place}".encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
