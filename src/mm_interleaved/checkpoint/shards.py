"""Weight files of any size, one tensor at a time: tensors lie in mapped files and are copied from file to file by the system.

Reading gives tensors that live in the file and take no memory of their own; writing hands each of them on at once. So a checkpoint
larger than the memory can be renamed and cut into other shards.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import pickle
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mm_interleaved.errors import CheckpointError, StorageError

INDEX_SUFFIX = ".index.json"

_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Number types of safetensors files, by the names in their headers."""

_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_LARGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""

_WORDS_OF_A_FULL_DISK = ("No space left", "file write failed", "iostream error", "unexpected pos")
"""The last three are torch's: a write that took fewer bytes than it was given, the stream's failure, and the end of file after it."""

_SHARD_NAME = re.compile(r"(.+)-(\d+)-of-(\d+)\.(?:bin|safetensors)")


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """The weight files of one folder."""

    folder: Path
    files: tuple[str, ...]
    """File names in order."""
    index_name: str | None = None
    """Name of the index file, if there is one."""
    index_text: str | None = None
    """Its text, to be written again as it was."""
    weight_map: Mapping[str, str] | None = None
    """Key → file, as the index has it."""

    @property
    def at_hand(self) -> bool:
        """Whether all files can be opened at any time; otherwise each is fetched when it is needed and does not stay."""
        return True

    def size(self, name: str) -> int:
        """Bytes of one file."""
        return (self.folder / name).stat().st_size

    def identity(self) -> list[list[Any]]:
        """What tells this set from every other, as JSON."""
        return [[name, self.size(name), (self.folder / name).stat().st_mtime_ns] for name in self.files]

    @contextmanager
    def file(self, name: str, scratch: Path) -> Iterator[Path]:
        """Hands out one file.

        Args:
            scratch: folder for what is fetched.
        """
        yield self.folder / name


def find_shards(folder: Path) -> ShardSet:
    """Finds the weight files of a folder: those of its index, else one set of `*.safetensors`, else one of `*.bin`.

    Raises:
        CheckpointError: there are none, one is missing, or files of several sets lie together.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return ShardSet(folder=folder, **choose_shards(folder, names, lambda name: (folder / name).read_text(encoding="utf-8")))


def choose_shards(folder: Path, names: Sequence[str], read: Callable[[str], str]) -> dict[str, Any]:
    """Chooses the weight files among the names in a folder; the fields of `ShardSet`. Rules and errors as in `find_shards`.

    Args:
        folder: for messages.
        read: gives the text of an index file.
    """
    for kind in ("safetensors", "bin"):
        indices = sorted(name for name in names if name.endswith(f".{kind}{INDEX_SUFFIX}"))
        files = sorted(name for name in names if name.endswith(f".{kind}"))
        if len(indices) > 1:
            raise CheckpointError(f"{folder} holds several indices: {', '.join(indices)}; keep one set of files.")
        if indices:
            return _by_index(folder / indices[0], files, read)
        if files:
            _check_one_set(folder, files)
            return {"files": tuple(files)}
    raise CheckpointError(f"{folder} holds neither *.safetensors nor *.bin; give the folder of the checkpoint.")


def _by_index(path: Path, files: list[str], read: Callable[[str], str]) -> dict[str, Any]:
    folder = path.parent
    try:
        text = read(path.name)
        weight_map = json.loads(text)["weight_map"]
        named = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read as an index ({error!r}); download it again.") from error
    for name in named:
        if Path(name).name != name:
            raise CheckpointError(f"{path} names the file '{name}' outside the folder; download it again.")
        if name not in files:
            key = next(key for key, file in weight_map.items() if file == name)
            raise CheckpointError(f"{folder / name} is missing; {path.name} expects '{key}' in it. Copy the file, too.")
    if surplus := [name for name in files if name not in named]:
        raise CheckpointError(f"{folder / surplus[0]} is not named by {path.name}: files of several sets lie together; remove one set.")
    return {"files": tuple(named), "index_name": path.name, "index_text": text, "weight_map": weight_map}


def _check_one_set(folder: Path, files: list[str]) -> None:
    found = [_SHARD_NAME.fullmatch(name) for name in files]
    if not any(found):
        return  # plain names: all of them together, and no key twice
    sets = {(match[1], int(match[3])) if match else (name, 0) for match, name in zip(found, files, strict=True)}
    if len(sets) > 1:
        raise CheckpointError(f"{folder} holds files of several sets: {', '.join(files[:6])}; keep one set of files.")
    ((stem, total),) = sets
    present = {int(match[2]) for match in found if match}
    if missing := sorted(set(range(1, total + 1)) - present):
        raise CheckpointError(f"{folder}: shard {missing[0]} of {total} of '{stem}' is missing; copy the file, too.")


def open_shard(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, in their order; they stay in the file until they are used.

    Raises:
        CheckpointError: the file is damaged or cut off, would run code, or holds something else than tensors.
    """
    return _open_safetensors(file) if file.suffix == ".safetensors" else _open_pickle(file)


