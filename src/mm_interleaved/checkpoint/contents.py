"""What weight files have to hold: each key once, where the index says, of a name and a shape that the model has.

Every refusal names the file and the key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from torch import Tensor

from mm_interleaved.checkpoint.shards import ShardSet, open_shard
from mm_interleaved.errors import CheckpointError

_LISTED = 4
"""Keys that one error names."""


def open_all(shards: ShardSet) -> dict[str, dict[str, Tensor]]:
    """Opens all files of a folder and holds them to their index; tensors stay in the files.

    Raises:
        CheckpointError: a file is damaged, or a key stands twice or elsewhere than the index says.
    """
    opened = {name: open_shard(shards.folder / name) for name in shards.files}
    check_index(shards, opened)
    return opened


def check_index(shards: ShardSet, opened: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Holds files to the index, where there is one.

    Args:
        opened: some or all files of the set.

    Raises:
        CheckpointError: a key stands twice, or elsewhere than the index says.
    """
    origin: dict[str, str] = {}
    for name, tensors in opened.items():
        for key in tensors:
            if key in origin:
                raise CheckpointError(f"{shards.folder / name}: the key '{key}' is also in {origin[key]}; keep one set of files.")
            origin[key] = name
    if shards.weight_map is None:
        return
    for key, name in shards.weight_map.items():
        if name in opened and origin.get(key) != name:
            found = f"it is in {origin[key]}" if key in origin else "it is not"
            raise CheckpointError(
                f"{shards.folder / name}: {shards.index_name} expects the key '{key}' here, {found}; download the set again."
            )
    for key, name in origin.items():
        if shards.weight_map.get(key) != name:
            raise CheckpointError(
                f"{shards.folder / name}: {shards.index_name} does not list the key '{key}' here; download the set again."
            )


def check_names(shards: ShardSet, keys: Mapping[str, Collection[str]], expected: Mapping[str, Tensor]) -> None:
    """Holds the keys of all files to the model.

    Args:
        keys: those of each file.
        expected: tensors of the right shapes by the same names.

    Raises:
        CheckpointError: a key is surplus or missing.
    """
    missing = set(expected) - {key for listed in keys.values() for key in listed}
    for name, listed in keys.items():
        if surplus := [key for key in listed if key not in expected]:
            nearest = get_close_matches(surplus[0], sorted(missing)[:2000], n=1, cutoff=0.6)
            hint = f" (nearest missing one: '{nearest[0]}')" if nearest else ""
            raise CheckpointError(f"{shards.folder / name}: {len(surplus)} keys that the model does not have: {_listed(surplus)}{hint}.")
    if missing:
        absent = [key for key in expected if key in missing]
        raise CheckpointError(f"{shards.folder} ({', '.join(shards.files)}): {len(missing)} keys are missing: {_listed(absent)}.")


def check_shapes(shards: ShardSet, opened: Mapping[str, Mapping[str, Tensor]], expected: Mapping[str, Tensor]) -> None:
    """Holds the shapes in some or all files to the model; arguments and errors as in `check_names`."""
    for name, tensors in opened.items():
        if differing := [key for key, tensor in tensors.items() if tensor.shape != expected[key].shape]:
            key = differing[0]
            raise CheckpointError(
                f"{shards.folder / name}: {len(differing)} keys of another shape: '{key}' is {tuple(tensors[key].shape)}, the model has "
                f"{tuple(expected[key].shape)}; give the configuration that this checkpoint was made with (--config)."
            )


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(f"'{key}'" for key in keys[:_LISTED]) + more
