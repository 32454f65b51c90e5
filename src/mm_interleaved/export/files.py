"""The files around a document: what a picture reference points to, and writing that leaves a complete file or the old one."""

import base64
import binascii
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from mm_interleaved.document import Image
from mm_interleaved.errors import DocumentError, StorageError
from mm_interleaved.picture_file import read_file

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: "C:" is a drive
_SHOWN = 80  # characters of a reference in an error


def read_reference(reference: str, *, folder: Path, where: str, allow_files: bool = True) -> Image:
    """Reads the picture that a document refers to.

    Args:
        reference: a data URI, a path (relative to `folder`, or absolute), or a file: URI. Percent-encoded paths are decoded if there
            is no file by the literal name.
        where: the place in the document, for errors: "story.md, line 12".
        allow_files: False accepts data URIs only.

    Raises:
        DocumentError: a web address (never fetched), a path that is not allowed, or a picture that cannot be read.
    """
    shown = reference if len(reference) <= _SHOWN else f"{reference[:_SHOWN]}…"
    where = f"{where}: picture {shown!r}"
    if reference[:5].lower() == "data:":
        return Image.from_bytes(_data_uri(reference, where), where=where)
    if not allow_files:
        raise DocumentError(
            f"{where}: expected the picture inside the document (data:image/png;base64,…), got a path; files are not read here."
        )
    if not reference:
        raise DocumentError(f"{where}: expected a path or a data URI, got nothing; name the picture's file.")
    path = _path(reference, where)
    with suppress(OSError, ValueError):  # impossible names are reported by read_file
        if not (folder / path).exists() and (folder / unquote(path, errors="surrogateescape")).exists():
            path = unquote(path, errors="surrogateescape")
    return Image.from_bytes(read_file(folder / path, expected="a PNG, JPEG, WebP, GIF or BMP picture", where=where), where=where)


def data_uri(picture: Image) -> str:
    """The picture as `data:image/png;base64,…`."""
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode('ascii')}"


def decode_utf8(content: bytes, where: str) -> str:
    """Text of a document file; a byte order mark is dropped.

    Raises:
        DocumentError: not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError(
            f"{where}: expected UTF-8 text, got byte 0x{content[error.start]:02x} in line {line}; save the file as UTF-8."
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that at every moment the old or the whole new content stands there, and makes missing folders.

    Raises:
        StorageError: no space, no permission, or `path` is a folder. The old file is untouched.
    """
    unfinished: Path | None = None
    try:
        target = Path(os.path.realpath(path))  # a link stays a link
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.parent / f".{target.name[:60]}.{secrets.token_hex(6)}.unfinished"
        with unfinished.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(target)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StorageError(
            f"{path}: cannot write {len(content):,} bytes ({reason}); free some space or choose another place. "
            "What stood there is unchanged."
        ) from error
    finally:
        # After a success the name is gone already; Ctrl-C must not leave it behind either.
        if unfinished is not None:
            with suppress(OSError):
                unfinished.unlink()


def _path(reference: str, where: str) -> str:
    scheme = _SCHEME.match(reference)
    if scheme is None:
        return reference
    if scheme[0].lower() in ("http:", "https:", "ftp:"):
        raise DocumentError(f"{where}: pictures are never fetched from the web; download it first and name the file.")
    if scheme[0].lower() != "file:":
        return reference  # a file name may contain a colon; if there is none, the error says so
    try:
        parts = urlsplit(reference)
    except ValueError as error:
        raise DocumentError(f"{where}: expected file:///folder/picture.png ({error}).") from error
    if parts.netloc not in ("", "localhost"):
        raise DocumentError(
            f"{where}: expected a file on this machine (file:///folder/picture.png), got one on {parts.netloc!r}; copy it here first."
        )
    return unquote(parts.path)


def _data_uri(reference: str, where: str) -> bytes:
    header, comma, body = reference.partition(",")
    if not comma:
        raise DocumentError(f"{where}: expected 'data:image/png;base64,…', but there is no comma.")
    if not header.lower().endswith(";base64"):
        try:
            return unquote_to_bytes(body)
        except UnicodeEncodeError as error:
            raise DocumentError(f"{where}: the data URI holds characters that stand for no byte.") from error
    try:
        return base64.b64decode(re.sub(r"\s", "", unquote(body)), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(f"{where}: the base64 in the data URI is broken ({error}); encode the picture again.") from error
