"""Builds the wheel, installs it into an environment of its own in an empty folder, and runs `mmi demo` there.

    python scripts/check_wheel.py          prints one JSON object: seconds and sizes of each step, peak memory of the demonstration

What it proves: nothing that the demonstration needs is left behind in the repository.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Runs the four steps; the first that fails ends the check with its output."""
    report: dict[str, float | int | list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = folder / "environment"
        python = environment / "bin" / "python"
        empty = folder / "empty"
        empty.mkdir()
        seconds = _run([sys.executable, "-m", "venv", str(environment)], folder)
        _run([str(python), "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder / "wheel"), str(ROOT)], folder)
        wheel = next((folder / "wheel").glob("*.whl"))
        report["wheel_bytes"] = wheel.stat().st_size
        constraints = str(ROOT / "constraints.txt")
        seconds += _run([str(python), "-m", "pip", "install", "--quiet", "-c", constraints, str(wheel)], folder)
        report["install_seconds"] = round(seconds, 1)
        report["installed_bytes"] = sum(file.stat().st_size for file in environment.rglob("*") if file.is_file())
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        report["demo_seconds"] = round(_run([str(environment / "bin" / "mmi"), "demo"], empty), 1)
        report["demo_peak_bytes"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        report["peak_of_earlier_steps_bytes"] = before * 1024
        report["pages"] = sorted(str(page.relative_to(empty)) for page in empty.rglob("*.html"))
    print(json.dumps(report, indent=2))


def _run(command: list[str], folder: Path) -> float:
    started = time.perf_counter()
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{' '.join(command)} failed with status {finished.returncode}:\n{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
