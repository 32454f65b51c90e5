"""Where the tensors recorded from the published code are read from.

A case is `NAME.safetensors` beside `NAME.json` in the folder of its kind. Tests list the folder, so that another set of the same
format (other sizes, other seeds) is tested by the same code: set `MMI_PARITY_FIXTURES` to its folder.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FIXTURES = Path(os.environ.get("MMI_PARITY_FIXTURES", Path(__file__).parent / "fixtures"))
"""Folder with one sub-folder per kind of case."""


def cases(kind: str) -> list[Path]:
    """Lists the recorded cases of one kind, for `pytest.mark.parametrize(..., ids=case_name)`.

    Raises:
        FileNotFoundError: there is none; a kind without cases is a failure, never a skip.
    """
    found = sorted((FIXTURES / kind).glob("*.safetensors"))
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


def numbered(values: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """Collects `prefix.0`, `prefix.1`, … in order."""
    found: list[Tensor] = []
    while (name := f"{prefix}.{len(found)}") in values:
        found.append(values[name])
    return found


@cache
def published_weights() -> dict[str, Tensor]:
    """Reads the whole recorded state dict, with the published names."""
    return load_file(FIXTURES / "model" / "state_dict.safetensors")


@cache
def published_record() -> dict[str, Any]:
    """Reads the JSON of the recorded state dict: constructor arguments under `config`, trainable flags, buffers."""
    return json.loads((FIXTURES / "model" / "state_dict.json").read_text(encoding="utf-8"))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a fraction of the largest expected magnitude; infinite when the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    difference = (found.detach().double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max().clamp(min=torch.finfo(torch.float32).tiny))
