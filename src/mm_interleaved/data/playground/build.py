"""Builds the pack from its npm packages: joins five emoji sets by code point, draws, crops, shrinks, writes.

The packages are files in one folder, either as `npm pack NAME` leaves them (`*.tgz`) or below `node_modules/` as `npm install`
does. Nothing is downloaded here. The same packages give the same bytes (fixed time stamps, fixed order, one encoder setting).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mm_interleaved.data.playground.build_extras import build_extras
from mm_interleaved.data.playground.pack import DEFAULT_FOLDER, MANIFEST, PACK_VERSION, Thing
from mm_interleaved.errors import DataError, StorageError

LONGEST_SIDE = 128
"""Longest side of a stored drawing in pixels. A 224-pixel scene enlarges it at most 1.5 times."""
RENDER_SIDE = 512
"""Side in pixels at which vector drawings are rasterised before they are cropped and shrunk."""
COLOUR_QUALITY = 82
"""WebP quality of the colours; alpha is exact."""
THINGS_TABLE = Path(__file__).parent / "things.tsv"

Painter = Callable[[Thing], Image.Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One npm package that the pack is made from."""

    package: str
    tested_version: str
    """The version this pack was built from and looked at."""
    below_version: tuple[int, int]
    """First (major, minor) that is refused: drawings or file layout may have changed."""
    licence: str


SOURCES = {
    "3d": Source(package="@lobehub/fluent-emoji-3d", tested_version="1.1.0", below_version=(2, 0), licence="MIT"),
    "flat": Source(package="@iconify-json/fluent-emoji-flat", tested_version="1.2.6", below_version=(1, 3), licence="MIT"),
    "ink": Source(package="@iconify-json/fluent-emoji-high-contrast", tested_version="1.2.6", below_version=(1, 3), licence="MIT"),
    "cartoon": Source(package="@iconify-json/noto", tested_version="1.2.9", below_version=(1, 3), licence="Apache-2.0"),
    "sticker": Source(package="@iconify-json/twemoji", tested_version="1.2.5", below_version=(1, 3), licence="CC-BY-4.0"),
    "figures": Source(package="comicgen", tested_version="1.9.9", below_version=(1, 10), licence="CC0-1.0"),
    "names": Source(package="cldr-annotations-full", tested_version="48.2.0", below_version=(50, 0), licence="Unicode-3.0"),
}

STYLE_WORDS = {
    "3d": ("3D", "立体"),
    "flat": ("flat", "扁平"),
    "ink": ("ink", "墨线"),
    "cartoon": ("cartoon", "卡通"),
    "sticker": ("sticker", "贴纸"),
}
"""Style id -> its English and Chinese word, in the pack's order."""


def build_pack(packages: Path, destination: Path | None = None) -> Path:
    """Builds the pack and puts it in place in one step; an older pack stays until the new one is complete.

    Args:
        packages: folder with the npm packages of `SOURCES`.
        destination: the pack's folder; None means the one inside this package.

    Returns:
        The pack's folder.

    Raises:
        DataError: a package is missing, of an untested version, or lacks a drawing or a name.
        StorageError: the pack cannot be written.
    """
    things = read_things()
    opened = {key: Package(source, Path(packages)) for key, source in SOURCES.items()}
    _check_names(things, opened["names"])
    painters = style_painters(opened)

    def write_extras(fresh: Path) -> None:
        build_extras(fresh, Path(packages), painters, opened["figures"].read)

    return write_pack(DEFAULT_FOLDER if destination is None else Path(destination), things, painters, opened, also=write_extras)


def style_painters(opened: dict[str, Package]) -> dict[str, Painter]:
    """Style id -> what draws a thing in it, in the pack's order."""
    chars = {key: opened[key].json("chars.json") for key in ("cartoon", "sticker")}
    drawn = {key: _svg_painter(opened[key], chars) for key in STYLE_WORDS if key != "3d"}
    return {"3d": _webp_painter(opened["3d"]), **drawn}


