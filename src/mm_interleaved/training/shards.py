"""Weights that are divided among processes (FSDP2): their own parts, and checkpoints in which every process writes its part.

    model-rank-00-of-02.safetensors   rows of every divided tensor, in the order of ranks; what is not divided is in the first file

Joined along their first axis the parts are the whole tensors, so that a run may go on with another number of processes or none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mm_interleaved.errors import CheckpointError

DIVIDED = "divided"
"""Key of a file's metadata: names of the tensors that stand in it in part."""


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its rows of a divided one, sharing memory, or all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def divided_like(like: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor, the same in every process, divided as `like` is."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_of(tensor: Tensor) -> Tensor:
    """The whole tensor, in every process; all have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def write_parts(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], *, rank: int, ranks: int) -> None:
    """Writes this process's parts of each group of tensors into `folder`.

    Raises:
        OSError: the disk is full or may not be written.
    """
    for group, members in tensors.items():
        divided = [name for name, value in members.items() if isinstance(value, DTensor)]
        own = {name: value for name, value in members.items() if rank == 0 or isinstance(value, DTensor)}
        values = {name: own_part(value.detach()).cpu().contiguous().clone() for name, value in own.items()}
        save_file(values, _part_file(folder, group, rank, ranks), metadata={DIVIDED: json.dumps(divided)})


def read_parts(folder: Path, group: str) -> dict[str, Tensor]:
    """The whole tensors of a group, joined from the parts of all processes.

    Raises:
        CheckpointError: a part is missing.
    """
    files = sorted(folder.glob(f"{group}-rank-*-of-*.safetensors"))
    if not files or len(files) != int(files[0].stem.rpartition("-")[2]):
        raise CheckpointError(f"{folder}: {len(files)} parts of '{group}' are there, not all; the checkpoint is incomplete.")
    parts: dict[str, list[Tensor]] = {}
    divided: set[str] = set()
    for path in files:
        with safe_open(path, framework="pt") as file:
            divided |= set(json.loads(file.metadata()[DIVIDED]))
            for name in file.keys():  # noqa: SIM118  (no mapping)
                parts.setdefault(name, []).append(file.get_tensor(name))
    return {name: torch.cat(found) if name in divided else found[0] for name, found in parts.items()}


def _part_file(folder: Path, group: str, rank: int, ranks: int) -> Path:
    return folder / f"{group}-rank-{rank:02d}-of-{ranks:02d}.safetensors"
