"""The finished samples of one evaluation: files that only grow, one for every process that makes samples.

OUT/samples.jsonl        a first line with the protocol, then one line per finished sample; those of one process alone
OUT/samples-I-of-N.jsonl   the same, of part I of N
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mm_interleaved.errors import ConfigError, DataError, StorageError
from mm_interleaved.export.files import write_atomically

SAMPLES = "samples"
"""Beginning of the names of the files."""

WHOLE = (0, 1)
"""The part that is everything."""

Part = tuple[int, int]
"""(which, of how many)."""


class Store:
    """What was finished in a folder by whichever process; new samples go to the own part's file."""

    def __init__(self, folder: Path, protocol: Mapping[str, Any], part: Part = WHOLE) -> None:
        """
        Args:
            protocol: what decides what a sample becomes; samples made under another one are refused.
            part: of how many processes this is which.

        Raises:
            ConfigError: the folder holds samples of another protocol.
            DataError: a file was changed and cannot be read.
            StorageError: the folder cannot be read or written.
        """
        self._path = folder / (f"{SAMPLES}.jsonl" if part == WHOLE else f"{SAMPLES}-{part[0]}-of-{part[1]}.jsonl")
        self.records: dict[tuple[str, int], dict[str, Any]] = {}
        """(task, index) → the finished sample."""
        for path in sorted({*folder.glob(f"{SAMPLES}*.jsonl"), self._path}):
            lines = _read(path, mend=path == self._path)
            if lines:
                _check(path, lines[0].get("protocol"), protocol)
            elif path == self._path:
                write_atomically(path, _line({"protocol": protocol}))
            for record in lines[1:]:
                self.records.setdefault((record["task"], record["index"]), record)

    def append(self, record: dict[str, Any]) -> None:
        """Adds one finished sample; it is on disk when this returns."""
        line = _line(record)
        try:
            with self._path.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written ({error}); free some space, then run the same command again.") from error
        # As a resumed run will read it: the order of a mapping's keys is the order of the figures.
        self.records[record["task"], record["index"]] = json.loads(line)


def read_samples(folder: Path) -> tuple[dict[str, Any], dict[tuple[str, int], dict[str, Any]]]:
    """The protocol of a finished or unfinished evaluation, and its samples.

    Raises:
        DataError: there is none, or a file cannot be read.
    """
    protocol: dict[str, Any] = {}
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted(folder.glob(f"{SAMPLES}*.jsonl")):
        first, *lines = _read(path, mend=False) or [{}]
        protocol = protocol or first.get("protocol", {})
        for record in lines:
            records.setdefault((record["task"], record["index"]), record)
    if not protocol:
        raise DataError(f"{folder} holds no samples of an evaluation; give the folder that `mmi evaluate -o` wrote.")
    return protocol, records


def _check(path: Path, earlier: Any, protocol: Mapping[str, Any]) -> None:
    if earlier != protocol:
        before = earlier if isinstance(earlier, dict) else {}
        differing = sorted(name for name in before.keys() | protocol.keys() if before.get(name) != protocol.get(name))
        raise ConfigError(
            f"{path} holds samples of another evaluation (different: {', '.join(differing)}); "
            "choose another output folder, or the settings of that one."
        )


def _read(path: Path, *, mend: bool) -> list[dict[str, Any]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error}); choose another output folder.") from error
    whole = content[: content.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise DataError(f"{path} was changed and cannot be read ({error}); remove it to measure again.") from error
    if mend and len(whole) < len(content) and whole:
        write_atomically(path, whole)  # the run was killed inside its last line; that sample is made again
    return lines


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n").encode()
