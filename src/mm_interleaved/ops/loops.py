"""What runs compiled loops on CPUs, where numba is installed: `pip install mm-interleaved[fast]`.

A loop takes a range of parts that write to different places; the parts are shared out over as many threads as torch may use, so nothing
is locked and results do not depend on the number of threads.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

WORTH_A_THREAD = 2**20
"""Multiplications below which a second thread costs more than it saves (one decoding step of MMFS has 0.4 million)."""
MOST_LANES = 64
"""Numbers that a loop takes at a time: four registers of 16."""


@torch.compiler.assume_constant_result
def missing() -> str | None:
    """Why no loop can be compiled here, or None."""
    return _missing()


@cache
def _missing() -> str | None:
    if find_spec("numba") is None:
        return "compiled: numba is not installed (pip install 'mm-interleaved[fast]')"
    try:
        import numba  # noqa: F401  # it refuses numpy versions that it does not know
    except ImportError as error:
        return f"compiled: numba cannot be used: {error}"
    return None


@cache
def unit(width: int, numeric: torch.dtype) -> tuple[Any, ...]:
    """Ones, as many as a loop over `width` numbers takes at a time: the largest power of two that divides it, at most `MOST_LANES`."""
    return (torch.ones((), dtype=numeric).numpy()[()],) * min(width & -width, MOST_LANES)


def share_out(loop: Callable[..., None], arrays: tuple[Any, ...], *, parts: int, work: int) -> None:
    """Calls `loop(*arrays, begin, end)` for all parts, on several threads where the work is worth it.

    Args:
        work: multiplications of all parts.
    """
    threads = min(torch.get_num_threads(), parts)
    if threads <= 1 or work < WORTH_A_THREAD:
        loop(*arrays, 0, parts)
        return
    borders = [parts * share // threads for share in range(threads + 1)]
    own, *others = itertools.pairwise(borders)
    runs = [_pool(os.getpid(), threads).submit(loop, *arrays, *share) for share in others]
    loop(*arrays, *own)
    for run in runs:
        run.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # The caller is one of the threads. Threads do not survive a fork: a child process gets its own.
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="compiled-loop")
