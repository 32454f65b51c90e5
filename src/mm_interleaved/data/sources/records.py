"""Containers → records, one after the other: JSON, JSON lines (also zipped or gzipped), Parquet, webdataset tars.

The container is chosen by the file's name; every format reads from any of them. A broken line is a record with a problem, so that
it is counted; a broken file ends with `Skip("not readable")`, after everything before the break has been given.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from mm_interleaved.data.sources.example import Record, Skip
from mm_interleaved.data.sources.files import Stream, open_stream
from mm_interleaved.errors import DataError

PARQUET_ROWS = 64
"""Rows that are decoded at once."""

TAR_END = 1024
"""Bytes of the zeros that end a tar."""

_BREAKS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError)
"""What a truncated or vanished file raises while it is read."""


def read_records(url: str, *, array: str | None = None) -> Iterator[Record]:
    """The records of one shard, in its order.

    Args:
        array: for a JSON file that is an object: the key of its list of records.

    Raises:
        Skip: the file is missing or broken, at the place where the break is.
        DataError: the name tells of no container that is read here, or a library is missing.
    """
    name = url.lower().rpartition("/")[2]
    for suffixes, reader in CONTAINERS.items():
        if name.endswith(suffixes):
            with open_stream(url) as stream:
                try:
                    yield from reader(stream, url, array)
                except _BREAKS as error:
                    raise Skip("not readable", f"{url}: {' '.join(str(error).split())[:200] or type(error).__name__}") from error
            return
    known = ", ".join(suffix for suffixes in CONTAINERS for suffix in suffixes)
    raise DataError(f"{url}: expected one of {known}; rename the file by what it holds.")


def _json_lines(stream: Stream, url: str, array: str | None) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield _parsed(line, f"{url}:{number}")


def _gzipped_lines(stream: Stream, url: str, array: str | None) -> Iterator[Record]:
    with gzip.GzipFile(fileobj=stream) as lines:
        yield from _json_lines(lines, url, array)


def _zipped_lines(stream: Stream, url: str, array: str | None) -> Iterator[Record]:
    with zipfile.ZipFile(stream) as archive:
        for member in archive.namelist():
            if not member.endswith("/"):
                with archive.open(member) as lines:
                    yield from _json_lines(lines, url if len(archive.namelist()) == 1 else f"{url}/{member}", array)


def _json(stream: Stream, url: str, array: str | None) -> Iterator[Record]:
    # Annotations only, so the file fits; JSON has no place where it could be cut.
    try:
        values = json.loads(stream.read())
    except (ValueError, RecursionError) as error:
        raise Skip("not readable", f"{url}: not valid JSON ({error})") from error
    if array is not None and isinstance(values, dict):
        values = values.get(array)
    if not isinstance(values, list):
        expected = "a list of records" if array is None else f"a list of records, or an object with '{array}'"
        raise Skip("not readable", f"{url}: expected {expected}, got {type(values).__name__}")
    for number, value in enumerate(values):
        yield _record(value, f"{url}[{number}]")


def _parquet(stream: Stream, url: str, array: str | None) -> Iterator[Record]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{url}: Parquet is read by pyarrow; install mm-interleaved[data].") from error
    number = 0
    try:
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=PARQUET_ROWS):
            for row in batch.to_pylist():
                yield Record(f"{url}[{number}]", row)
                number += 1
    except arrow.ArrowException as error:
        raise Skip("not readable", f"{url}: {' '.join(str(error).split())[:200]}") from error


def _tar(stream: Stream, url: str, array: str | None) -> Iterator[Record]:
    # webdataset's own grouping: members that share a name up to the first dot are one sample.
    try:
        from webdataset.tariterators import group_by_keys, tar_file_iterator
    except ImportError as error:
        raise DataError(f"{url}: webdataset tars are read by webdataset; install mm-interleaved[data].") from error
    ending = _Ending(stream)
    members = tar_file_iterator(ending)
    for sample in _whole(group_by_keys(_located(members, url)), url):
        key = sample["__key__"]
        fields = {name: value for name, value in sample.items() if not name.startswith("__")}
        place = f"{url}/{key}"
        if isinstance(encoded := fields.pop("json", None), bytes):
            described = _parsed(encoded, place)
            if described.problem is not None:
                yield described
                continue
            fields = described.fields | fields
        yield Record(place, fields | {"key": key})
    if not ending.marked():
        raise Skip("not readable", f"{url}: the archive has no end mark; it was cut short")


class _Ending:
    """A stream that remembers how it ended: a tar that is cut between two members reads as a shorter one without any error."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self._last = (self._last + block)[-TAR_END:]
        return block

    def marked(self) -> bool:
        """Reads on to the end; whether two empty blocks stand there."""
        while self.read(TAR_END * 64):
            pass
        return len(self._last) == TAR_END and not self._last.strip(b"\0")


def _whole(samples: Iterator[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    try:
        yield from samples
    except ValueError as error:  # webdataset's, about a name that stands twice in one sample
        raise Skip("not readable", f"{url}: {str(error)[:200]}") from error


def _located(members: Iterator[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    for member in members:
        yield member | {"__url__": url}


def _parsed(line: bytes, place: str) -> Record:
    try:
        return _record(json.loads(line), place)
    except (ValueError, RecursionError) as error:
        hint = "; it looks like a Python literal, JSON needs double quotes" if line.lstrip()[:2] == b"{'" else ""
        return Record(place, {}, Skip("not JSON", f"{error}{hint}"))


def _record(value: object, place: str) -> Record:
    if isinstance(value, dict):
        return Record(place, value)
    return Record(place, {}, Skip("wrong fields", f"expected an object, got {type(value).__name__}"))


Reader = Callable[[Stream, str, str | None], Iterator[Record]]

CONTAINERS: dict[tuple[str, ...], Reader] = {
    (".jsonl", ".ndjson", ".txt"): _json_lines,
    (".jsonl.gz", ".ndjson.gz", ".txt.gz"): _gzipped_lines,
    (".jsonl.zip", ".zip"): _zipped_lines,
    (".json",): _json,
    (".parquet",): _parquet,
    (".tar",): _tar,
}
"""Reader of each ending. A `.txt` holds one JSON object per line, as the published annotation files do."""


def text_of(value: object, name: str) -> str:
    """A field that should be text.

    Raises:
        Skip: it is something else.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Skip("wrong fields", f"'{name}' is not UTF-8") from error
    if not isinstance(value, str):
        raise Skip("wrong fields", f"'{name}' is {type(value).__name__}, expected text")
    return value


def list_of(value: object, name: str) -> list[Any]:
    """A field that should be a list.

    Raises:
        Skip: it is something else.
    """
    if not isinstance(value, list):
        raise Skip("wrong fields", f"'{name}' is {type(value).__name__}, expected a list")
    return value


def first_of(fields: dict[str, Any], *names: str) -> Any:
    """The first of several usual names that a record has.

    Raises:
        Skip: it has none of them.
    """
    for name in names:
        if fields.get(name) is not None:
            return fields[name]
    raise Skip("wrong fields", f"has none of {', '.join(names)}; it has {', '.join(sorted(fields)) or 'nothing'}")
