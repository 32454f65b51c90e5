"""How the benchmarks measure: two paths by turns in one run, medians, one JSON object per line.

A ratio is only worth something if both sides saw the same machine: the paths run alternately, the first pair warms up and is not
counted, and `ratio` > 1 says how many times faster `path` is than `against`. Where the work of `path` is known, its share of what
the machine was measured to copy and to multiply in the same process stands beside it.

On a CPU the process keeps the memory that it frees, as `mmi` does (`ops/freed_memory.py`), for both sides; where the other side stands for
the released program, it is given back as that program would, and the row says so (`against_keeps_memory`).
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from mm_interleaved.ops.freed_memory import keep_freed_memory

COPY_BYTES = 2**28
"""Size of the array that is copied to measure the bandwidth; far beyond any cache."""

MATRIX_SIDE = 2048
"""Side of the square matrices that are multiplied to measure the rate."""


def compare(
    case: str,
    path: str,
    run: Callable[[], object],
    against: str,
    run_against: Callable[[], object],
    *,
    repeats: int = 5,
    at_most: float = 60.0,
    against_keeps_memory: bool = True,
    flops: float | None = None,
    bytes_moved: float | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **sizes: Any,
) -> dict[str, Any]:
    """Runs both paths by turns, prints one JSON line and returns it.

    Args:
        case: fixed name; tests and docs/results.md refer to it.
        repeats: pairs that are counted, after one that warms up.
        at_most: seconds after which no further pair is begun; one counted pair is always there.
        against_keeps_memory: whether memory freed by `against` is kept for its next tensors.
        flops: floating-point operations that `path` cannot do without, a multiplication and an addition being two.
        bytes_moved: bytes that `path` must read and write at least once.
        dtype: in which the machine's matrix rate is measured.
        sizes: anything else that belongs into the line.
    """
    began = time.perf_counter()

    def pair() -> tuple[float, float]:
        keep_freed_memory()
        taken = _seconds(run, device)
        keep_freed_memory(against_keeps_memory)
        return taken, _seconds(run_against, device)

    first, pairs = pair(), []
    while len(pairs) < repeats and (not pairs or time.perf_counter() - began < at_most):
        pairs.append(pair())
    seconds, against_seconds = (statistics.median(column) for column in zip(*pairs, strict=True))
    row = {"case": case, "path": path, "against": against, "seconds": seconds, "against_seconds": against_seconds}
    row |= {"ratio": against_seconds / seconds, "repeats": len(pairs), "first_seconds": first[0], "first_against_seconds": first[1]}
    row |= {"threads": torch.get_num_threads(), "device": device, "dtype": str(dtype).removeprefix("torch.")}
    row |= {"against_keeps_memory": against_keeps_memory, **sizes}
    if flops is not None:
        row |= {"flops": flops, "matrix_fraction": flops / seconds / matrix_rate(dtype, device)}
    if bytes_moved is not None:
        row |= {"bytes": bytes_moved, "bandwidth_fraction": bytes_moved / seconds / copy_bandwidth(device)}
    report(row)
    return row


def report(row: dict[str, Any]) -> None:
    """Prints one JSON object on one line, numbers with four digits."""
    print(json.dumps({name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}), flush=True)


@cache
def copy_bandwidth(device: str = "cpu") -> float:
    """Bytes per second of copying a large array, reading and writing counted; the best of five."""
    source = torch.zeros(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / min(_seconds(lambda: target.copy_(source), device) for _ in range(6))


@cache
def matrix_rate(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """Floating-point operations per second of multiplying two square matrices; the best of five."""
    left, right = torch.randn(2, MATRIX_SIDE, MATRIX_SIDE, device=device).to(dtype)
    return 2 * MATRIX_SIDE**3 / min(_seconds(lambda: left @ right, device) for _ in range(6))


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the machine was measured to do, as one row; print it once per benchmark."""
    found: dict[str, Any] = {"case": "machine", "device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    found |= {"copy_bytes_per_second": copy_bandwidth(device), "float32_flops_per_second": matrix_rate(torch.float32, device)}
    return found | {"bfloat16_flops_per_second": matrix_rate(torch.bfloat16, device)}


def _seconds(run: Callable[[], object], device: str) -> float:
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
