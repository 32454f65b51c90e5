"""Checks on a lent device that must not waste its time: each case stands alone, and none begins when the time is over."""

from __future__ import annotations

import faulthandler
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from measuring import report


class Cases:
    """Runs named cases, prints a JSON line of each, and remembers what failed."""

    def __init__(self, at_most: float) -> None:
        """
        Args:
            at_most: seconds after which no case is begun; a case that hangs ends the process half as many seconds later.
        """
        self.failed: list[str] = []
        self._began = time.perf_counter()
        self._at_most = at_most
        faulthandler.dump_traceback_later(1.5 * at_most, exit=True)

    def run(self, case: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Prints what `measure` found; an error, or `passed` false in its row, is a failure."""
        began = time.perf_counter()
        if began - self._began > self._at_most:
            report({"case": case, "not_measured": f"{self._at_most:.0f} s were over"})
            return
        try:
            row = measure()
        except Exception as error:
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {error}"[:300]}
        if "error" in row or not row.get("passed", True):
            self.failed.append(case)
        report({"case": case, **row, "taken": time.perf_counter() - began, "since_start": time.perf_counter() - self._began})

    def end(self) -> None:
        """Ends the process: status 1 if a case failed."""
        faulthandler.cancel_dump_traceback_later()
        report({"case": "end", "failed": self.failed, "seconds": time.perf_counter() - self._began})
        sys.exit(1 if self.failed else 0)


def seconds(run: Callable[[], object], device: str, *, rounds: int = 3) -> float:
    """The shortest of some rounds; what stands in the device's queue before is not counted."""
    found = []
    for _ in range(rounds):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        found.append(time.perf_counter() - began)
    return min(found)


def wait(device: str) -> None:
    """Until the device has done everything."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def profiled(run: Callable[[], object], device: str) -> dict[str, Any]:
    """How long the device computes during a run, in how many kernels, and which share the longest ones have."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        wait(device)
    kernels = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    computing = sum(event.self_device_time_total for event in kernels) / 1e6
    longest = {event.key[:70]: float(f"{event.self_device_time_total / 1e6 / computing:.3g}") for event in kernels[:12]}
    return {"computing_seconds": computing, "kernels": sum(event.count for event in kernels), "longest": longest}
