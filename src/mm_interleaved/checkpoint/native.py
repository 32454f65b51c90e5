"""Our own checkpoints: a folder as transformers writes it, written whole or not at all and read exactly or not at all.

    config.json   model.safetensors, or shards with model.safetensors.index.json   the processor's files

`from_pretrained` alone only warns of missing and surplus keys; here the names and shapes in the files are held to the model before
anything is loaded.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from mm_interleaved.checkpoint import auto  # noqa: F401  (whoever reads or writes checkpoints can use the Auto classes)
from mm_interleaved.checkpoint.rename import check_keys
from mm_interleaved.errors import CheckpointError, ConfigError, StorageError
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.name_patterns import LEFT_OUT, fits_any, is_chosen

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

FORMAT_VERSION = 1
"""Newest layout of names that this code reads; `MMInterleavedConfig.format_version` of a checkpoint."""

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

HASH_DIGITS = 12


class SavesItself(Protocol):
    """What writes its files into a folder: a processor, a tokenizer."""

    def save_pretrained(self, save_directory: str) -> Any: ...


class _ShapeOnly:
    """Stands for a tensor of which only the header was read."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)


def save_model(model: PreTrainedModel, processor: SavesItself | None, folder: Path) -> Path:
    """Writes a checkpoint; the folder appears complete or not at all.

    Args:
        model: `MMInterleavedForConditionalGeneration`.
        processor: saved beside the weights; None leaves it out.
        folder: a checkpoint that stands there is replaced.

    Returns:
        The folder.

    Raises:
        StorageError: something else stands there, or it cannot be written.
    """
    if folder.exists() and not (folder / CONFIG_FILE).is_file() and not _is_empty(folder):
        raise StorageError(f"{folder} exists and is no checkpoint (it has no {CONFIG_FILE}); choose another folder.")
    with _replacing(folder) as partial:
        # Names are written as the model has them; transformers would otherwise write those of older upstream versions.
        model.save_pretrained(str(partial), save_original_format=False)
        if processor is not None:
            processor.save_pretrained(str(partial))
    return folder


def load_model(folder: Path, **options: Any) -> PreTrainedModel:
    """Reads a checkpoint exactly.

    Args:
        folder: from `save_model`.
        options: of `from_pretrained`: `dtype`, `device_map`, `attn_implementation`, `quantization_config`, ….

    Returns:
        `MMInterleavedForConditionalGeneration` in evaluation mode.

    Raises:
        CheckpointError: a file is missing or damaged, the layout is newer, or names or shapes do not fit the model.
    """
    from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration

    config = read_config(folder)
    headers = _headers(folder)
    with torch.device("meta"):
        empty = MMInterleavedForConditionalGeneration(config)
    expected = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    check_keys(headers, expected, where=str(folder))
    model: PreTrainedModel
    report: dict[str, Any]
    try:
        model, report = MMInterleavedForConditionalGeneration.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{folder} cannot be loaded: {error}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(kind):
            raise CheckpointError(
                f"{folder}: {kind.replace('_', ' ')} after loading: {sorted(map(str, report[kind]))[:8]}; convert it again."
            )
    return model


