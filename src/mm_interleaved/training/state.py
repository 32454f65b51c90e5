"""Checkpoints of a run: a folder each, complete or absent.

    step-000012/  model.safetensors  ema.safetensors  optimizer.safetensors  config.json  state.json  manifest.json

Everything is written to a temporary folder, flushed to the disk and renamed; `manifest.json` (sizes and SHA-256 of the others)
is written last. Whenever the process is killed, the newest folder whose manifest holds is where the run goes on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mm_interleaved.checkpoint.native import sync
from mm_interleaved.checkpoint.rename import check_keys
from mm_interleaved.errors import CheckpointError, StorageError
from mm_interleaved.training.shards import divided_like, read_parts

KEPT = 2
"""Checkpoints that stay; older ones are removed."""

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""AdamW's state of one parameter."""


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint on the disk."""

    folder: Path
    state: dict[str, Any]
    """Step, sample index, recipe, versions."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.state["step"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one group, joined if every process wrote its part."""
        whole = self.folder / f"{name}.safetensors"
        return load_file(whole) if whole.exists() else read_parts(self.folder, name)


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    config: str,
    state: Mapping[str, Any],
    write: Callable[[Path], None] | None = None,
) -> Path:
    """Writes `folder/step-…` and removes all but the newest checkpoints.

    Args:
        tensors: file name without suffix → tensors by name.
        config: the model's configuration as JSON.
        write: writes the tensors into the temporary folder instead, where several processes do it together.

    Raises:
        StorageError: the disk is full or may not be written; earlier checkpoints are intact.
    """
    target = folder / f"step-{step:06d}"
    with whole_folder(target) as temporary:
        if write is not None:
            write(temporary)
        else:
            for name, group in tensors.items():
                save_file({key: value.detach().cpu().contiguous() for key, value in group.items()}, temporary / f"{name}.safetensors")
        (temporary / "config.json").write_text(config, encoding="utf-8")
        (temporary / "state.json").write_text(json.dumps({"step": step, **state}, indent=2), encoding="utf-8")
        _write_manifest(temporary)
    _point(folder / "latest", target.name)
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        # The manifest goes first, so that a half-removed checkpoint is never taken for a complete one.
        (old / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint below `folder`; damaged ones are passed over, leftovers of a killed process removed.

    Raises:
        CheckpointError: there are checkpoints, but all of them are damaged.
    """
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    candidates = sorted(folder.glob("step-*"), reverse=True)
    for candidate in candidates:
        if _complete(candidate):
            return Checkpoint(candidate, json.loads((candidate / "state.json").read_text(encoding="utf-8")))
    if candidates:
        raise CheckpointError(
            f"{folder}: none of its {len(candidates)} checkpoints is complete (sizes or SHA-256 differ from manifest.json); "
            "choose another output folder, or remove this one to start again."
        )
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments as `exp_avg/<parameter>` and so on; parameters that never had a gradient have none."""
    result = {}
    for name, parameter in _named(optimizer):
        for moment, value in optimizer.state.get(parameter, {}).items():
            result[f"{moment}/{name}"] = value
    return result


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts saved moments back.

    Raises:
        CheckpointError: a moment belongs to no parameter.
    """
    left = set(tensors)
    for name, parameter in _named(optimizer):
        own = {moment: tensors[f"{moment}/{name}"].clone() for moment in MOMENTS if f"{moment}/{name}" in tensors}
        left -= {f"{moment}/{name}" for moment in own}
        if own:
            # `step` stays a float tensor beside its parameter, as the fused kernel wants it.
            optimizer.state[parameter] = {
                moment: divided_like(parameter, value.to(parameter.device)) if moment != "step" else value.to(parameter.device)
                for moment, value in own.items()
            }
    if left:
        raise CheckpointError(f"optimizer.safetensors holds moments of {len(left)} unknown parameters, such as '{min(left)}'.")


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], *, where: str, only: Collection[str] | None = None) -> None:
    """Copies saved weights into a module of the same names and shapes.

    Args:
        only: the names that were saved; None: all.

    Raises:
        CheckpointError: a name is missing or surplus, or a shape differs.
    """
    own = {name: value for name, value in module.state_dict().items() if only is None or name in only}
    check_keys(tensors, {name: tuple(value.shape) for name, value in own.items()}, where=where)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends without an error.

    Raises:
        StorageError: the disk is full or may not be written; `target` is as it was.
    """
    temporary = target.parent / f".writing-{target.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            sync(path)
        sync(temporary)
        if target.exists():
            retired = target.parent / f".writing-{target.name}-old-{os.getpid()}"
            target.rename(retired)
            temporary.rename(target)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            temporary.rename(target)
        sync(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error(target, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
        StorageError: the disk is full or may not be written; the file is as it was.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: Exception) -> StorageError:
    """The error for a failed write, in words."""
    full = (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in str(error)
    reason = "the disk is full" if full else str(error)
    return StorageError(
        f"{path} could not be written: {reason}. What was saved before is intact; make room and run the same command again."
    )


def _named(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def _write_manifest(folder: Path) -> None:
    entries = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    for path in folder.iterdir():
        sync(path)
    (folder / "manifest.json").write_text(json.dumps(entries, indent=2), encoding="utf-8")


def _complete(folder: Path) -> bool:
    try:
        entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return all(
            (folder / name).stat().st_size == entry["size"] and _sha256(folder / name) == entry["sha256"] for name, entry in entries.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _point(link: Path, name: str) -> None:
    temporary = link.with_name(f".writing-{link.name}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(name)
        temporary.replace(link)
    except OSError:
        return  # a convenience for people; a file system without links loses nothing
