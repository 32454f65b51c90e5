"""`mmi convert`: the released checkpoint becomes ours, and ours becomes the released form again, bit for bit.

Nothing is loaded as a whole: names and shapes are compared first, then tensors go from file to file. What the released files were
called, which keys lay in which and in what order, is kept in `published_files.json`, so that the way back ends where it began.

Source: release `mm_interleaved_pretrain` (spec §9).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mm_interleaved.checkpoint.card import CARD_FILE, PUBLISHED_PARTS, model_card
from mm_interleaved.checkpoint.native import INDEX_FILE, WEIGHTS_FILE, read_config
from mm_interleaved.checkpoint.published import TABLE, config_from_published
from mm_interleaved.checkpoint.rename import check_keys
from mm_interleaved.checkpoint.shards import INDEX_SUFFIX, ShardSet, find_shards, open_shard, write_shard
from mm_interleaved.checkpoint.staging import check_sums, staged
from mm_interleaved.checkpoint.tokenizers import make_processor, read_tokenizer
from mm_interleaved.errors import CheckpointError
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration

RECORD_FILE = "published_files.json"
"""Names, keys and index of the released files, for the way back."""

SHARD_BYTES = 5 * 10**9
"""Largest file of our form, as transformers cuts them; a single larger tensor still gets a file of its own."""

PUBLISHED_SHARD_BYTES = 10 * 10**9
"""Largest file of the released form, for models that were never in it."""

_LISTED = 4
"""Keys that one error names."""

Progress = Callable[[str], None]
"""Is told the name of each file that is about to be written."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was done."""

    folder: Path
    tensors: int
    elements: int
    """Numbers in all tensors."""
    files: tuple[str, ...]
    """Weight files."""
    kept: tuple[str, ...]
    """Those of them that an earlier, interrupted run had finished."""
    source_checked: bool
    """Whether the source had checksums; they then fit."""


