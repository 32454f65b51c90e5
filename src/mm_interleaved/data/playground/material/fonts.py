"""Builds the font collection from `@fontsource` packages: handwriting and screens, English and Chinese, all under the OFL.

English fonts are taken as they come (the package's Latin part). Chinese ones are cut to the characters that the tasks write and get
another name, as their licence asks of a changed font.
"""

from __future__ import annotations

import io
import string
from pathlib import Path

from mm_interleaved.data.playground.build import Package, Source
from mm_interleaved.data.playground.material.collection import Origin, write_collection
from mm_interleaved.data.playground.material.lettering import NAME, VERSION
from mm_interleaved.errors import DataError

HANDS_EN = (
    "caveat",
    "patrick-hand",
    "kalam",
    "indie-flower",
    "shadows-into-light",
    "handlee",
    "gochi-hand",
    "architects-daughter",
    "reenie-beanie",
    "gloria-hallelujah",
    "cedarville-cursive",
    "covered-by-your-grace",
)
HANDS_ZH = ("long-cang", "ma-shan-zheng", "zhi-mang-xing", "liu-jian-mao-cao")
SCREEN_EN, SCREEN_ZH = "roboto", "noto-sans-sc"
TESTED = {"ma-shan-zheng": "5.3.1"}
"""Versions other than 5.3.0 that the collection was built from."""
LATIN = string.ascii_letters + string.digits + string.punctuation + " "
NEEDED = set(string.ascii_letters + string.digits + " ")


def build_fonts(packages: Path, folder: Path | None = None) -> Path:
    """Cuts and joins the fonts.

    Args:
        packages: folder with the npm packages.
        folder: where collections are; None means those inside this package.

    Raises:
        DataError: a package is missing, of an untested version, or a font lacks a glyph that the tasks write.
        StorageError: the collection cannot be written.
    """
    # Imported here: the tasks' words are no part of reading fonts, and those tasks read this folder.
    from mm_interleaved.data.playground.tasks import handwriting, menus

    files: dict[str, bytes] = {}
    listed: list[dict[str, str]] = []
    origins: list[Origin] = []
    written = {"hand": handwriting.characters(), "screen": menus.characters()}
    wanted = [("hand", "en", name) for name in HANDS_EN] + [("hand", "zh", name) for name in HANDS_ZH]
    wanted += [("screen", "en", SCREEN_EN), ("screen", "zh", SCREEN_ZH)]
    for use, script, name in wanted:
        package = Package(
            Source(package=f"@fontsource/{name}", tested_version=TESTED.get(name, "5.3.0"), below_version=(6, 0), licence="OFL-1.1"),
            packages,
        )
        part = "latin" if script == "en" else "chinese-simplified"
        content = _file(package, f"files/{name}-{part}-400-normal.woff")
        member = f"{name}.woff"
        if script == "zh":
            content = _cut(content, written[use], f"Playground {use} {len(listed)}", name)
        characters = _characters(content, set(LATIN) if script == "en" else written[use])
        missing = (NEEDED if script == "en" else written[use]) - characters
        if missing:
            raise DataError(f"the font {name} {package.version} has no glyph for {' '.join(sorted(missing))}; choose another font or word.")
        files[member] = content
        files[f"{name}-LICENSE.txt"] = _file(package, "LICENSE")
        listed.append({"name": name, "member": member, "script": script, "use": use, "characters": "".join(sorted(characters))})
        origins.append(Origin(package=f"@fontsource/{name}", version=package.version, licence="OFL-1.1"))
    return write_collection(NAME, VERSION, origins, {"fonts": listed}, files, folder)


def _file(package: Package, name: str) -> bytes:
    content = package.read(name)
    if content is None:
        raise DataError(f"package {package.source.package} {package.version} lacks {name}; get version {package.source.tested_version}.")
    return content


def _cut(content: bytes, characters: set[str], family: str, name: str) -> bytes:
    try:
        from fontTools.subset import Options, Subsetter
        from fontTools.ttLib import TTFont, TTLibError
    except ImportError as error:
        raise DataError("cutting a font needs fonttools, which is not installed; run `pip install fonttools`.") from error
    try:
        font = TTFont(io.BytesIO(content), recalcTimestamp=False)
    except TTLibError as error:
        raise DataError(f"the font {name} cannot be read ({error}); get its package again.") from error
    options = Options()
    options.layout_features, options.hinting, options.name_IDs = [], False, ["*"]
    subsetter = Subsetter(options)
    subsetter.populate(text="".join(sorted(characters)))
    subsetter.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 3, 4, 6, 16):
            record.string = family if record.nameID != 6 else family.replace(" ", "")
    font.flavor = "woff"
    buffer = io.BytesIO()
    font.save(buffer)
    return buffer.getvalue()


def _characters(content: bytes, wanted: set[str]) -> set[str]:
    from fontTools.ttLib import TTFont

    table = TTFont(io.BytesIO(content)).getBestCmap()
    return {character for character in wanted if ord(character) in table}