def _open_pickle(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file} holds more than tensors and could run code when it is read; it was not opened ({error}).") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"{file} is damaged or cut off ({error}); download it again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} holds a {type(found).__name__}, expected are tensors by name.")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise CheckpointError(f"{file}: '{key}' is a {type(value).__name__}, expected is a dense tensor.")
    return dict(found)


def _open_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size - 8, _LARGEST_HEADER):
                raise ValueError(f"its header would be {length} bytes long")
            header: dict[str, Any] = json.loads(stream.read(length))
            # A private mapping: tensors may not be written to a read-only one, and nobody writes.
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        header.pop("__metadata__", None)
        return {key: _mapped_tensor(mapped, 8 + length, key, entry) for key, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{file} is damaged or cut off ({error}); copy or download it again.") from error


def _mapped_tensor(mapped: mmap.mmap, start: int, key: str, entry: dict[str, Any]) -> Tensor:
    dtype, shape = _DTYPES.get(entry["dtype"]), tuple(entry["shape"])
    if dtype is None:
        raise ValueError(f"'{key}' has the number type {entry['dtype']}, which is not supported")
    begin, end = entry["data_offsets"]
    count = 1
    for side in shape:
        count *= side
    if end - begin != count * dtype.itemsize or start + end > len(mapped):
        raise ValueError(f"'{key}' does not lie in the file as its header says")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start + begin).reshape(shape)


def write_shard(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one file, safetensors or pickle by its suffix; keys keep their order, and only one tensor is in memory at a time.

    Raises:
        StorageError: the disk became full; the tensor that did not fit is named.
        OSError: it cannot be written for another reason.
        CheckpointError: a tensor has a number type that safetensors lacks.
    """
    try:
        if file.suffix == ".safetensors":
            _write_safetensors(file, tensors)
        else:
            # Each mapped tensor is a storage of its own, so that exactly its bytes are written.
            torch.save(dict(tensors), file)
    except (OSError, RuntimeError) as error:
        if not is_disk_full(error):
            raise
        key = _key_at(file.stat().st_size if file.exists() else 0, tensors)
        raise StorageError(f"{file.name} cannot be written at '{key}' ({error}): the disk is full; free space.") from error


def is_disk_full(error: Exception) -> bool:
    """Whether writing failed for want of space; torch's own writer says so in words alone."""
    return getattr(error, "errno", None) == errno.ENOSPC or any(words in str(error) for words in _WORDS_OF_A_FULL_DISK)


def _key_at(written: int, tensors: Mapping[str, Tensor]) -> str:
    """The tensor that is being written when so many bytes of a file stand."""
    ends = accumulate(tensor.numel() * tensor.dtype.itemsize for tensor in tensors.values())
    return next((key for key, end in zip(tensors, ends, strict=True) if end > written), list(tensors)[-1])


def _write_safetensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for key, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise CheckpointError(f"'{key}' is {tensor.dtype}, which safetensors files cannot hold.")
        end = position + tensor.numel() * tensor.dtype.itemsize
        header[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begin at a multiple of 8 bytes
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            if tensor.numel():
                stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
