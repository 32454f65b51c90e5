"""A collection: what one family of tasks needs besides the pack, as one file `collections/NAME.zip`.

The archive begins with `collection.json`: version, origins with their licences, the SHA-256 of every other member
and the content's own description. One file is put in place by one rename, so there is never half a collection.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mm_interleaved.errors import DataError, StorageError

DEFAULT_FOLDER = Path(__file__).parents[1] / "collections"
DESCRIPTION = "collection.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A package that a collection was made from."""

    package: str
    version: str
    licence: str


class Collection:
    """A collection, open for reading. Safe to share between threads."""

    def __init__(self, path: Path, description: Mapping[str, Any], archive: zipfile.ZipFile) -> None:
        self.path = path
        self.content: dict[str, Any] = dict(description["content"])
        """What the builder wrote about its members."""
        self._sums: dict[str, str] = dict(description["sha256"])
        self._archive = archive
        self._lock = threading.Lock()

    @property
    def members(self) -> tuple[str, ...]:
        """Names of all files."""
        return tuple(self._sums)

    def read(self, member: str) -> bytes:
        """One file's bytes.

        Raises:
            DataError: there is no such file, or it was changed.
        """
        try:
            with self._lock:
                content = self._archive.read(member)
        except (KeyError, zipfile.BadZipFile, OSError, EOFError) as error:
            raise DataError(f"{self.path}: {member} cannot be read ({error}); {_again(self.path.stem)}.") from error
        if hashlib.sha256(content).hexdigest() != self._sums.get(member):
            raise DataError(f"{self.path}: {member} was changed; {_again(self.path.stem)}.")
        return content


@lru_cache(maxsize=16)
def load_collection(name: str, version: int, folder: Path | None = None) -> Collection:
    """Opens a collection after checking its version; its members are checked when they are read.

    Args:
        version: the one that the asking task was written for.
        folder: where collections are; None means those inside this package.

    Raises:
        DataError: it is missing, unreadable, or of another version.
    """
    path = (DEFAULT_FOLDER if folder is None else folder) / f"{name}.zip"
    try:
        archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        description = json.loads(archive.read(DESCRIPTION))
        found = description["version"]
    except FileNotFoundError as error:
        raise DataError(f"no collection in {path}; {_again(name)}.") from error
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise DataError(f"the collection {path} cannot be read ({error}); {_again(name)}.") from error
    if found != version:
        raise DataError(f"the collection {path} has version {found!r}, this program reads version {version}; {_again(name)}.")
    try:
        return Collection(path, description, archive)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the collection {path} lacks a field of its description ({error}); {_again(name)}.") from error


def write_collection(
    name: str, version: int, origins: Sequence[Origin], content: Mapping[str, Any], files: Mapping[str, bytes], folder: Path | None = None
) -> Path:
    """Writes a collection and puts it in place in one step; the same arguments give the same bytes.

    Args:
        content: JSON-able description of the files.
        files: member → bytes.
        folder: where collections are; None means those inside this package.

    Raises:
        StorageError: it cannot be written; an older one is still there.
    """
    folder = DEFAULT_FOLDER if folder is None else Path(folder)
    path, fresh = folder / f"{name}.zip", folder / f".{name}.zip.fresh"
    description = {
        "version": version,
        "origins": [asdict(origin) for origin in origins],
        "content": dict(content),
        "sha256": {member: hashlib.sha256(files[member]).hexdigest() for member in files},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as archive:
                _add(archive, DESCRIPTION, (json.dumps(description, ensure_ascii=False, indent=1) + "\n").encode())
                for member, content_of in files.items():
                    _add(archive, member, content_of)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"the collection {path} cannot be written ({error}); free some space or name another folder.") from error
    return path


def _add(archive: zipfile.ZipFile, member: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    # Texts are compressed here; pictures and fonts are so already.
    entry.compress_type = zipfile.ZIP_DEFLATED if member.endswith((".json", ".txt")) else zipfile.ZIP_STORED
    archive.writestr(entry, content)


def _again(name: str) -> str:
    return f"make it again with `mmi data build PACKAGES --part {name}`"
