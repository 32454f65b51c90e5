"""Keeps what freed tensors leave, so that the next ones need no new pages from the kernel, and gives back what is gaps alone.

The allocator of the GNU C library gives large blocks back as soon as they are free. A denoising step or a training step on a CPU then
asks for the same megabytes again and again, and the kernel clears every page of them each time: a third of the time of such a step.
What is kept, though, is cut up by tensors of ever other sizes, until the gaps between them hold more than they do (`KeptMemory`).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""`M_…` of mallopt(3)."""

_WIDEST = 32 * 2**20
"""Bytes; the largest mmap threshold that the allocator reaches by itself, and half of its trim threshold then."""


GAPS_ALLOWED = 0.15
"""Growth, as a share of what the process held when nothing was lost yet, from which on gaps are given back."""

_STATM = Path("/proc/self/statm")
_PRIMITIVES, _PRIMITIVES_VARIABLE = "256", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def keep_freed_memory(kept: bool = True) -> bool:
    """Lets this process keep the memory that it frees, or give it back as the C library does on its own.

    Kept memory serves the next tensors; the process holds what it held at most. This is for programs whose main work is a model on a
    CPU: the `mmi` command asks for it, importing the library does not.

    Args:
        kept: False puts back the widest thresholds that the library would have come to.

    Returns:
        Whether the C library could be told. Others than GNU's have their own ways and stay as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {
        _MMAP_MAX: 0 if kept else 2**16,
        _MMAP_THRESHOLD: _WIDEST,
        _TRIM_THRESHOLD: 2**31 - 1 if kept else 2 * _WIDEST,
    }
    done = [mallopt(option, value) == 1 for option, value in wanted.items()]
    return all(done)


def keep_few_primitives() -> None:
    """Lets oneDNN remember 256 prepared products instead of 1,024, unless the environment says how many.

    Batches of documents hardly ever have a shape twice, and each shape's preparation holds a megabyte or two: of 1.9 GB that thirty
    steps of nano came to hold in bfloat16, 0.28 GB, at the same speed. To be called before the first product; later calls change nothing.
    """
    os.environ.setdefault(_PRIMITIVES_VARIABLE, _PRIMITIVES)


class KeptMemory:
    """Bounds what a process with changing tensors comes to hold.

    After each step it compares the pages of the process with those that one step took when no gaps were there. Once they are
    `GAPS_ALLOWED` more, the allocator gives back every page in which nothing lies; the next step then asks the kernel for its pages again.
    """

    def __init__(self) -> None:
        self._needed = 0
        self._without_gaps = True

    def after_step(self) -> bool:
        """To be called after every step.

        Returns:
            Whether pages were given back.
        """
        held = own_bytes()
        if self._without_gaps:
            self._needed = max(self._needed, held)
            self._without_gaps = False
        elif held > (1 + GAPS_ALLOWED) * self._needed:
            self._without_gaps = give_back()
            return self._without_gaps
        return False


def own_bytes() -> int:
    """Bytes of this process that are no file's; 0 where the system does not tell."""
    try:
        _, resident, shared, *_ = _STATM.read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> bool:
    """Lets the C library give back every page in which nothing lies; whether it gave any."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
