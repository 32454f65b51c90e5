"""What this machine has and lacks, as a list of findings; `doctor.py` shows them."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from mm_interleaved.errors import MMInterleavedError

Finding = dict[str, Any]
"""`name`, `status` (ok, note or problem), `found`, and `advice` where there is something to do."""


def examine(model: Path | None, out: Path) -> list[Finding]:
    """All findings.

    Args:
        model: folder of a checkpoint; None is the model in the box.
        out: where results would be written.
    """
    return [*_versions(), *_devices(), *_allocator(), *_backends(), _model(model), _pack(), _disk(out)]


def _finding(name: str, found: str, status: str = "ok", advice: str = "") -> Finding:
    return {"name": name, "status": status, "found": found, "advice": advice}


def _versions() -> list[Finding]:
    from packaging.requirements import Requirement

    python = _finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    try:
        wanted = [Requirement(line) for line in metadata.requires("mm-interleaved") or []]
    except metadata.PackageNotFoundError:
        found = "runs from a source folder; version ranges are not known"
        return [python, _finding("mm-interleaved", found, "note", "install it: pip install -e .")]
    return [python, *(_library(each) for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""}))]


def _library(wanted: Any) -> Finding:
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return _finding(wanted.name, "not installed", "problem", f"pip install '{wanted}'")
    if wanted.specifier.contains(version, prereleases=True):
        return _finding(wanted.name, version)
    return _finding(wanted.name, f"{version}, expected {wanted.specifier}", "problem", f"pip install '{wanted}'")


def _devices() -> list[Finding]:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["Apple GPU"] if torch.backends.mps.is_available() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    fast = any(word in _cpu_flags() for word in ("avx512_bf16", "amx_bf16", "bf16")) or bool(names and torch.cuda.is_bf16_supported())
    bf16 = _finding("bf16", "in hardware") if fast else _finding("bf16", "not in hardware", "note", "training stays in float32")
    return [_finding("devices", ", ".join([*names, *mps, f"CPU with {cores} cores ({capability})"])), bf16]


def _cpu_flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])


def _allocator(maps: Path = Path("/proc/self/maps")) -> list[Finding]:
    # Long trainings on a CPU spend a tenth of their time in GNU's allocator and a tenth in pages that they asked for anew (docs/log.md).
    try:
        loaded = maps.read_text(encoding="utf-8")
    except OSError:
        return []
    found = next((name for name in ("tcmalloc", "jemalloc", "mimalloc") if f"/lib{name}" in loaded), None)
    if found is not None:
        return [_finding("memory allocator", found)]
    setting = "LD_PRELOAD=libtcmalloc_minimal.so.4 TCMALLOC_RELEASE_RATE=0 (Debian: libtcmalloc-minimal4)"
    return [_finding("memory allocator", "the C library's", "note", f"long trainings on a CPU are faster with tcmalloc: {setting}")]


def _backends() -> list[Finding]:
    import torch

    from mm_interleaved.ops.deformable import reasons

    findings = []
    for device in ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",):
        found = reasons(torch.zeros(1, 1, 1, 64, device=device))
        taken = next(name for name, reason in found.items() if reason is None)
        for name, reason in found.items():
            runs = "runs, and is taken" if name == taken else f"runs, but '{taken}' comes first"
            findings.append(_finding(f"deformable attention '{name}' on {device}", reason or runs, "note" if reason else "ok"))
    return findings


def _model(path: Path | None) -> Finding:
    from safetensors import safe_open

    from mm_interleaved.checkpoint.native import model_hash, read_config, weight_files
    from mm_interleaved.generation.load import BOX

    folder = BOX if path is None else path
    name = "model in the box" if path is None else f"model {path}"
    try:
        read_config(folder)
        parameters = 0
        for file in weight_files(folder):
            with safe_open(file, framework="pt") as opened:
                parameters += sum(_product(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118 - not a mapping
        found = f"{parameters / 1e6:.1f} M parameters, {parameters * 4 / 2**20:.0f} MiB of weights in memory, hash {model_hash(folder)}"
        return _finding(name, found)
    except (MMInterleavedError, OSError) as error:
        return _finding(name, str(error), "problem", "train one with 'mmi train', or install a wheel that contains it")


def _product(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _pack() -> Finding:
    from mm_interleaved.data.playground.pack import Pack

    try:
        pack = Pack.load()
        return _finding("pack of drawings", f"{len(pack.things)} things in {len(pack.styles)} styles")
    except MMInterleavedError as error:
        return _finding("pack of drawings", str(error), "note", "it is needed for training only")


def _disk(out: Path) -> Finding:
    folder = next((place for place in (out, *out.absolute().parents) if place.exists()), Path())
    free = shutil.disk_usage(folder).free
    low = free < 2**30
    advice = "training needs more than 1 GiB" if low else ""
    return _finding("disk", f"{free / 2**30:.1f} GiB free for {out}", "note" if low else "ok", advice)