def convert_published(
    source: Path,
    target: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tokenizer: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Conversion:
    """Writes a released checkpoint in our form, with the configuration that makes it behave as released.

    Args:
        source: folder with the released `*.bin` files, or safetensors files of the same names.
        target: new folder; it appears when it is complete. An interrupted run is continued.
        config: the released constructor arguments, see `config_from_published`; None is the released 13-billion model.
        tokenizer: folder of the tokenizer that the release was trained with; without it the model gets no processor.
        shard_bytes: largest weight file.

    Raises:
        CheckpointError: a file is damaged or missing, or a key is missing, surplus or of another shape; file and key are named.
        ConfigError: the tokenizer has other ids than the model.
        StorageError: the target exists, or cannot be written.
    """
    native_config = config_from_published(dict(config) if config is not None else {"model": {}})
    processor = None
    if tokenizer is not None:
        processor = make_processor(read_tokenizer(tokenizer), native_config, where=str(tokenizer))
    empty = empty_model(native_config)
    shapes = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    shards = find_shards(source)
    checked = check_sums(source, shards.files)
    found = _read_all(shards)
    _check_published(shards, found, empty)
    flat = {key: tensor for tensors in found.values() for key, tensor in tensors.items()}
    renamed = TABLE.rename(flat, shapes, where=str(source))
    tensors = {name: renamed[name] for name in shapes}
    record = {
        "index_name": shards.index_name,
        "index_text": shards.index_text,
        "files": {name: list(keys) for name, keys in found.items()},
    }

    files = _cut(tensors, shard_bytes, stem="model", suffix="safetensors", single=WEIGHTS_FILE)
    plan = {"source": _identity(shards), "config": native_config.to_dict(), "files": files, "processor": str(tokenizer)}
    with staged(target, _plain(plan), size=_bytes(tensors.values())) as staging:
        _write_files(staging.make, files, tensors, progress)
        if len(files) > 1:
            _write_json(staging.folder / INDEX_FILE, _index(files, tensors))
        _write_json(staging.folder / RECORD_FILE, record)
        native_config.architectures = [MMInterleavedForConditionalGeneration.__name__]
        native_config.dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        native_config.save_pretrained(str(staging.folder))
        if processor is not None:
            processor.save_pretrained(str(staging.folder))
        description = "Converted from a released checkpoint of MM-Interleaved (arXiv 2401.10208) by `mmi convert published`."
        (staging.folder / CARD_FILE).write_text(model_card("MM-Interleaved", description, PUBLISHED_PARTS), encoding="utf-8")
    return _report(target, tensors, files, staging.kept, checked)


def convert_back(source: Path, target: Path, *, progress: Progress | None = None) -> Conversion:
    """Writes a checkpoint of ours in the released form: names, number types, order of keys, files and index as they were.

    Args:
        source: from `convert_published`, or a trained model with the released behaviour.
        target: new folder; it appears when it is complete. An interrupted run is continued.

    Raises:
        CheckpointError: a file is damaged, or the model has weights that the released form has no name for.
        StorageError: the target exists, or cannot be written.
    """
    config = read_config(source)
    shards = find_shards(source)
    checked = check_sums(source, shards.files)
    found = {key: tensor for tensors in _read_all(shards).values() for key, tensor in tensors.items()}
    own = empty_model(config).state_dict()
    check_keys(found, {name: tuple(tensor.shape) for name, tensor in own.items()}, where=str(source))
    tensors = TABLE.rename({name: found[name] for name in own}, direction="to_published", where=str(source))
    record = _read_record(source, set(tensors))
    files: dict[str, list[str]]
    if record is None:
        files = _cut(tensors, PUBLISHED_SHARD_BYTES, stem="pytorch_model", suffix="bin", single="pytorch_model.bin")
        index_name = f"pytorch_model.bin{INDEX_SUFFIX}" if len(files) > 1 else None
        index_text = json.dumps(_index(files, tensors), indent=2, sort_keys=True) + "\n"
    else:
        files, index_name, index_text = record["files"], record["index_name"], record["index_text"]
    with staged(target, _plain({"source": _identity(shards), "files": files}), size=_bytes(tensors.values())) as staging:
        _write_files(staging.make, files, tensors, progress)
        if index_name is not None:
            (staging.folder / index_name).write_text(index_text, encoding="utf-8")
    return _report(target, tensors, files, staging.kept, checked)


def empty_model(config: MMInterleavedConfig) -> MMInterleavedForConditionalGeneration:
    """A model without numbers: names and shapes only, no memory."""
    with torch.device("meta"):
        return MMInterleavedForConditionalGeneration(config)


def _read_all(shards: ShardSet) -> dict[str, dict[str, Tensor]]:
    opened: dict[str, dict[str, Tensor]] = {}
    origin: dict[str, str] = {}
    for name in shards.files:
        opened[name] = open_shard(shards.folder / name)
        for key in opened[name]:
            if key in origin:
                raise CheckpointError(f"{shards.folder / name}: the key '{key}' is also in {origin[key]}; keep one set of files.")
            origin[key] = name
    for key, name in (shards.weight_map or {}).items():
        if origin.get(key) != name:
            found = f"it is in {origin[key]}" if key in origin else "no file has it"
            raise CheckpointError(
                f"{shards.folder / name}: {shards.index_name} expects the key '{key}' here, {found}; download the set again."
            )
    for key, name in origin.items():
        if shards.weight_map is not None and key not in shards.weight_map:
            raise CheckpointError(f"{shards.folder / name}: {shards.index_name} does not list the key '{key}'; download the set again.")
    return opened


def _check_published(shards: ShardSet, found: Mapping[str, Mapping[str, Tensor]], empty: torch.nn.Module) -> None:
    """Holds every file to the released layout, so that errors name the file, too."""
    expected = {name: tuple(tensor.shape) for name, tensor in TABLE.rename(empty.state_dict(), direction="to_published").items()}
    missing = set(expected) - {key for tensors in found.values() for key in tensors}
    for name, tensors in found.items():
        path = shards.folder / name
        if surplus := [key for key in tensors if key not in expected]:
            nearest = get_close_matches(surplus[0], sorted(missing)[:2000], n=1, cutoff=0.6)
            hint = f" (nearest missing one: '{nearest[0]}')" if nearest else ""
            raise CheckpointError(f"{path}: {len(surplus)} keys that the model does not have: {_listed(surplus)}{hint}.")
        if differing := [key for key, tensor in tensors.items() if tuple(tensor.shape) != expected[key]]:
            key = differing[0]
            raise CheckpointError(
                f"{path}: {len(differing)} keys of another shape: '{key}' is {tuple(tensors[key].shape)}, the model has {expected[key]}; "
                "give the configuration that this checkpoint was made with (--config)."
            )
    if missing:
        listed = [key for key in expected if key in missing]
        raise CheckpointError(f"{shards.folder} ({', '.join(shards.files)}): {len(missing)} keys are missing: {_listed(listed)}.")


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(f"'{key}'" for key in keys[:_LISTED]) + more


def _cut(tensors: Mapping[str, Tensor], limit: int, *, stem: str, suffix: str, single: str) -> dict[str, list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + _bytes([tensor]) > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += _bytes([tensor])
    if len(groups) == 1:
        return {single: groups[0]}
    return {f"{stem}-{number:05d}-of-{len(groups):05d}.{suffix}": group for number, group in enumerate(groups, start=1)}


def _write_files(
    make: Callable[[str, Callable[[Path], None]], None],
    files: Mapping[str, list[str]],
    tensors: Mapping[str, Tensor],
    progress: Progress | None,
) -> None:
    for name, keys in files.items():
        if progress is not None:
            progress(name)
        make(name, partial(write_shard, tensors={key: tensors[key] for key in keys}))


def _index(files: Mapping[str, list[str]], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    weight_map = {key: name for name, keys in files.items() for key in keys}
    return {"metadata": {"total_size": _bytes(tensors.values())}, "weight_map": weight_map}


def _read_record(source: Path, keys: set[str]) -> dict[str, Any] | None:
    try:
        record = json.loads((source / RECORD_FILE).read_text(encoding="utf-8"))
        recorded = {key for listed in record["files"].values() for key in listed}
        inside = all(Path(name).name == name for name in (*record["files"], record["index_name"] or "x"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source / RECORD_FILE} cannot be read ({error!r}); remove it to get files of the usual names.") from error
    if recorded != keys or not inside:
        some = sorted(recorded ^ keys)[:1]
        raise CheckpointError(
            f"{source / RECORD_FILE} lists other keys than the weights ({some}); remove it to get files of the usual names."
        )
    return record


def _identity(shards: ShardSet) -> list[list[Any]]:
    stats = [(shards.folder / name).stat() for name in shards.files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(shards.files, stats, strict=True)]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values, default=str))


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors)


def _report(target: Path, tensors: Mapping[str, Tensor], files: Iterable[str], kept: Iterable[str], checked: bool) -> Conversion:
    elements = sum(tensor.numel() for tensor in tensors.values())
    return Conversion(folder=target, tensors=len(tensors), elements=elements, files=tuple(files), kept=tuple(kept), source_checked=checked)
