"""Stuff: sky, sea, sand and the like, drawn by integer arithmetic in each of the pack's styles, and the places made of it.

A place is a stack of bands from top to bottom with boundaries that a whole number (`shape`) bends; the same number gives the same
bytes on every machine. Every pixel has a class, so a drawn place is its own segmentation map.
Axes: H W rows and columns of a square picture, H = W = side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuff:
    """One class of stuff."""

    id: str
    word_en: str
    word_zh: str
    colour: Colour
    mark: Colour
    """Colour of its pattern: waves, blades, grains."""
    pattern: str
    label_colour: Colour
    """Its colour in a segmentation map."""


STUFF = (
    Stuff(
        id="sky", word_en="sky", word_zh="天空", colour=(150, 205, 250), mark=(225, 242, 255), pattern="clouds", label_colour=(70, 130, 180)
    ),
    Stuff(
        id="night",
        word_en="night sky",
        word_zh="夜空",
        colour=(28, 34, 84),
        mark=(245, 240, 190),
        pattern="stars",
        label_colour=(25, 25, 112),
    ),
    Stuff(
        id="sea", word_en="water", word_zh="水", colour=(44, 130, 200), mark=(130, 195, 240), pattern="waves", label_colour=(0, 200, 230)
    ),
    Stuff(
        id="sand",
        word_en="sand",
        word_zh="沙子",
        colour=(240, 214, 150),
        mark=(205, 170, 100),
        pattern="grains",
        label_colour=(230, 200, 90),
    ),
    Stuff(
        id="grass", word_en="grass", word_zh="草地", colour=(118, 188, 76), mark=(70, 136, 44), pattern="blades", label_colour=(60, 179, 60)
    ),
    Stuff(
        id="snow",
        word_en="snow",
        word_zh="雪",
        colour=(240, 246, 252),
        mark=(185, 208, 230),
        pattern="flakes",
        label_colour=(235, 235, 235),
    ),
    Stuff(
        id="road",
        word_en="road",
        word_zh="马路",
        colour=(112, 112, 118),
        mark=(232, 226, 190),
        pattern="dashes",
        label_colour=(100, 60, 110),
    ),
    Stuff(
        id="mountain",
        word_en="mountains",
        word_zh="山",
        colour=(134, 122, 136),
        mark=(92, 82, 98),
        pattern="slopes",
        label_colour=(130, 130, 130),
    ),
    Stuff(
        id="forest", word_en="forest", word_zh="树林", colour=(46, 110, 62), mark=(26, 72, 40), pattern="crowns", label_colour=(0, 90, 40)
    ),
    Stuff(
        id="soil", word_en="soil", word_zh="泥土", colour=(140, 96, 62), mark=(98, 62, 36), pattern="furrows", label_colour=(139, 90, 43)
    ),
    Stuff(
        id="wall", word_en="wall", word_zh="墙", colour=(246, 226, 200), mark=(226, 190, 150), pattern="dots", label_colour=(250, 190, 160)
    ),
    Stuff(
        id="floor", word_en="floor", word_zh="地板", colour=(190, 140, 90), mark=(140, 94, 54), pattern="planks", label_colour=(170, 85, 60)
    ),
    Stuff(
        id="stone",
        word_en="stone",
        word_zh="石头",
        colour=(184, 178, 170),
        mark=(128, 122, 116),
        pattern="bricks",
        label_colour=(90, 90, 140),
    ),
)
THING_CLASSES = {
    "animal": ((220, 20, 60), "animal", "动物"),
    "food": ((255, 140, 0), "food", "食物"),
    "nature": ((170, 230, 40), "plant", "植物"),
    "vehicle": ((255, 0, 255), "vehicle", "车船"),
    "building": ((120, 0, 0), "building", "房屋"),
    "household": ((0, 128, 128), "household thing", "家居用品"),
    "instrument": ((75, 0, 200), "instrument", "乐器"),
    "toy": ((255, 105, 180), "toy", "玩具"),
    "clothing": ((255, 255, 0), "piece of clothing", "衣物"),
    "tool": ((0, 0, 0), "tool", "工具"),
}
"""Category of things -> its colour in a map and its words."""
CLASSES: tuple[str, ...] = (*(stuff.id for stuff in STUFF), *THING_CLASSES)
"""Class number -> name: stuff first, then things by category."""
LABEL_COLOURS = np.array([*(stuff.label_colour for stuff in STUFF), *(colour for colour, _, _ in THING_CLASSES.values())], np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A setting: bands of stuff from top to bottom."""

    id: str
    at_en: str
    at_zh: str
    bands: tuple[tuple[str, int, str], ...]
    """(stuff, height in per mille at which the band begins, how its upper edge runs: level, waves, hills, peaks)."""
    stand: tuple[float, float]
    """Where things may stand: range of the y of their lower edge, as fractions of the side."""


