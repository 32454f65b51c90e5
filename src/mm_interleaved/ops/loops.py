"""What runs compiled loops on CPUs, where numba is installed: `pip install mm-interleaved[fast]`.

A loop takes a range of parts that write to different places; the parts are shared out over as many threads as torch may use, so nothing
is locked and results do not depend on the number of threads.
"""

import ctypes
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

WORTH_A_THREAD = 2**20
"""Multiplications below which a second thread costs more than it saves (one decoding step of MMFS has 0.4 million)."""
SHARES, WORTH_SHARES = 4, 2**25
"""Shares a thread, where so many multiplications are worth the starts: cores are not equally fast, as long as others use them too."""
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

    The threads are torch's own, where its OpenMP library lets us have them. After each of its operations these turn in a loop for some
    milliseconds, waiting for the next; threads of ours would have to share the cores with them.

    Args:
        work: multiplications of all parts.
    """
    threads = min(torch.get_num_threads(), parts)
    if threads <= 1 or work < WORTH_A_THREAD:
        loop(*arrays, 0, parts)
        return
    count = min(parts, threads * (SHARES if work >= WORTH_SHARES else 1))
    borders = [parts * share // count for share in range(count + 1)]
    shares = itertools.pairwise(borders)
    parallel = _openmp() if os.getpid() == _IMPORTED_IN else None
    if parallel is None:
        pool = _pool(os.getpid(), threads)
        for run in [pool.submit(loop, *arrays, *share) for share in shares]:
            run.result()
        return
    raised: list[BaseException] = []

    def take_shares(_: object) -> None:
        # `next` is one step for the interpreter, so every share is taken once, by however many threads there are.
        try:
            while (share := next(shares, None)) is not None:
                loop(*arrays, *share)
        except BaseException as error:
            raised.append(error)

    parallel(_CALLED(take_shares), None, threads, 0)
    if raised:
        raise raised[0]


@cache
def _openmp() -> Callable[..., None] | None:
    """GNU OpenMP's `GOMP_parallel(function, data, threads, flags)`, of the library that torch runs on; None where that is another."""
    try:
        mapped = {line.split()[-1] for line in _MAPS.read_text().splitlines() if "libgomp" in line}
        # Other packages bring libraries of their own; torch's lies in its folder, or is the only one.
        (path,) = {path for path in mapped if Path(path).is_relative_to(_TORCH)} or mapped
        parallel = ctypes.CDLL(path).GOMP_parallel
    except (OSError, ValueError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = [_CALLED, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return cast("Callable[..., None]", parallel)


_CALLED = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_MAPS, _TORCH = Path("/proc/self/maps"), Path(torch.__file__).parent
_IMPORTED_IN = os.getpid()
"""Threads do not survive a fork, and OpenMP does not notice: a child process has threads of ours."""


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="compiled-loop")
