"""Picture files of any kind become pixels here, completely checked: after this, nothing about a picture can fail. Floor 0: no torch."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as pillow
from PIL import ImageOps, UnidentifiedImageError

from mm_interleaved.errors import DocumentError

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""(height, width, 3), red green blue."""
MAX_PIXELS = 50_000_000
"""Pixels (width times height) of one picture; more is refused from the header, before anything is decoded."""
MAX_BYTES = 256 * 2**20
"""Bytes of one picture file; 50 million uncompressed RGB pixels (BMP) are 143 MiB."""
READ_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow's readers that may look at a file."""
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp"}
"""Pillow's name of each format that is read, and its media type. MPO is a JPEG with a second frame, as phones write it."""
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif", "image/bmp": ".bmp"}
READABLE = "a PNG, JPEG, WebP, GIF or BMP picture"


def read_file(path: Path, *, expected: str, where: str | None = None) -> bytes:
    """Reads a regular file of at most `MAX_BYTES`.

    Args:
        expected: what it should be, for errors ("a PNG, JPEG … picture").
        where: how errors name it; absent: by its path.

    Raises:
        DocumentError: it is missing, a folder, a device, too large or not permitted.
    """
    name = repr(str(path)) if where is None else where
    try:
        if path.is_dir():
            raise DocumentError(f"{name}: expected {expected}, got a folder; name a file in it.")
        if not path.exists():
            raise DocumentError(
                f"{name}: expected {expected}, but there is no such file ({str(path.absolute())!r}); "
                "check the name and the folder it is relative to."
            )
        if not path.is_file():
            raise DocumentError(f"{name}: expected {expected}, got a device or a pipe; copy it into a file first.")
        if path.stat().st_size > MAX_BYTES:
            raise DocumentError(
                f"{name}: expected {expected}, got {path.stat().st_size / 2**20:.0f} MiB; the limit is {MAX_BYTES // 2**20} MiB."
            )
        return path.read_bytes()
    # ValueError: a NUL character in the path.
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DocumentError(
            f"{name}: expected {expected}, but the file cannot be read ({reason}); check its name and permissions."
        ) from error


def check_pixel_count(width: int, height: int, where: str) -> None:
    if width * height > MAX_PIXELS:
        raise DocumentError(f"{where}: {width} × {height} pixels; the limit is {MAX_PIXELS:,} pixels; make the picture smaller.")


def size_of(encoded: bytes, where: str) -> tuple[int, int]:
    """Width and height as the head of an encoded picture tells them; nothing is decoded, so the rest of it may be broken.

    Raises:
        DocumentError: it has no such head, or more than `MAX_PIXELS`.
    """
    with _opened(encoded, where) as picture:
        return picture.size


def decode(encoded: bytes, where: str) -> tuple[Pixels, str]:
    """Pixels (height, width, 3) and media type of an encoded picture.

    Raises:
        DocumentError: whatever Pillow had against the bytes.
    """
    with _opened(encoded, where) as picture:
        media_type = MEDIA_TYPES[str(picture.format)]
        return _to_rgb(picture), media_type


@contextmanager
def _opened(encoded: bytes, where: str) -> Iterator[pillow.Image]:
    """An encoded picture of a size that is read; whatever Pillow has against the bytes, now or while it is used, is a DocumentError."""
    if not encoded:
        raise DocumentError(f"{where}: expected {READABLE}, got a file of zero bytes; write or copy it again.")
    try:
        with pillow.open(io.BytesIO(encoded), formats=READ_FORMATS) as picture:
            check_pixel_count(*picture.size, where)
            yield picture
    except DocumentError:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise DocumentError(f"{where}: too many pixels; the limit is {MAX_PIXELS:,} pixels; make the picture smaller. ({error})") from error
    except UnidentifiedImageError as error:
        raise DocumentError(f"{where}: expected {READABLE}, got {_looks_like(encoded)}") from error
    # Pillow's parsers raise nearly anything on broken bytes (OSError, SyntaxError, ValueError, struct.error, KeyError, IndexError,
    # ZeroDivisionError, MemoryError …): this is the boundary where all of it becomes one error with its cause attached.
    except Exception as error:
        raise DocumentError(
            f"{where}: expected {READABLE}, got a broken or incomplete one ({_reason(error)}); save or download it again."
        ) from error


def _to_rgb(picture: pillow.Image) -> Pixels:
    """Any Pillow mode to RGB: first frame, upright, 16 bits scaled to 8, transparency on white."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I") or upright.mode == "F":
        # Grey with 16 bits: Pillow's own conversion clips at 255 for some modes instead of scaling.
        grey = np.clip(np.asarray(upright, dtype=np.float64) * (255 / 65535), 0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        opaque = pillow.new("RGBA", upright.size, (255, 255, 255, 255))
        opaque.alpha_composite(upright.convert("RGBA"))
        upright = opaque
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def _looks_like(encoded: bytes) -> str:
    """What bytes that are no readable picture seem to be, and what to do about it."""
    start = encoded[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "a vector drawing (SVG); save it as PNG."
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page under a picture's name; download the picture itself."
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; run 'git lfs pull'."
    if encoded[4:8] == b"ftyp":
        return "a HEIC or AVIF picture, or a film; save it as PNG or JPEG."
    if encoded.startswith((b"II*\0", b"MM\0*")):
        return "a TIFF picture; save it as PNG."
    if encoded.startswith(b"%PDF"):
        return "a PDF; save the page as PNG."
    return f"{len(encoded)} bytes that are none; save it as PNG or JPEG."


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
