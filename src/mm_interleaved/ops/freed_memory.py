"""Keeps what freed tensors leave, so that the next tensors of this size need no new pages from the kernel.

The allocator of the GNU C library gives large blocks back as soon as they are free. A denoising step or a training step on a CPU then
asks for the same megabytes again and again, and the kernel clears every page of them each time: a third of the time of such a step.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""`M_…` of mallopt(3)."""

_WIDEST = 32 * 2**20
"""Bytes; the largest mmap threshold that the allocator reaches by itself, and half of its trim threshold then."""


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
