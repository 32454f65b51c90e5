"""A folder that is written in many steps and appears when it is complete.

Until then it lies beside its place as `.NAME.unfinished`. A run that was killed, or whose source could not be reached, leaves it, and
the next one goes on behind the last finished file if it would write the same; after any other error it is removed.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mm_interleaved.checkpoint.native import sync
from mm_interleaved.checkpoint.shards import is_disk_full, sha256_of
from mm_interleaved.errors import CheckpointError, DownloadError, StorageError

CHECKSUMS_FILE = "SHA256SUMS"
"""In the format of `sha256sum --check`."""

_PLAN_FILE = ".plan.json"
_DONE_FILE = ".done.json"
_NOTES_FILE = ".notes.json"
_LOCK_FILE = ".lock"
_SCRATCH = ".scratch"

_SPARE_BYTES = 64 * 2**20
"""Left free on the disk, for everything besides weights."""


class Staging:
    """The unfinished folder; its files are made one by one."""

    def __init__(self, folder: Path, done: dict[str, str], notes: dict[str, Any]) -> None:
        self.folder = folder
        """Where files are written for now."""
        self.done = done
        """Finished files and their SHA-256."""
        self.notes = notes
        """What an earlier run noted, for the end."""
        self.kept: list[str] = []
        """Files that an earlier run had finished."""
        self.scratch = folder / _SCRATCH
        """Folder for what is needed for a while and does not stay."""

    def stands(self, name: str) -> bool:
        """Whether an earlier run finished a file; it is then kept."""
        if name not in self.kept:
            path = self.folder / name
            if name not in self.done or not path.is_file() or sha256_of(path) != self.done[name]:
                return False
            self.kept.append(name)
        return True

    def make(self, name: str, write: Callable[[Path], None]) -> None:
        """Writes one file, unless it stands there already with the right checksum."""
        if self.stands(name):
            return
        path = self.folder / name
        write(path)
        sync(path)
        self.done[name] = sha256_of(path)
        _write_json(self.folder / _DONE_FILE, self.done)

    def note(self, name: str, value: Any) -> None:
        """Keeps something for the end, or for the next run, as JSON."""
        self.notes[name] = value
        _write_json(self.folder / _NOTES_FILE, self.notes)


@contextmanager
def staged(folder: Path, plan: Mapping[str, Any], *, size: int) -> Iterator[Staging]:
    """Hands out an unfinished folder, and gives it its name at the end.

    Args:
        folder: must not exist, or be empty.
        plan: what is written, as JSON; an unfinished folder of another plan is thrown away.
        size: bytes that will be written, to see early that the disk is too small.

    Raises:
        StorageError: the folder exists, another process writes it, or the disk is full.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise StorageError(f"{folder} exists already; choose another folder, or remove it.")
    partial = folder.with_name(f".{folder.name}.unfinished")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / _LOCK_FILE).open("w") as lock:
            _lock(lock.fileno(), folder)
            try:
                staging = _open(partial, json.loads(json.dumps(plan)))
                _check_space(folder, size - sum((partial / name).stat().st_size for name in staging.done if (partial / name).is_file()))
                yield staging
                lines = [f"{digest}  {name}\n" for name, digest in sorted(staging.done.items())]
                (partial / CHECKSUMS_FILE).write_text("".join(lines), encoding="utf-8")
                sync(partial / CHECKSUMS_FILE)
                shutil.rmtree(staging.scratch, ignore_errors=True)
                for name in (_PLAN_FILE, _DONE_FILE, _NOTES_FILE, _LOCK_FILE):
                    (partial / name).unlink(missing_ok=True)
                if folder.exists():
                    folder.rmdir()
                partial.rename(folder)
                sync(folder.parent)
            except DownloadError:
                raise  # the next run goes on
            except Exception as error:
                # What failed would fail again, and a half of a large model fills the disk. A killed run comes by another way.
                shutil.rmtree(partial, ignore_errors=True)
                if isinstance(error, StorageError):
                    raise StorageError(f"{folder}: {error} Nothing was left behind.") from error
                raise
    except (OSError, RuntimeError) as error:
        full = is_disk_full(error)
        if isinstance(error, RuntimeError) and not full:
            raise
        advice = "the disk is full; free space" if full else "check that the folder can be written"
        raise StorageError(f"{folder} cannot be written ({error}): {advice}. Nothing was left behind.") from error


def check_sums(folder: Path, names: tuple[str, ...]) -> bool:
    """Compares weight files with the folder's checksums.

    Args:
        names: the files that are looked at.

    Returns:
        False where the folder has no checksums.

    Raises:
        CheckpointError: a file has changed since it was written.
    """
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return False
    expected = {line[66:].strip(): line[:64] for line in path.read_text(encoding="utf-8").splitlines()}
    for name in names:
        if name in expected and sha256_of(folder / name) != expected[name]:
            raise CheckpointError(
                f"{folder / name} is not the file that {CHECKSUMS_FILE} names; copy it again, or remove {CHECKSUMS_FILE} if you changed it."
            )
    return True


def _open(partial: Path, plan: dict[str, Any]) -> Staging:
    if _read_json(partial / _PLAN_FILE) != plan:
        for path in partial.iterdir():
            if path.name != _LOCK_FILE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        _write_json(partial / _PLAN_FILE, plan)
    done, notes = (_read_json(partial / name) for name in (_DONE_FILE, _NOTES_FILE))
    return Staging(partial, done if isinstance(done, dict) else {}, notes if isinstance(notes, dict) else {})


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StorageError(f"{folder} is being written by another process; wait for it, or choose another folder.") from None


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < needed + _SPARE_BYTES:
        raise StorageError(f"{needed / 2**30:.2f} GiB would be written, but the disk is full: {free / 2**30:.2f} GiB are free; free space.")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # an unfinished folder is no input: what cannot be read is made again


def _write_json(path: Path, values: Any) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(values), encoding="utf-8")
    fresh.replace(path)
