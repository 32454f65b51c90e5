"""`mmi convert`: the released checkpoint becomes ours, and ours becomes the released form again, bit for bit.

Nothing is loaded as a whole: names and shapes are compared first, then tensors go from file to file, one released file after the
other. What the released files were called, which keys lay in which and in what order, is kept in `published_files.json`, so that the
way back ends where it began.

Source: release `mm_interleaved_pretrain` (spec §9).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mm_interleaved.checkpoint.card import CARD_FILE, PUBLISHED_PARTS, model_card
from mm_interleaved.checkpoint.contents import check_index, check_names, check_shapes, open_all
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
    """Whether the source had checksums, its own or those of a hub; they then fit."""


def convert_published(
    source: Path | ShardSet,
    target: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tokenizer: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Conversion:
    """Writes a released checkpoint in our form, with the configuration that makes it behave as released.

    Names, and shapes where the files are at hand, are compared before anything is written. Then one released file after the other
    becomes files of ours, so that of a set on a hub (`hub.find_hub_shards`) only one lies on the disk at a time.

    Args:
        source: folder with the released `*.bin` files, or safetensors files of the same names; or such a set.
        target: new folder; it appears when it is complete. An interrupted run is continued.
        config: the released constructor arguments, see `config_from_published`; None is the released 13-billion model.
        tokenizer: folder of the tokenizer that the release was trained with; without it the model gets no processor.
        shard_bytes: largest weight file.

    Raises:
        CheckpointError: a file is damaged or missing, or a key is missing, surplus or of another shape; file and key are named.
        ConfigError: the tokenizer has other ids than the model.
        DownloadError: a file cannot be fetched; what was finished stays for the next run.
        StorageError: the target exists, or cannot be written.
    """
    native_config = config_from_published(dict(config) if config is not None else {"model": {}})
    processor = None
    if tokenizer is not None:
        processor = make_processor(read_tokenizer(tokenizer), native_config, where=str(tokenizer))
    own = empty_model(native_config).state_dict()
    expected = TABLE.rename(own, direction="to_published")
    shards = find_shards(source) if isinstance(source, Path) else source
    checked = not shards.at_hand or check_sums(shards.folder, shards.files)
    keys = _keys(shards, expected)
    ours = dict(zip(expected, own, strict=True))
    order = {name: place for place, name in enumerate(own)}
    held = {name: sorted((ours[key] for key in listed), key=order.__getitem__) for name, listed in keys.items()}
    pieces = _pieces(shards, held, own, shard_bytes)
    files = {file: names for made in pieces.values() for file, names in made.items()}
    plan = {"source": shards.identity(), "config": native_config.to_dict(), "files": files, "processor": str(tokenizer)}
    with staged(target, _plain(plan), size=_disk_bytes(shards)) as staging:
        for name, made in pieces.items():
            if name in staging.notes and all(staging.stands(file) for file in made):
                continue
            with shards.file(name, staging.scratch) as path:
                found = {name: open_shard(path)}
                check_index(shards, found)
                if shards.weight_map is None and not shards.at_hand:
                    check_names(shards, found, expected)
                check_shapes(shards, found, expected)
                _write_files(staging.make, made, TABLE.rename(found[name]), progress)
                staging.note(name, list(found[name]))
        tensors = {key: tensor for file in files for key, tensor in open_shard(staging.folder / file).items()}
        if len(files) > 1:
            _write_json(staging.folder / INDEX_FILE, _index(files, tensors))
        record = {"index_name": shards.index_name, "index_text": shards.index_text}
        _write_json(staging.folder / RECORD_FILE, record | {"files": {name: staging.notes[name] for name in shards.files}})
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
    found = {key: tensor for tensors in open_all(shards).values() for key, tensor in tensors.items()}
    own = empty_model(config).state_dict()
    check_keys(found, {name: tuple(tensor.shape) for name, tensor in own.items()}, where=str(source))
    tensors = TABLE.rename({name: found[name] for name in own}, direction="to_published", where=str(source))
    record = _read_record(source, set(tensors))
    files: dict[str, list[str]]
    if record is None:
        groups = _cut({name: _bytes([tensor]) for name, tensor in tensors.items()}, PUBLISHED_SHARD_BYTES)
        files = dict(zip(_file_names(len(groups), stem="pytorch_model", suffix="bin", single="pytorch_model.bin"), groups, strict=True))
        index_name = f"pytorch_model.bin{INDEX_SUFFIX}" if len(files) > 1 else None
        index_text = json.dumps(_index(files, tensors), indent=2, sort_keys=True) + "\n"
    else:
        files, index_name, index_text = record["files"], record["index_name"], record["index_text"]
    with staged(target, _plain({"source": shards.identity(), "files": files}), size=_bytes(tensors.values())) as staging:
        _write_files(staging.make, files, tensors, progress)
        if index_name is not None:
            (staging.folder / index_name).write_text(index_text, encoding="utf-8")
    return _report(target, tensors, files, staging.kept, checked)


def empty_model(config: MMInterleavedConfig) -> MMInterleavedForConditionalGeneration:
    """A model without numbers: names and shapes only, no memory."""
    with torch.device("meta"):
        return MMInterleavedForConditionalGeneration(config)


def _keys(shards: ShardSet, expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The keys of each file, held to the model; shapes too, if the files are at hand."""
    if shards.at_hand:
        opened = open_all(shards)
        keys = {name: list(tensors) for name, tensors in opened.items()}
        check_names(shards, keys, expected)
        check_shapes(shards, opened, expected)
        return keys
    if shards.weight_map is None:
        return {name: list(expected) for name in shards.files}  # one file, which is looked at when it is there
    keys = {name: [] for name in shards.files}
    for key, name in shards.weight_map.items():
        keys[name].append(key)
    check_names(shards, keys, expected)
    return keys


def _pieces(shards: ShardSet, held: Mapping[str, list[str]], shapes: Mapping[str, Tensor], limit: int) -> dict[str, dict[str, list[str]]]:
    """For each released file the files that it becomes, and the names in them; known before anything is fetched."""
    groups: dict[str, list[list[str]]] = {}
    for name, names in held.items():
        numbers = sum(shapes[each].numel() for each in names)
        # Bytes of a number: those of the largest type that fits the size of the file, which is a little more than that of its numbers.
        width = next((bytes_ for bytes_ in (1, 2, 4) if shards.size(name) <= 1.02 * bytes_ * numbers), 8)
        groups[name] = _cut({each: width * shapes[each].numel() for each in names}, limit)
    files = iter(_file_names(sum(map(len, groups.values())), stem="model", suffix="safetensors", single=WEIGHTS_FILE))
    return {name: {next(files): group for group in each} for name, each in groups.items()}


def _disk_bytes(shards: ShardSet) -> int:
    """The most that lies on the disk at once besides a source that was there before."""
    written = most = 0
    for name in shards.files:
        written += shards.size(name)
        most = max(most, written if shards.at_hand else written + shards.size(name))
    return most


def _cut(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    groups: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not groups or filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _file_names(count: int, *, stem: str, suffix: str, single: str) -> list[str]:
    return [single] if count == 1 else [f"{stem}-{number:05d}-of-{count:05d}.{suffix}" for number in range(1, count + 1)]


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


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values, default=str))


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors)


def _report(target: Path, tensors: Mapping[str, Tensor], files: Iterable[str], kept: Iterable[str], checked: bool) -> Conversion:
    elements = sum(tensor.numel() for tensor in tensors.values())
    return Conversion(folder=target, tensors=len(tensors), elements=elements, files=tuple(files), kept=tuple(kept), source_checked=checked)
