"""Builds the logo collection: company logos (CC0 files) and flags, each with its names and facts.

A logo is a company's trade mark; it stands here to name that company, and for nothing else.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from mm_interleaved.data.playground.build import Package, Source
from mm_interleaved.data.playground.material.collection import Origin, write_collection
from mm_interleaved.data.playground.material.signs import BRANDS, COUNTRIES, NAME, VERSION, Brand, Country
from mm_interleaved.errors import DataError

LONGEST_SIDE = 136
RENDER_SIDE = 480
QUALITY = 82
FREE = ("CC0-1.0", None)
"""Licences of a single icon that are taken; None means the set's own, CC0-1.0."""
SOURCES = {
    "plain": Source(package="simple-icons", tested_version="16.37.0", below_version=(17, 0), licence="CC0-1.0"),
    "coloured": Source(package="@iconify-json/logos", tested_version="1.2.19", below_version=(1, 3), licence="CC0-1.0"),
    "flag": Source(package="@iconify-json/flag", tested_version="1.2.12", below_version=(1, 3), licence="MIT"),
    "sticker": Source(package="@iconify-json/twemoji", tested_version="1.2.5", below_version=(1, 3), licence="CC-BY-4.0"),
}


def build_logos(packages: Path, folder: Path | None = None) -> Path:
    """Draws all logos and flags.

    Args:
        packages: folder with the npm packages of `SOURCES`.
        folder: where collections are; None means those inside this package.

    Raises:
        DataError: a package is missing, of an untested version, or lacks a drawing.
        StorageError: the collection cannot be written.
    """
    opened = {key: Package(source, packages) for key, source in SOURCES.items()}
    colours = _colours(opened["plain"])
    coloured, flags, stickers = (_Icons(opened[key]) for key in ("coloured", "flag", "sticker"))
    sticker_names = opened["sticker"].json("chars.json")
    files: dict[str, bytes] = {}
    brands, countries = [], []
    for row in _rows(BRANDS):
        plain, other = row.pop("plain_icon"), row.pop("coloured_icon")
        drawings = [f"{row['id']}-plain.webp"]
        files[drawings[0]] = _drawn(_plain(opened["plain"], plain, colours), row["id"])
        if other != "-":
            drawings.append(f"{row['id']}-coloured.webp")
            files[drawings[1]] = _drawn(coloured.svg(other), row["id"])
        brands.append(asdict(Brand(**row, drawings=tuple(drawings))))
    for row in _rows(COUNTRIES):
        code = row["code"]
        point = "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):x}" for letter in code)
        drawings = [f"flag-{code}.webp", f"flag-{code}-sticker.webp"]
        files[drawings[0]] = _drawn(flags.svg(f"{code}-4x3"), code)
        files[drawings[1]] = _drawn(stickers.svg(sticker_names.get(point, point)), code)
        countries.append(asdict(Country(**row, drawings=tuple(drawings))))
    origins = [
        Origin(package=package.source.package, version=package.version, licence=package.source.licence) for package in opened.values()
    ]
    return write_collection(NAME, VERSION, origins, {"brands": brands, "countries": countries}, files, folder)


def _rows(table: Path) -> list[dict[str, Any]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _colours(package: Package) -> dict[str, str]:
    """Icon name → its company's colour, of icons whose licence we take."""
    listed = json.loads(package.read("data/simple-icons.json") or b"[]")
    taken = [entry for entry in listed if entry.get("license", {}).get("type") in FREE]
    return {entry.get("slug") or _slug(entry["title"]): entry["hex"] for entry in taken}


def _slug(title: str) -> str:
    plain = title.lower().replace("+", "plus").replace(".", "dot").replace("&", "and")
    for accented, letter in (("é", "e"), ("ë", "e"), ("š", "s"), ("ü", "u"), ("ö", "o")):
        plain = plain.replace(accented, letter)
    return "".join(character for character in plain if character.isascii() and character.isalnum())


def _plain(package: Package, name: str, colours: dict[str, str]) -> str:
    content = package.read(f"icons/{name}.svg")
    if content is None or name not in colours:
        raise DataError(
            f"package {package.source.package} {package.version} has no free icon {name!r}; take the name out of {BRANDS.name}."
        )
    return content.decode().replace("<svg ", f'<svg fill="#{colours[name]}" ', 1)


class _Icons:
    """Drawings of one iconify package."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.table = package.json("icons.json")

    def svg(self, name: str) -> str:
        parent = self.table.get("aliases", {}).get(name, {}).get("parent", name)
        icon = self.table["icons"].get(parent)
        if icon is None:
            raise DataError(f"package {self.package.source.package} {self.package.version} has no drawing {name!r}.")
        width = icon.get("width", self.table.get("width", 16))
        height = icon.get("height", self.table.get("height", 16))
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'


def _drawn(svg: str, name: str) -> bytes:
    try:
        import resvg_py
    except ImportError as error:
        raise DataError("building logos draws SVG files with resvg-py, which is not installed; run `pip install resvg-py`.") from error
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_SIDE, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        raise DataError(f"the drawing of {name} is empty; the package is broken.")
    image = image.crop(box)
    scale = LONGEST_SIDE / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, alpha_quality=100, method=6)
    return buffer.getvalue()
