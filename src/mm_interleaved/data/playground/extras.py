"""What the pack holds beside its named things: props with states, comic figures in layers, real photographs.

Three archives in the pack's folder, each with its own `index.json` that names its version and members; `build_extras.py` makes them.
They stand apart from `Pack.things`, so that no world's list of names grows with them.
"""

from __future__ import annotations

import io
import json
import threading
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mm_interleaved.errors import DataError

EXTRAS_VERSION = 1
"""Raised whenever archives of an older build could no longer be read, or would mean something else."""
ARCHIVES = ("props", "figures", "photos")
INDEX = "index.json"
ANY_STYLE = "any"
"""Folder of the props that have one drawing for every style."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prop:
    """A thing that only processes and stories show; its phrase carries its article or measure word."""

    id: str
    phrase_en: str
    phrase_zh: str
    styles: tuple[str, ...]
    """Style ids of its drawings, or `ANY_STYLE` alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A comic figure in layers: a pose under a feeling."""

    id: str
    name_en: str
    """Empty for a figure that training never names."""
    name_zh: str
    poses: tuple[str, ...]
    emotions: tuple[str, ...]
    face_above: bool
    """Whether the feeling lies over the pose; else under it, so that a hand may cover the mouth."""


class Extras:
    """Read access to the three archives; drawings are decoded when first asked for. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        """Opens the archives beside a pack.

        Raises:
            DataError: an archive is missing, broken, or of another version.
        """
        self.folder = folder
        self._archives: dict[str, zipfile.ZipFile] = {}
        indexes = {name: self._open(name) for name in ARCHIVES}
        try:
            self.props = {entry["id"]: Prop(**{**entry, "styles": tuple(entry["styles"])}) for entry in indexes["props"]["members"]}
            self.figures = {
                entry["id"]: Figure(**{**entry, "poses": tuple(entry["poses"]), "emotions": tuple(entry["emotions"])})
                for entry in indexes["figures"]["members"]
            }
            self.photos: dict[str, str] = {entry["id"]: entry["place"] for entry in indexes["photos"]["members"]}
        except (KeyError, TypeError) as error:
            raise DataError(
                f"an index in {folder} lacks or misspells a field ({error}); make the pack again with `mmi data build`."
            ) from error
        self._decoded: dict[tuple[str, str], np.ndarray] = {}
        self._lock = threading.Lock()

    def prop(self, name: str, style: str) -> np.ndarray:
        """One prop in a style: H W 4 uint8, straight RGBA, longest side 96 pixels; read-only.

        Raises:
            DataError: there is no such prop, or its drawing cannot be decoded.
        """
        if name not in self.props:
            raise DataError(f"no prop in the pack is called {name!r}.")
        style = style if style in self.props[name].styles else self.props[name].styles[0]
        return self._read("props", f"{style}/{name}.webp")

    def figure(self, name: str, pose: str, emotion: str) -> np.ndarray:
        """One figure, pose and feeling joined: H W 4 uint8, straight RGBA, longest side 176 pixels; read-only.

        Raises:
            DataError: there is no such figure, pose or feeling.
        """
        key = ("figures", f"{name}/{pose}/{emotion}")
        found = self._decoded.get(key)
        if found is None:
            layers = [self._read("figures", f"{name}/{layer}.webp") for layer in (f"emotion/{emotion}", f"pose/{pose}")]
            if self.figures[name].face_above:
                layers.reverse()
            joined = Image.fromarray(layers[0])
            joined.alpha_composite(Image.fromarray(layers[1]))
            found = np.array(joined)
            found.setflags(write=False)
            self._decoded[key] = found
        return found

    def photo(self, name: str) -> np.ndarray:
        """One photograph: 224 224 3 uint8; read-only."""
        return self._read("photos", f"{name}.webp")[..., :3]

    def _open(self, name: str) -> dict:
        path = self.folder / f"{name}.zip"
        try:
            self._archives[name] = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
            index = json.loads(self._archives[name].read(INDEX))
        except FileNotFoundError as error:
            raise DataError(f"the pack in {self.folder} has no {name}.zip; make it again with `mmi data build`.") from error
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read ({error}); make the pack again with `mmi data build`.") from error
        version = index.get("version") if isinstance(index, dict) else None
        if version != EXTRAS_VERSION:
            raise DataError(f"{path} has version {version!r}, this program reads version {EXTRAS_VERSION}; run `mmi data build`.")
        return index

    def _read(self, archive: str, member: str) -> np.ndarray:
        key = (archive, member)
        found = self._decoded.get(key)
        if found is None:
            with self._lock:
                found = self._decoded.get(key)
                if found is None:
                    try:
                        # A changed byte fails the archive's own CRC-32.
                        found = np.array(Image.open(io.BytesIO(self._archives[archive].read(member))).convert("RGBA"))
                    except (KeyError, zipfile.BadZipFile, UnidentifiedImageError, OSError) as error:
                        path = self.folder / f"{archive}.zip"
                        raise DataError(f"{path}: {member} cannot be read ({error}); run `mmi data build`.") from error
                    found.setflags(write=False)
                    self._decoded[key] = found
        return found


@lru_cache(maxsize=4)
def extras_of(folder: Path) -> Extras:
    """The extras beside the pack in `folder`, opened once."""
    return Extras(folder)