PLACES = (
    Place(
        id="beach",
        at_en="at the beach",
        at_zh="在海边",
        bands=(("sky", 0, "level"), ("sea", 420, "level"), ("sand", 640, "waves")),
        stand=(0.8, 0.95),
    ),
    Place(
        id="meadow",
        at_en="in the meadow",
        at_zh="在草地上",
        bands=(("sky", 0, "level"), ("forest", 400, "hills"), ("grass", 540, "hills")),
        stand=(0.75, 0.95),
    ),
    Place(
        id="mountains",
        at_en="in the mountains",
        at_zh="在山里",
        bands=(("sky", 0, "level"), ("mountain", 260, "peaks"), ("grass", 660, "hills")),
        stand=(0.82, 0.95),
    ),
    Place(
        id="winter",
        at_en="in the snow",
        at_zh="在雪地里",
        bands=(("sky", 0, "level"), ("mountain", 360, "peaks"), ("snow", 560, "hills")),
        stand=(0.75, 0.95),
    ),
    Place(id="desert", at_en="in the desert", at_zh="在沙漠里", bands=(("sky", 0, "level"), ("sand", 500, "hills")), stand=(0.7, 0.95)),
    Place(
        id="street",
        at_en="on the street",
        at_zh="在街上",
        bands=(("sky", 0, "level"), ("stone", 360, "level"), ("road", 680, "level")),
        stand=(0.8, 0.95),
    ),
    Place(
        id="night",
        at_en="under the night sky",
        at_zh="在夜空下",
        bands=(("night", 0, "level"), ("forest", 480, "hills"), ("grass", 640, "hills")),
        stand=(0.8, 0.95),
    ),
    Place(id="room", at_en="in a room", at_zh="在房间里", bands=(("wall", 0, "level"), ("floor", 620, "level")), stand=(0.78, 0.95)),
    Place(
        id="farm",
        at_en="on the farm",
        at_zh="在农场",
        bands=(("sky", 0, "level"), ("grass", 400, "hills"), ("soil", 620, "waves")),
        stand=(0.78, 0.95),
    ),
    Place(
        id="lake",
        at_en="by the lake",
        at_zh="在湖边",
        bands=(("sky", 0, "level"), ("forest", 320, "hills"), ("sea", 460, "level"), ("grass", 700, "waves")),
        stand=(0.84, 0.95),
    ),
    Place(
        id="forest", at_en="in the forest", at_zh="在森林里", bands=(("forest", 0, "level"), ("grass", 560, "hills")), stand=(0.75, 0.95)
    ),
    Place(id="table", at_en="on the table", at_zh="在桌子上", bands=(("wall", 0, "level"), ("floor", 560, "level")), stand=(0.78, 0.92)),
    Place(id="square", at_en="on the square", at_zh="在广场上", bands=(("sky", 0, "level"), ("stone", 540, "level")), stand=(0.75, 0.95)),
)
PLACE_NAMES = {place.id: place for place in PLACES}
_NUMBER = {name: number for number, name in enumerate(CLASSES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """A place drawn in a style, bent by a number."""

    place: str
    style: str
    """Id of one of the pack's styles."""
    shape: int

    def as_json(self) -> dict:
        """The landscape as a plain dict."""
        return {"place": self.place, "style": self.style, "shape": self.shape}


@lru_cache(maxsize=32)
def classes_of(landscape: Landscape, side: int) -> np.ndarray:
    """Class of every pixel, H W uint8, read-only."""
    rows = np.arange(side, dtype=np.int32)[:, None]
    found = np.zeros((side, side), np.uint8)
    for number, (stuff, start, edge) in enumerate(PLACE_NAMES[landscape.place].bands):
        heights = _edge(landscape.shape * 8 + number, start, edge, side)
        found[rows >= heights[None, :]] = _NUMBER[stuff]
    found.setflags(write=False)
    return found


@lru_cache(maxsize=32)
def draw_landscape(landscape: Landscape, side: int) -> np.ndarray:
    """The place as a picture, H W 3 uint8 sRGB, read-only."""
    classes = classes_of(landscape, side)
    picture = np.empty((side, side, 3), np.uint8)
    for number in np.unique(classes):
        mask = classes == number
        picture[mask] = texture(int(number), landscape.style, side)[mask]
    outline = {"ink": (0, 0, 0), "sticker": (255, 255, 255)}.get(landscape.style)
    if outline is not None and side > 8:
        picture[_borders(classes, 3 if landscape.style == "sticker" else 2, side)] = outline
    picture.setflags(write=False)
    return picture


@lru_cache(maxsize=128)
def texture(number: int, style: str, side: int) -> np.ndarray:
    """One class of stuff over a whole picture, H W 3 uint8, read-only."""
    stuff = STUFF[number]
    rows, columns = np.mgrid[0:side, 0:side].astype(np.int64) * 224 // max(side, 1)
    marked = _PATTERNS[stuff.pattern](rows, columns)
    colour, mark = np.array(stuff.colour, np.int32), np.array(stuff.mark, np.int32)
    if style == "ink":
        colour, mark = np.array((255, 255, 255), np.int32), np.array((20, 20, 20), np.int32)
        if stuff.id == "night":
            colour, mark = mark, colour
        elif stuff.id == "sky":
            mark = colour  # black clouds would look like things
    elif style == "sticker":
        colour = colour + (255 - colour) * 2 // 5
        mark = (colour + mark) // 2
    elif style == "flat":
        mark = colour
    elif style == "3d":
        mark = (2 * colour + mark) // 3
    picture = np.where(marked[..., None], mark, colour)
    if style == "3d":
        picture = picture + (112 - rows[..., None]) * 36 // 224
    drawn = np.clip(picture, 0, 255).astype(np.uint8)
    drawn.setflags(write=False)
    return drawn


def label_picture(classes: np.ndarray) -> np.ndarray:
    """A segmentation map in its colours, H W 3 uint8."""
    return LABEL_COLOURS[classes]


def classes_in(picture: np.ndarray) -> np.ndarray:
    """The classes of a map in its colours, by the nearest colour, H W uint8."""
    differences = picture[:, :, None, :].astype(np.int32) - LABEL_COLOURS[None, None].astype(np.int32)
    return (differences**2).sum(-1).argmin(-1).astype(np.uint8)


def class_words(number: int, language: str) -> str:
    """How a class is called."""
    if number < len(STUFF):
        return STUFF[number].word_zh if language == "zh" else STUFF[number].word_en
    _, english, chinese = THING_CLASSES[CLASSES[number]]
    return chinese if language == "zh" else english


def class_number(name: str) -> int:
    """The number of a class: the id of stuff, or a category of things."""
    return _NUMBER[name]


def _edge(key: int, start: int, kind: str, side: int) -> np.ndarray:
    """Row at which a band begins, for every column, int32."""
    if start == 0:
        return np.zeros(side, np.int32)
    knots = {"level": 2, "waves": 9, "hills": 5, "peaks": 8}[kind]
    reach = {"level": 0, "waves": 22, "hills": 60, "peaks": 120}[kind]
    lift = _whole(key, 99) % 101 - 50  # the whole edge moves by up to 5 % of the side
    offsets = [lift + (_whole(key, knot) % (2 * reach + 1) - reach if reach else 0) for knot in range(knots)]
    if kind == "peaks":
        offsets = [lift + (-abs(value - lift) if knot % 2 else abs(value - lift) // 2) for knot, value in enumerate(offsets)]
    heights = np.array([(start + offset) * 1024 for offset in offsets], np.int64)
    position = np.arange(side, dtype=np.int64) * (knots - 1) * 1024 // max(side - 1, 1)
    left = np.minimum(position // 1024, knots - 2)
    share = position - left * 1024
    if kind != "peaks":
        share = share * share * (3 * 1024 - 2 * share) // 1024**2  # smooth between the knots
    return ((heights[left] * (1024 - share) + heights[left + 1] * share) // 1024 * side // (1024 * 1000)).astype(np.int32)


def _whole(*numbers: int) -> int:
    """A 32-bit number that depends on its arguments only."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest(), "big")


def _grain(rows: np.ndarray, columns: np.ndarray, salt: int) -> np.ndarray:
    """A pseudo-random number 0-255 for every pair of coordinates."""
    mixed = (rows * 73856093) ^ (columns * 19349663) ^ (salt * 83492791)
    mixed = (mixed ^ (mixed >> 13)) * 1274126177
    return (mixed ^ (mixed >> 16)) & 255


def _clouds(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    cell_y, cell_x = rows // 48, columns // 76
    centre_y = cell_y * 48 + 14 + _grain(cell_y, cell_x, 1) % 18
    centre_x = cell_x * 76 + 24 + _grain(cell_y, cell_x, 2) % 28
    seen = _grain(cell_y, cell_x, 3) < 110
    return seen & ((columns - centre_x) ** 2 + 5 * (rows - centre_y) ** 2 < 500)


def _stars(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    cell_y, cell_x = rows // 22, columns // 22
    off_y, off_x = 3 + _grain(cell_y, cell_x, 4) % 15, 3 + _grain(cell_y, cell_x, 5) % 15
    return (_grain(cell_y, cell_x, 6) < 120) & (abs(rows % 22 - off_y) + abs(columns % 22 - off_x) < 3)


def _waves(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    swing = abs(columns % 28 - 14) // 2
    return (rows + swing) % 18 < 3


def _grains(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return _grain(rows // 3, columns // 3, 7) < 20


def _blades(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    cell_y, cell_x = rows // 14, columns // 9
    lean = (rows % 14) // 4
    return (_grain(cell_y, cell_x, 8) < 190) & ((columns % 9 + lean) // 2 == 1 + _grain(cell_y, cell_x, 9) % 3) & (rows % 14 < 9)


def _flakes(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    cell_y, cell_x = rows // 26, columns // 26
    off_y, off_x = 4 + _grain(cell_y, cell_x, 10) % 17, 4 + _grain(cell_y, cell_x, 11) % 17
    down, across = abs(rows % 26 - off_y), abs(columns % 26 - off_x)
    return ((down < 1) & (across < 4)) | ((across < 1) & (down < 4))


def _dashes(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows % 36 < 4) & (columns % 44 < 24)


def _slopes(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return ((columns + 2 * rows) % 26 < 3) & (_grain(rows // 12, columns // 16, 12) < 170)


def _crowns(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    across = (columns + (rows // 16) % 2 * 12) % 24 - 12
    down = rows % 16
    distance = across**2 + (down - 14) ** 2
    return (distance > 120) & (distance < 190)


def _furrows(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows * 2 + columns // 3) % 26 < 5


def _dots(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows % 24 - 12) ** 2 + ((columns + rows // 24 % 2 * 12) % 24 - 12) ** 2 < 10


def _planks(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows % 20 < 2) | ((columns + rows // 20 % 3 * 25) % 75 < 2)


def _bricks(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows % 18 < 2) | ((columns + rows // 18 % 2 * 16) % 32 < 2)


_PATTERNS = {
    "clouds": _clouds,
    "stars": _stars,
    "waves": _waves,
    "grains": _grains,
    "blades": _blades,
    "flakes": _flakes,
    "dashes": _dashes,
    "slopes": _slopes,
    "crowns": _crowns,
    "furrows": _furrows,
    "dots": _dots,
    "planks": _planks,
    "bricks": _bricks,
}


def _borders(classes: np.ndarray, width: int, side: int) -> np.ndarray:
    """Where two bands meet, as a line of `width` pixels at 224."""
    found = np.zeros(classes.shape, bool)
    found[1:] |= classes[1:] != classes[:-1]
    found[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    for _ in range(max(0, width * side // 224 - 1)):
        found[1:] |= found[:-1]
    return found


def shrink_classes(classes: np.ndarray, side: int) -> np.ndarray:
    """A map at another side, by the nearest pixel."""
    return np.asarray(Image.fromarray(classes).resize((side, side), Image.Resampling.NEAREST))
