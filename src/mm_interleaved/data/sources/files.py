"""Files of sources, wherever they lie: local paths and every fsspec URL (`s3://`, `gs://`, `hf://`, `https://`, `memory://` …).

Files are opened as streams and read from front to back; nothing is copied whole to this machine. A picture named by a web address
inside somebody's annotations is fetched only where the recipe says `fetch: true`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import fsspec
import numpy as np
from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]  # its stub lacks the error
from fsspec.core import url_to_fs

from mm_interleaved.data.sources.example import Skip
from mm_interleaved.document import Image
from mm_interleaved.errors import DataError, DocumentError
from mm_interleaved.picture_file import MAX_BYTES, size_of

Stream: TypeAlias = Any
"""A readable binary stream. fsspec's file systems return classes of their own that share no base."""

WEB = ("http://", "https://", "ftp://")


def open_stream(url: str) -> Stream:
    """Opens a file for reading from its beginning.

    Raises:
        Skip: it is not there or cannot be opened.
    """
    try:
        return fsspec.open(url, "rb").open()
    # fsspec's file systems raise whatever their own libraries do (OSError, botocore's, aiohttp's, ImportError of a missing library).
    except Exception as error:
        raise Skip("not readable", f"{url}: {_reason(error)}") from error


def list_shards(patterns: Sequence[str], *, where: str) -> tuple[str, ...]:
    """All files that the patterns name, sorted within each pattern: `{000..127}` counts, `*` matches, a folder means all in it.

    Raises:
        DataError: a pattern names nothing, or a file twice.
    """
    found: list[str] = []
    for pattern in patterns:
        try:
            names = list(braceexpand(pattern))
        except UnbalancedBracesError as error:
            raise DataError(f"{where}: '{pattern}' has a brace without its partner; write {{000..127}}.") from error
        for name in names:
            found += _matching(name, where)
    twice = sorted({name for name in found if found.count(name) > 1}) if len(set(found)) < len(found) else []
    if twice:
        raise DataError(f"{where}: '{twice[0]}' is named twice; its samples would count double. Name every file once.")
    return tuple(found)


def _matching(name: str, where: str) -> list[str]:
    try:
        system, path = url_to_fs(name)
        if "*" in name or "?" in name:
            paths = sorted(system.glob(path))
        elif system.isdir(path):
            paths = sorted(entry for entry in system.find(path) if not PurePosixPath(entry).name.startswith("."))
        elif "://" in name or system.exists(path):
            return [name]
        else:
            paths = []
    except Exception as error:  # see open_stream
        raise DataError(f"{where}: '{name}' cannot be listed ({_reason(error)}); check the address and its library.") from error
    if not paths:
        raise DataError(f"{where}: '{name}' names no file; expected shards there. Check the path, relative to the current folder.")
    return [system.unstrip_protocol(entry) if "://" in name else entry for entry in paths]


class Pictures:
    """Reads the pictures that records refer to."""

    def __init__(self, root: str | None, *, fetch: bool = False, blank: bool = False) -> None:
        """
        Args:
            root: folder (path or URL) that names are relative to; None: the current folder.
            fetch: also open web addresses.
            blank: give black pictures of the sizes that the files' heads tell, and decode nothing.
        """
        self._root = "" if root is None else root.rstrip("/") + "/"
        self._fetch = fetch
        self._blank = blank

    def read(self, reference: object, *, alt: str = "") -> Image:
        """The picture behind a name, an address, a data URI, bytes, or Parquet's `{"bytes": …, "path": …}`.

        Raises:
            Skip: it is missing, broken, or may not be read.
        """
        if isinstance(reference, dict):
            reference = reference.get("bytes") or reference.get("path") or reference.get("url")
        if isinstance(reference, str):
            encoded = self._bytes_of(reference)
            where = reference[:80]
        elif isinstance(reference, bytes | bytearray):
            encoded, where = bytes(reference), "picture"
        else:
            raise Skip("wrong fields", f"a picture is {type(reference).__name__}, expected a name or bytes")
        try:
            if self._blank:
                width, height = size_of(encoded, where)
                return Image.from_array(np.zeros((height, width, 3), dtype=np.uint8), alt=alt)
            return Image.from_bytes(encoded, alt=alt, where=where)
        except DocumentError as error:
            raise Skip("broken image", str(error)) from error

    def _bytes_of(self, reference: str) -> bytes:
        if reference.startswith("data:"):
            try:
                return base64.b64decode(reference.partition(",")[2], validate=True)
            except (binascii.Error, ValueError) as error:
                raise Skip("broken image", f"data URI: {error}") from error
        if reference.startswith(WEB) and not self._fetch:
            raise Skip("missing image", f"{reference} is a web address; set fetch: true, or download it first")
        if "://" not in reference:
            if not reference or ".." in PurePosixPath(reference).parts or (self._root and reference.startswith("/")):
                raise Skip("unsafe path", repr(reference))
            reference = self._root + reference
        try:
            with fsspec.open(reference, "rb") as file:
                encoded = file.read(MAX_BYTES + 1)
        except Exception as error:  # see open_stream
            raise Skip("missing image", f"{reference}: {_reason(error)}") from error
        if len(encoded) > MAX_BYTES:
            raise Skip("broken image", f"{reference} is larger than {MAX_BYTES // 2**20} MiB")
        return encoded


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
