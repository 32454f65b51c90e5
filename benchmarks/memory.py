"""Peak memory of MMFS, ours against the published form: `python benchmarks/memory.py` prints one JSON object per case and path.

Every figure comes from a fresh process: what the process held at most during one call (its high-water mark, set back before the call),
less what it held before, when the model and its inputs already lay in memory. `ratio` > 1 says how many times less ours needs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from measuring import report
from mmfs import LLM, UNET, fast_paths, paths

CASES = {
    "llm_forward": {"config": LLM, "queries": 1024, "images": 4, "cached": False, "backward": False},
    "llm_forward_backward": {"config": LLM, "queries": 1024, "images": 4, "cached": False, "backward": True},
    "unet_forward": {"config": UNET, "queries": 4096, "images": 1, "cached": True, "backward": False},
    "unet_forward_backward": {"config": UNET, "queries": 4096, "images": 1, "cached": False, "backward": True},
}

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def held(field: str) -> int:
    """Bytes of memory that this process holds (`VmRSS`) or held at most (`VmHWM`)."""
    return next(1024 * int(line.split()[1]) for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(field))


def once(case: str, path: str) -> int:
    """Bytes that one call of `path` needs at its peak, beyond what lay in memory before."""
    sizes = CASES[case]

    def run(queries: int) -> None:
        ours, published = paths(**sizes | {"queries": queries}, stored=torch.float32)
        call = published if path == "published_form" else ours(path)  # type: ignore[arg-type]
        with torch.set_grad_enabled(sizes["backward"]):
            RESET.write_text("5", encoding="ascii")
            before.append(held("VmRSS"))
            result = call()
            if sizes["backward"]:
                result.sum().backward()

    before: list[int] = []
    run(queries=1)  # libraries, threads and compiled code are not what is measured
    run(queries=sizes["queries"])
    return held("VmHWM") - before[-1]


def measured(case: str, path: str) -> int:
    call = [sys.executable, __file__, "--case", case, "--path", path]
    return int(json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, help="measure this case alone, in this process, and print its bytes")
    parser.add_argument("--path", help="with --case: the path to measure")
    chosen = parser.parse_args()
    if not RESET.exists():
        parser.exit(1, "benchmarks/memory.py reads /proc, which this system has not; run it on Linux.\n")
    if chosen.case is not None:
        print(once(chosen.case, chosen.path))
        return
    for case, sizes in CASES.items():
        against = measured(case, "published_form")
        for path in fast_paths():
            bytes_held = measured(case, path)
            row = {"case": case, "path": path, "against": "published_form", "bytes": bytes_held, "against_bytes": against}
            report(row | {"ratio": against / bytes_held, "queries": sizes["queries"], "images": sizes["images"]})


if __name__ == "__main__":
    main()