def write_pack(
    destination: Path,
    things: tuple[Thing, ...],
    painters: dict[str, Painter],
    opened: dict[str, Package],
    also: Callable[[Path], None] = lambda fresh: None,
) -> Path:
    """Draws all things in all styles and puts the folder in place in one step; an older one stays until the new one is complete.

    Args:
        also: writes what else belongs into the folder.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pack-", dir=destination.parent) as temporary:
            fresh = Path(temporary) / "pack"
            fresh.mkdir()
            sums = {key: _write_style(fresh / f"{key}.zip", things, painters[key]) for key in STYLE_WORDS}
            also(fresh)
            _write_manifest(fresh / MANIFEST, things, sums, opened)
            _swap(fresh, destination, Path(temporary) / "old")
    except OSError as error:
        raise StorageError(f"the pack cannot be written to {destination} ({error}); free some space or name another folder.") from error
    return destination


def read_things() -> tuple[Thing, ...]:
    """The hand-chosen list; its order is the order of learning: most common and most distinct things first."""
    with THINGS_TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(Thing(**row) for row in csv.DictReader(file, delimiter="\t"))


def _swap(fresh: Path, destination: Path, aside: Path) -> None:
    """Puts a complete pack in place; the older one comes back should that fail."""
    older = destination.exists()
    if older:
        destination.rename(aside)
    try:
        fresh.rename(destination)
    except OSError:
        if older:
            aside.rename(destination)
        raise


class Package:
    """Read access to one npm package, packed or installed."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.source = source
        self._files: dict[str, bytes] | None = None
        self._root: Path | None = None
        for root in (folder / "node_modules" / source.package, folder / source.package):
            if (root / "package.json").is_file():
                self._root = root
        stem = source.package.removeprefix("@").replace("/", "-")
        packed = [path for path in sorted(folder.glob(f"{stem}-*.tgz")) if re.fullmatch(re.escape(stem) + r"-\d[\w.]*\.tgz", path.name)]
        if self._root is None and packed:
            self._files = _read_tgz(packed[-1])
        if self._root is None and self._files is None:
            raise DataError(
                f"package {source.package} is not in {folder}: looked for {stem}-*.tgz and node_modules/{source.package}; "
                f"get it with `npm pack {source.package}@{source.tested_version}` in that folder."
            )
        self.version = str(self.json("package.json").get("version"))
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
        oldest = tuple(int(part) for part in source.tested_version.split(".")[:2])
        if not oldest <= numbers < source.below_version:
            raise DataError(
                f"package {source.package} has version {self.version}; this build was tested with {source.tested_version} and takes "
                f"versions below {source.below_version[0]}.{source.below_version[1]}; "
                f"get it with `npm pack {source.package}@{source.tested_version}`."
            )

    def read(self, name: str) -> bytes | None:
        """One file's bytes, or None when the package has no such file."""
        if self._files is not None:
            return self._files.get(name)
        assert self._root is not None
        path = self._root / name
        return path.read_bytes() if path.is_file() else None

    def json(self, name: str) -> dict:
        """One JSON file."""
        content = self.read(name)
        try:
            if content is None:
                raise DataError(f"package {self.source.package} lacks {name}; get version {self.source.tested_version}.")
            return json.loads(content)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"package {self.source.package}: {name} is not JSON ({error}); get the package again.") from error


def _read_tgz(path: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None
                    files[member.name.partition("/")[2]] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a whole npm package ({error}); get it again with `npm pack`.") from error
    return files


def _check_names(things: tuple[Thing, ...], names: Package) -> None:
    """Every thing must be known to Unicode in both languages; our own names are shorter, chosen by hand."""
    for language in ("en", "zh"):
        known = names.json(f"annotations/{language}/annotations.json")["annotations"]["annotations"]
        for thing in things:
            if chr(int(thing.code_point, 16)) not in known:
                raise DataError(f"{thing.id} ({thing.code_point}) has no {language} name in {names.source.package} {names.version}.")


def _webp_painter(package: Package) -> Painter:
    def paint(thing: Thing) -> Image.Image:
        content = package.read(f"assets/{thing.code_point}.webp") or package.read(f"assets/{thing.code_point}-fe0f.webp")
        if content is None:
            raise DataError(f"package {package.source.package} {package.version} has no drawing of {thing.id} ({thing.code_point}).")
        try:
            return Image.open(io.BytesIO(content)).convert("RGBA")
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"package {package.source.package}: the drawing of {thing.id} is unreadable ({error}).") from error

    return paint


def _svg_painter(package: Package, chars: dict[str, dict[str, str]]) -> Painter:
    try:
        import resvg_py
    except ImportError as error:
        raise DataError("building the pack draws SVG files with resvg-py, which is not installed; run `pip install resvg-py`.") from error
    icons = package.json("icons.json")

    def paint(thing: Thing) -> Image.Image:
        # Fluent sets name their icons as Noto or Twemoji do but list few code points, so the join goes through those names.
        code = (thing.code_point, f"{thing.code_point}-fe0f")
        names = [table[key] for table in chars.values() for key in code if key in table]
        for name in names:
            parent = icons.get("aliases", {}).get(name, {}).get("parent", name)
            icon = icons["icons"].get(parent)
            if icon is not None:
                break
        else:
            raise DataError(f"package {package.source.package} {package.version} has no drawing of {thing.id} ({thing.code_point}).")
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        body = icon["body"].replace("currentColor", "#000000")
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'
        png = resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_SIDE, skip_system_fonts=True)
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA")

    return paint


def _write_style(path: Path, things: tuple[Thing, ...], paint: Painter) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for thing in things:
            entry = zipfile.ZipInfo(f"{thing.id}.webp", date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, _encode(paint(thing), thing))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _encode(image: Image.Image, thing: Thing) -> bytes:
    # Alpha up to 8 of 255 is shadow dust that nobody sees and that would make the bounding box too large.
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        raise DataError(f"the drawing of {thing.id} is empty; the package is broken.")
    image = image.crop(box)
    scale = LONGEST_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=COLOUR_QUALITY, alpha_quality=100, method=4)
    return buffer.getvalue()


def _write_manifest(path: Path, things: tuple[Thing, ...], sums: dict[str, str], opened: dict[str, Package]) -> None:
    manifest = {
        "version": PACK_VERSION,
        "sources": [
            {"for": key, "package": package.source.package, "version": package.version, "licence": package.source.licence}
            for key, package in opened.items()
        ],
        "styles": [{"id": key, "word_en": en, "word_zh": zh, "sha256": sums[key]} for key, (en, zh) in STYLE_WORDS.items()],
        "things": [asdict(thing) for thing in things],
    }
    path.write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
