"""Weight files of a model hub, one on the disk at a time: fetched, held to the hub's checksum, handed out, deleted.

huggingface_hub fetches: it goes on by itself where a connection broke, and reads the usual variables (`HF_ENDPOINT`, `HF_TOKEN`,
`HF_HUB_OFFLINE`). All files come from one commit; if the hub has another one by the next run, that run begins anew.
"""

from __future__ import annotations

import errno
import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from mm_interleaved.checkpoint.shards import INDEX_SUFFIX, ShardSet, choose_shards
from mm_interleaved.errors import CheckpointError, ConfigError, DownloadError

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w./-]+?))?/?")

_LARGEST_INDEX = 50 * 2**20
"""Bytes; the released index has 0.3 MB."""

_FAILURES = (OSError, ValueError, HTTPError)
"""What huggingface_hub raises when it cannot give a file; `HTTPError` is that of its HTTP library, whichever that is."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """What the hub says of one file."""

    path: str
    """In the repository."""
    size: int
    """Bytes."""
    sha256: str | None
    """Checksum of a large file."""
    blob: str | None
    """Git's checksum, the only one of small files."""


@dataclass(frozen=True, kw_only=True)
class HubShardSet(ShardSet):
    """The weight files of one folder of a repository; `folder` is its name there."""

    repository: str
    commit: str
    remote: Mapping[str, RemoteFile]
    """What the hub says of each file."""

    @property
    def at_hand(self) -> bool:
        return False

    def size(self, name: str) -> int:
        return self.remote[name].size

    def identity(self) -> list[list[Any]]:
        return [[self.repository, self.commit], *([each.path, each.sha256, each.blob] for each in self.remote.values())]

    @contextmanager
    def file(self, name: str, scratch: Path) -> Iterator[Path]:
        """Fetches one file and deletes it afterwards.

        Raises:
            DownloadError: it cannot be fetched, or is not the file that the hub names.
        """
        path = _fetch(self.repository, self.commit, self.remote[name], scratch)
        yield path
        path.unlink()


def find_hub_shards(hub_id: str, *, revision: str | None = None) -> HubShardSet:
    """Finds the weight files of a repository; only its list of files and the index are fetched.

    Args:
        hub_id: `OWNER/NAME`, or `OWNER/NAME/FOLDER` where several folders hold weights.
        revision: branch, tag or commit; None is the main branch.

    Raises:
        ConfigError: the id has another form.
        DownloadError: the hub does not answer, or has no such repository.
        CheckpointError: there are no weights, several folders have some, or a set is incomplete.
    """
    match = _HUB_ID.fullmatch(hub_id)
    if match is None or ".." in hub_id:
        raise ConfigError(f"hub id '{hub_id}': expected OWNER/NAME, or OWNER/NAME/FOLDER.")
    repository, inside = match[1], match[2]
    try:
        found = HfApi().model_info(repository, revision=revision, files_metadata=True)
    except _FAILURES as error:
        raise _unreachable(repository, error) from error
    remote = {
        each.rfilename: RemoteFile(
            path=each.rfilename, size=each.size or 0, sha256=each.lfs.sha256 if each.lfs else None, blob=None if each.lfs else each.blob_id
        )
        for each in found.siblings or ()
    }
    commit = str(found.sha)
    folder = _folder(hub_id, inside, list(remote))
    near = {PurePosixPath(path).name: each for path, each in remote.items() if PurePosixPath(path).parent == folder}
    where = Path(repository) / folder

    def read(name: str) -> str:
        if near[name].size > _LARGEST_INDEX:
            raise ValueError(f"it has {near[name].size} bytes")
        with tempfile.TemporaryDirectory() as scratch:
            return _fetch(repository, commit, near[name], Path(scratch)).read_text(encoding="utf-8")

    chosen = choose_shards(where, list(near), read)
    files = chosen["files"]
    if len(files) > 1 and "weight_map" not in chosen:
        raise CheckpointError(f"{where} holds {len(files)} weight files and no index (*{INDEX_SUFFIX}); download them and give the folder.")
    return HubShardSet(folder=where, repository=repository, commit=commit, remote={name: near[name] for name in files}, **chosen)


def _folder(hub_id: str, inside: str | None, paths: list[str]) -> PurePosixPath:
    holding = sorted({PurePosixPath(path).parent for path in paths if path.endswith((".bin", ".safetensors"))})
    if inside is not None:
        if PurePosixPath(inside) in holding:
            return PurePosixPath(inside)
        raise CheckpointError(f"{hub_id} holds no *.safetensors or *.bin; folders with weights: {_names(holding) or 'none'}.")
    if len(holding) != 1:
        advice = f"name one of its folders behind the id: {_names(holding)}" if holding else "it has no *.safetensors or *.bin"
        raise CheckpointError(f"{hub_id} has weights in {len(holding)} folders; {advice}.")
    return holding[0]


def _names(folders: list[PurePosixPath]) -> str:
    return ", ".join(str(folder) for folder in folders)


def _fetch(repository: str, commit: str, wanted: RemoteFile, scratch: Path) -> Path:
    try:
        path = Path(hf_hub_download(repository, wanted.path, revision=commit, local_dir=scratch))
    except _FAILURES as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise _unreachable(f"{repository}/{wanted.path}", error) from error
    found, expected = _sum(path, wanted)
    if found != expected:
        path.unlink()
        raise DownloadError(
            f"{repository}/{wanted.path}: the hub names the checksum {expected}, {found} came; the file was deleted. Run the same command "
            "again; what was finished before is kept."
        )
    return path


def _sum(path: Path, wanted: RemoteFile) -> tuple[str, str]:
    """The checksum of a file and the one that the hub names, of the same kind."""
    with path.open("rb") as stream:
        if wanted.sha256 is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest(), wanted.sha256
        # Git's checksum of a file is that of its length and its bytes.
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while chunk := stream.read(2**20):
            digest.update(chunk)
        return digest.hexdigest(), str(wanted.blob)


def _unreachable(what: str, error: Exception) -> DownloadError:
    first, *_ = str(error).splitlines() or [""]
    reason = first if isinstance(error, HfHubHTTPError) else f"{type(error).__name__}: {first}"
    return DownloadError(
        f"{what} cannot be fetched ({reason}). Check the id, the network and, for a private repository, HF_TOKEN; then run the same "
        "command again. What was finished before is kept."
    )
