"""Where the tensors recorded from the published code are read from.

A case is `NAME.safetensors` beside `NAME.json` in the folder of its kind. Tests list the folder, so that another set of the same
format (other sizes, other seeds) is tested by the same code: set `MMI_PARITY_FIXTURES` to its folder. What comes from the release's
code and not from the set, such as the sides that its UNet is configured for, stands in `config_from_published` alone.

`MMI_PARITY_REPORT=FILE` writes the worst error of every case as a Markdown table.

Each case is one test, which runs every check of its kind; tests beside them hold what belongs to no case. What a case was recorded
with decides which checks it gets (`check_files` refuses one that has nothing to compare); none is ever skipped.

Tolerances, of max|a - b| / max|b| of a tensor: both sides are float32 and add in another order. The published code itself is up to
9e-6 away from its own float64 result, ours was at most 3e-6 away from it; `TOLERANCE` leaves room for other machines and sizes, and a
wrong weight, norm, mask or level gives more than 1e-3. Gradients pass the whole depth twice and add over all positions.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

FIXTURES = Path(os.environ.get("MMI_PARITY_FIXTURES", Path(__file__).parent / "fixtures"))
"""Folder with one sub-folder per kind of case."""

REPORT = os.environ.get("MMI_PARITY_REPORT")
"""File for the worst error of every case."""

TOLERANCE = 1e-4
"""Of values."""

GRADIENT_TOLERANCE = 1e-3
"""Of gradients."""

Kind = Literal["values", "gradients"]

COMPARED: dict[str, tuple[str, ...]] = {
    "mmfs_op": ("out.output",),
    "visual_tokenizer": ("out.vis_embed",),
    "llama_mmfs": ("out.logits", "out.prefill_logits"),
    "sd_unet_mmfs": ("out.sample", "out.decoded"),
    "whole_model": ("out.loss",),
    "generate": ("out.text_ids", "out.latents"),
}
"""Kinds of cases, and the results of which each case has one; the checks of a case are chosen by them."""

_worst: dict[str, dict[Kind, float]] = defaultdict(dict)
_current: list[str] = []


def cases(kind: str) -> list[Path]:
    """Lists the recorded cases of one kind, for `pytest.mark.parametrize(..., ids=case_name)`.

    A case of which one of the two files is missing is listed too, and fails when it is read.

    Raises:
        FileNotFoundError: there is none; a kind without cases is a failure, never a skip.
    """
    files = [path for ending in ("safetensors", "json") for path in (FIXTURES / kind).glob(f"*.{ending}")]
    found = sorted({path.with_suffix(".safetensors") for path in files})
    if not found:
        raise FileNotFoundError(f"no parity case in {FIXTURES / kind}; set MMI_PARITY_FIXTURES to the folder of recorded tensors.")
    return found


def case_name(path: Path) -> str:
    """Readable test id of a case."""
    return path.stem


def tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of one case."""
    return load_file(path)


def record(path: Path) -> dict[str, Any]:
    """Reads the JSON beside the tensors of one case: configuration, notes, tolerances."""
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def check_files(path: Path) -> None:
    """Holds the two files of a case to each other, and asks for a result that its kind can be compared by."""
    case = tensors(path)
    assert record(path)["tensors"] == {
        name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in case.items()
    }
    assert set(COMPARED[path.parent.name]) & set(case)


def numbered(values: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """Collects `prefix.0`, `prefix.1`, … in order."""
    found: list[Tensor] = []
    while (name := f"{prefix}.{len(found)}") in values:
        found.append(values[name])
    return found


def padded(noise: Tensor, steps: int) -> Tensor:
    """The recorded noise of each step; where a run ends at timestep 0, released code draws none for the last one."""
    missing = steps - noise.shape[0]
    return torch.cat([noise, noise.new_zeros(missing, *noise.shape[1:])])


@cache
def published_weights() -> dict[str, Tensor]:
    """Reads the whole recorded state dict, with the published names."""
    return load_file(FIXTURES / "model" / "state_dict.safetensors")


@cache
def published_record() -> dict[str, Any]:
    """Reads the JSON of the recorded state dict: constructor arguments under `config`, trainable flags, buffers."""
    return json.loads((FIXTURES / "model" / "state_dict.json").read_text(encoding="utf-8"))


def relative_error(found: Tensor, expected: Tensor, *, kind: Kind = "values") -> float:
    """Largest difference as a fraction of the largest expected magnitude; infinite when the shapes differ.

    Args:
        kind: under which it goes into the report.
    """
    if found.shape != expected.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    difference = (found.detach().double() - expected.double()).abs().max()
    error = float(difference / expected.double().abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    for case in _current:
        _worst[case][kind] = max(error, _worst[case].get(kind, 0.0))
    return error


@pytest.fixture(autouse=True)
def _current_case(request: pytest.FixtureRequest) -> Iterator[None]:
    """Errors are counted for the case of the running test."""
    path = getattr(request.node, "callspec", None) and request.node.callspec.params.get("path")
    _current[:] = [f"{path.parent.name}/{path.stem}"] if isinstance(path, Path) else []
    yield
    _current.clear()


def pytest_sessionfinish() -> None:
    if REPORT is None or not _worst:
        return
    rows = [f"| `{case}` | {_shown(errors, 'values')} | {_shown(errors, 'gradients')} |" for case, errors in sorted(_worst.items())]
    Path(REPORT).write_text("\n".join(["| case | values | gradients |", "|---|---|---|", *rows]) + "\n", encoding="utf-8")


def _shown(errors: dict[Kind, float], kind: Kind) -> str:
    return f"{errors[kind]:.1e}" if kind in errors else "–"
