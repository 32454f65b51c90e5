"""A pass recorded as a CUDA graph: all its kernels are started at once, where starting them one by one takes longer than they run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mm_interleaved.errors import BackendError

WARM_UPS = 2
"""Passes before the recording: kernels are compiled and chosen, workspaces made."""


def record(run: Callable[[], tuple[Tensor, ...]], device: torch.device) -> Callable[[], tuple[Tensor, ...]]:
    """Records a pass that reads and writes the same tensors every time and never waits for the device.

    Args:
        run: the pass; it runs a few times before it is recorded, so repeating it must change nothing.
        device: where it runs.

    Returns:
        Repeats the pass on what stands in its tensors then, and gives copies of its results.

    Raises:
        BackendError: no CUDA device.
    """
    if device.type != "cuda":
        raise BackendError(f"a pass is recorded as a CUDA graph, but the model is on {device.type}; leave `recorded` off there.")
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the device meanwhile
            results = run()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return tuple(result.clone() for result in results)

    return replay