def load_parts(model: nn.Module, folder: Path, parts: Sequence[str]) -> list[str]:
    """Copies the weights below some prefixes from another checkpoint of ours, so that parts trained apart are joined.

    Args:
        model: takes the weights, in its own dtype and on its own device.
        folder: from `save_model`; its other weights are not read.
        parts: beginnings of names up to a dot, such as `visual_tokenizer` or `image_decoder.vae`; glob patterns that begin with `!`, such
            as `!*synchronizer*`, leave names below them out.

    Returns:
        The names that were copied.

    Raises:
        CheckpointError: in these parts the names or shapes differ, or the model has nothing there.
    """
    read_config(folder)
    own = model.state_dict()
    prefixes = [part for part in parts if not part.startswith(LEFT_OUT)]
    excluded = [part for part in parts if part.startswith(LEFT_OUT)]
    for prefix in prefixes:
        if not any(_below(name, [prefix]) for name in own):
            known = sorted({name.split(".")[0] for name in own})
            raise CheckpointError(f"the model has no weights below '{prefix}'; its parts are: {', '.join(known)}.")
    below = [name for name in own if _below(name, prefixes)]
    for pattern in excluded:
        if not fits_any(pattern, below):
            raise CheckpointError(f"'{pattern}' leaves nothing out: no weight of the model below {', '.join(prefixes)} is called so.")
    patterns = ["*", *excluded]
    headers = {name: header for name, header in _headers(folder).items() if _below(name, prefixes) and is_chosen(name, patterns)}
    expected = {name: tuple(own[name].shape) for name in below if is_chosen(name, patterns)}
    check_keys(headers, expected, where=f"{folder} below {', '.join(parts)}")
    for file in weight_files(folder):
        with _opened(file) as opened, torch.no_grad():
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                if name in expected:
                    own[name].copy_(opened.get_tensor(name))
    return sorted(expected)


def read_config(folder: Path) -> MMInterleavedConfig:
    """Reads the configuration of a checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, of another kind of model, or newer than this code.
    """
    values = _read_json(folder / CONFIG_FILE)
    if values.get("model_type") != MMInterleavedConfig.model_type:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: model_type is {values.get('model_type')!r}, expected is '{MMInterleavedConfig.model_type}'; "
            "convert a foreign checkpoint first."
        )
    version = values.get("format_version", 1)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: format_version is {version!r}, this installation reads up to {FORMAT_VERSION}; "
            "install a newer mm-interleaved."
        )
    try:
        return MMInterleavedConfig.from_dict(values)
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """Lists the weight files of a checkpoint, sorted by name.

    Raises:
        CheckpointError: there are none, or the index names one that is not there.
    """
    if (folder / INDEX_FILE).is_file():
        names = sorted(set(_read_json(folder / INDEX_FILE).get("weight_map", {}).values()))
        for name in names:
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder / name} is missing, {INDEX_FILE} names it; copy the checkpoint again.")
        files = [folder / name for name in names]
    else:
        files = [folder / WEIGHTS_FILE] if (folder / WEIGHTS_FILE).is_file() else []
    if not files:
        raise CheckpointError(f"{folder} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}; it is no complete checkpoint.")
    return files


def model_hash(folder: Path) -> str:
    """Names a checkpoint by its weights: the first digits of a SHA-256 over the names and hashes of its weight files.

    Hashes of files are kept in memory until a file's size or time of change differs.

    Raises:
        CheckpointError: there are no weights.
    """
    total = hashlib.sha256()
    for file in weight_files(folder):
        status = file.stat()
        total.update(f"{file.name} {_file_hash(file, status.st_size, status.st_mtime_ns)}\n".encode())
    return total.hexdigest()[:HASH_DIGITS]


@lru_cache(maxsize=256)
def _file_hash(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _headers(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Any] = {}
    for file in weight_files(folder):
        with _opened(file) as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                if name in found:
                    raise CheckpointError(f"{file}: the key '{name}' is also in another file of the checkpoint; save it again.")
                found[name] = _ShapeOnly(opened.get_slice(name).get_shape())
    return found


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged or cut off ({error}); copy or save it again.") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; give the folder of a checkpoint.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy the checkpoint again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds no object; copy the checkpoint again.")
    return values


def _below(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in prefixes)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Hands out a new folder beside `folder` and puts it in its place when all is written."""
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                sync(file)
        partial.chmod(0o777 & ~_umask())
        old = partial.with_name(partial.name + ".old")
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        advice = "the disk is full; free space" if full else "check that the folder can be written"
        raise StorageError(f"{folder} cannot be written ({error}): {advice}. What stood there before is unchanged.") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until the disk has a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    # mkdtemp makes folders that only their owner may enter; a checkpoint gets what the user's other folders get.
    mask = os.umask(0)
    os.umask(mask)
    return mask
