"""The pack: a few hundred things, each drawn in five styles, with English and Chinese names.

It is a folder with one uncompressed zip of WebP drawings per style and a `manifest.json`; `build.py` makes it from its packages.
Licences of the drawings and names: `NOTICE` in the repository.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mm_interleaved.errors import DataError

PACK_VERSION = 1
"""Raised whenever a pack of an older build could no longer be read, or would mean something else."""

DEFAULT_FOLDER = Path(__file__).parent / "pack"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One nameable thing. Its index in `Pack.things` is its number everywhere."""

    id: str
    """ASCII name, the file name of its drawings."""
    code_point: str
    """Unicode code point in lower-case hexadecimal; the key that joins the picture sets."""
    name_en: str
    plural_en: str
    article_en: str
    """"a" or "an", for the bare noun."""
    name_zh: str
    measure_zh: str
    """Measure word alone: 只 for 一只狗."""
    category: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """One way of drawing. Its index in `Pack.styles` is its number everywhere."""

    id: str
    word_en: str
    word_zh: str


class Pack:
    """All drawings, decoded when first asked for. Safe to share between threads."""

    def __init__(self, folder: Path, things: tuple[Thing, ...], styles: tuple[Style, ...]) -> None:
        self.folder = folder
        self.things = things
        self.styles = styles
        self._archives: dict[int, bytes] = {}
        self._drawings: dict[tuple[int, int], np.ndarray] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path | None = None) -> Pack:
        """Opens a pack after checking its version and the SHA-256 of every archive.

        Args:
            folder: a folder made by `build_pack`; None means the pack inside the installed package.

        Raises:
            DataError: the folder has no pack, a pack of another version, or an archive was changed.
        """
        folder = DEFAULT_FOLDER if folder is None else Path(folder)
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"no pack in {folder}: {MANIFEST} is missing; make one with `mmi data build`.") from error
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"the pack in {folder} cannot be read ({error}); make it again with `mmi data build`.") from error
        version = manifest.get("version") if isinstance(manifest, dict) else None
        if version != PACK_VERSION:
            raise DataError(
                f"the pack in {folder} has version {version!r}, this program reads version {PACK_VERSION}; "
                "make it again with `mmi data build`."
            )
        try:
            things = tuple(Thing(**entry) for entry in manifest["things"])
            styles = tuple(Style(**{key: entry[key] for key in ("id", "word_en", "word_zh")}) for entry in manifest["styles"])
            sums = {entry["id"]: entry["sha256"] for entry in manifest["styles"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} lacks or misspells a field ({error}); make the pack again with `mmi data build`.") from error
        pack = cls(folder, things, styles)
        for index, style in enumerate(styles):
            pack._archives[index] = _read_archive(folder / f"{style.id}.zip", sums[style.id])
        return pack

    def drawing(self, thing_index: int, style_index: int) -> np.ndarray:
        """One drawing, cropped to what is visible.

        Returns:
            H W 4 uint8, straight (not premultiplied) RGBA, longest side 128 pixels; read-only and cached.

        Raises:
            DataError: the archive lacks the drawing or it cannot be decoded.
        """
        key = (thing_index, style_index)
        found = self._drawings.get(key)
        if found is None:
            with self._lock:
                found = self._drawings.get(key)
                if found is None:
                    found = self._decode(thing_index, style_index)
                    self._drawings[key] = found
        return found

    def thing_index(self, name: str) -> int:
        """The number of a thing by its id, English or Chinese name; DataError when no thing is called that."""
        for index, thing in enumerate(self.things):
            if name in (thing.id, thing.name_en, thing.name_zh):
                return index
        raise DataError(f"no thing in the pack is called {name!r}.")

    def _decode(self, thing_index: int, style_index: int) -> np.ndarray:
        name = f"{self.things[thing_index].id}.webp"
        style = self.styles[style_index].id
        try:
            with zipfile.ZipFile(io.BytesIO(self._archives[style_index])) as archive:
                pixels = np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGBA"))
        except (KeyError, zipfile.BadZipFile, UnidentifiedImageError, OSError) as error:
            raise DataError(f"{self.folder / style}.zip: {name} cannot be read ({error}); run `mmi data build`.") from error
        pixels.setflags(write=False)
        return pixels


def _read_archive(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"the pack's archive {path} cannot be read ({error}); make the pack again with `mmi data build`.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} was changed: its SHA-256 is {found[:12]}…, the manifest says {expected[:12]}…; "
            "make the pack again with `mmi data build`."
        )
    return content
