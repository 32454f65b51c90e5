"""Builds the archives of `extras`: props from the emoji sets and from our own table, figures from comicgen, photographs from a .deb.

Called by `build.build_pack`, which puts everything in place in one step. The same packages give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, UnidentifiedImageError

from mm_interleaved.data.playground.extras import ANY_STYLE, EXTRAS_VERSION, INDEX
from mm_interleaved.data.playground.pack import Thing
from mm_interleaved.errors import DataError

TABLES = Path(__file__).parent / "tables"
PROP_SIDE = 96
"""Longest side of a stored prop in pixels."""
FIGURE_SIDE = 176
"""Longest side of a stored figure, over all its poses, in pixels."""
PHOTO_SIDE = 224
PROP_QUALITY, FIGURE_QUALITY, PHOTO_QUALITY = 75, 80, 75
"""WebP quality of the colours; alpha is exact."""
PHOTO_PACKAGE = "endless-sky-data"
PHOTO_FOLDER = "usr/share/games/endless-sky/images/land"
RENDER_WIDTH = 500

Painter = Callable[[Thing], Image.Image]
Reader = Callable[[str], bytes | None]


def build_extras(destination: Path, packages: Path, painters: dict[str, Painter], comic: Reader) -> None:
    """Writes props.zip, figures.zip and photos.zip.

    Args:
        destination: an existing folder.
        packages: folder with `endless-sky-data_*.deb`.
        painters: style id -> painter of an emoji.
        comic: reads a file of the comicgen package, None when it has none.

    Raises:
        DataError: a package is missing or lacks a drawing.
    """
    _write(destination / "props.zip", *_props(painters))
    _write(destination / "figures.zip", *_figures(comic))
    _write(destination / "photos.zip", *_photos(packages))


Members = tuple[list[dict[str, Any]], dict[str, bytes]]
"""Entries of the index, and the files."""


def _props(painters: dict[str, Painter]) -> Members:
    entries, files = [], {}
    with (TABLES / "props.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows:
        for style, paint in painters.items():
            files[f"{style}/{row['id']}.webp"] = _encode(_cropped(paint(Thing(**row, category="prop")), row["id"]), PROP_SIDE, PROP_QUALITY)
        phrase = {"phrase_en": f"{row['article_en']} {row['name_en']}", "phrase_zh": f"一{row['measure_zh']}{row['name_zh']}"}
        entries.append({"id": row["id"], **phrase, "styles": list(painters)})
    for name, row in yaml.safe_load((TABLES / "drawn.yaml").read_text(encoding="utf-8")).items():
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{row["svg"]}</svg>'
        files[f"{ANY_STYLE}/{name}.webp"] = _encode(_cropped(_draw(svg), name), PROP_SIDE, PROP_QUALITY)
        entries.append({"id": name, "phrase_en": row["en"], "phrase_zh": row["zh"], "styles": [ANY_STYLE]})
    return entries, files


def _figures(comic: Reader) -> Members:
    entries, files = [], {}
    table = yaml.safe_load((TABLES / "figures.yaml").read_text(encoding="utf-8"))
    for name, row in table["figures"].items():
        poses = table["poses"] | row.get("poses", {})
        emotions = table["emotions"] | row.get("emotions", {})
        layers = {}
        for kind, wanted in (("pose", poses), ("emotion", emotions)):
            for ours, theirs in wanted.items():
                layers[f"{kind}/{ours}"] = _layer(comic, f"svg/{row['folder']}/{kind}/{theirs}.svg", row.get("recolour", {}))
        boxes = [box for layer in layers.values() if (box := layer.getbbox()) is not None]
        left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
        right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
        bottom = top + round((bottom - top) * row["keep"])
        scale = FIGURE_SIDE / max(right - left, bottom - top)
        size = (round((right - left) * scale), round((bottom - top) * scale))
        for path, layer in layers.items():
            small = layer.crop((left, top, right, bottom)).resize(size, Image.Resampling.LANCZOS)
            files[f"{name}/{path}.webp"] = _webp(small, FIGURE_QUALITY)
        named = {"name_en": row["name_en"], "name_zh": row["name_zh"], "face_above": row.get("face_above", False)}
        entries.append({"id": name, **named, "poses": list(poses), "emotions": list(emotions)})
    return entries, files


def _layer(comic: Reader, path: str, recolour: dict[str, str]) -> Image.Image:
    content = comic(path)
    if content is None:
        raise DataError(f"package comicgen has no {path}; get version 1.9.9 with `npm pack comicgen@1.9.9`.")
    svg = content.decode("utf-8")
    for old, new in recolour.items():
        svg = svg.replace(old, new).replace(old.upper(), new)
    return _draw(svg)


def _photos(packages: Path) -> Members:
    with (TABLES / "photos.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    images = _read_deb(packages, {f"./{PHOTO_FOLDER}/{row['file']}.jpg" for row in rows})
    entries, files = [], {}
    for row in rows:
        content = images.get(f"./{PHOTO_FOLDER}/{row['file']}.jpg")
        if content is None:
            raise DataError(f"package {PHOTO_PACKAGE} has no land/{row['file']}.jpg; get it again with `apt-get download {PHOTO_PACKAGE}`.")
        try:
            photo = Image.open(io.BytesIO(content)).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"package {PHOTO_PACKAGE}: land/{row['file']}.jpg is unreadable ({error}).") from error
        left = (photo.width - photo.height) // 2
        square = photo.crop((left, 0, left + photo.height, photo.height)).resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
        files[f"{row['file']}.webp"] = _webp(square, PHOTO_QUALITY)
        entries.append({"id": row["file"], "place": row["place"]})
    return entries, files


def _read_deb(packages: Path, wanted: set[str]) -> dict[str, bytes]:
    """Files of the newest package in the folder: an `ar` archive with a tar inside."""
    found = sorted(packages.glob(f"{PHOTO_PACKAGE}_*.deb"))
    if not found:
        raise DataError(
            f"package {PHOTO_PACKAGE} is not in {packages}: looked for {PHOTO_PACKAGE}_*.deb; "
            f"get it with `apt-get download {PHOTO_PACKAGE}` in that folder."
        )
    content = found[-1].read_bytes()
    try:
        position = 8  # after the magic line "!<arch>\n"
        while position + 60 <= len(content):
            name = content[position : position + 16].decode("ascii").strip().rstrip("/")
            length = int(content[position + 48 : position + 58])
            if name == "data.tar.xz":
                return _read_tar(lzma.decompress(content[position + 60 : position + 60 + length]), wanted)
            position += 60 + length + length % 2  # members begin at even places
    except (ValueError, UnicodeDecodeError, lzma.LZMAError, tarfile.TarError) as error:
        raise DataError(f"{found[-1]} is not a whole Debian package ({error}); get it again.") from error
    raise DataError(f"{found[-1]} has no data.tar.xz; get it again with `apt-get download {PHOTO_PACKAGE}`.")


def _read_tar(content: bytes, wanted: set[str]) -> dict[str, bytes]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if member.name in wanted and (opened := archive.extractfile(member)) is not None:
                files[member.name] = opened.read()
    return files


def _draw(svg: str) -> Image.Image:
    try:
        import resvg_py
    except ImportError as error:
        raise DataError("building the pack draws SVG files with resvg-py, which is not installed; run `pip install resvg-py`.") from error
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_WIDTH, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def _cropped(image: Image.Image, name: str) -> Image.Image:
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        raise DataError(f"the drawing of {name} is empty; the package is broken.")
    return image.crop(box)


def _encode(image: Image.Image, longest: int, quality: int) -> bytes:
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return _webp(image.resize(size, Image.Resampling.LANCZOS), quality)


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, alpha_quality=100, method=4)
    return buffer.getvalue()


def _write(path: Path, entries: list[dict[str, Any]], files: dict[str, bytes]) -> None:
    index = json.dumps({"version": EXTRAS_VERSION, "members": entries}, ensure_ascii=False, indent=1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {INDEX: index.encode(), **files}.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
