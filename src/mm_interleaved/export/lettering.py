"""Words in a drawn picture, in whatever script they come: each character in the first font that has it, lines broken to a width.

DejaVu (which matplotlib brings) comes first, then the caller's fonts, then those of the system with Chinese, Japanese and Korean
characters. A character that none of them has stays an empty box.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from PIL import Image as pillow
from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont

_CJK = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_PIECES = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+|\s")  # a line may be broken between two of these
_SYSTEM = re.compile(r"cjk|notosans(sc|tc|jp)|sourcehan|wqy|wenquanyi|droidsansfallback|pingfang|hiragino|heiti|yahei|simhei|unifont", re.I)
_NOWHERE = "\U0010ffff"
"""A character that no font has."""


def lettered(text: str, width: int, *, size: int = 15, fonts: Sequence[Font] = ()) -> pillow.Image:
    """The text in black on white, as wide as asked for and as high as its lines.

    Args:
        width: pixels.
        size: of the letters, pixels.
        fonts: for what DejaVu lacks, before those of the system; of the same size.
    """
    found = {character: _font_for(character, size, fonts) for character in set(text)}
    lines = list(_lines(text, width, found))
    height = round(1.5 * size)
    sheet = pillow.new("RGB", (width, height * len(lines)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        left = 0.0
        for font, run in groupby(line, key=found.__getitem__):
            words = "".join(run)
            draw.text((left, row * height + 1.1 * size), words, fill="black", font=font, anchor="ls")
            left += font.getlength(words)
    return sheet


def _lines(text: str, width: int, fonts: dict[str, Font]) -> Iterator[str]:
    advance = {character: font.getlength(character) for character, font in fonts.items()}
    line, used = "", 0.0
    for piece in _PIECES.findall(text):
        for part in [piece] if sum(advance[character] for character in piece) <= width else piece:
            needed = sum(advance[character] for character in part)
            if line and used + needed > width:
                yield line.rstrip()
                line, used = "", 0.0
            if line or not part.isspace():
                line, used = line + part, used + needed
    yield line.rstrip()


def _font_for(character: str, size: int, fonts: Sequence[Font]) -> Font:
    plain = _dejavu(size)
    if character.isspace() or _has(plain, character):
        return plain
    known = next((font for font in fonts if _has(font, character)), None)
    return known or next((font for font in _system(size) if _has(font, character)), plain)


def _has(font: Font, character: str) -> bool:
    return _drawn(font, character) != _drawn(font, _NOWHERE)


def _drawn(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


@lru_cache(maxsize=4)
def _dejavu(size: int) -> Font:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


@lru_cache(maxsize=4)
def _system(size: int) -> tuple[Font, ...]:
    from matplotlib.font_manager import findSystemFonts

    found = sorted(path for path in findSystemFonts() if _SYSTEM.search(Path(path).name.replace("-", "")))
    regular = [path for path in found if "regular" in path.lower()]
    return tuple(ImageFont.truetype(path, size) for path in (regular or found)[:8])
