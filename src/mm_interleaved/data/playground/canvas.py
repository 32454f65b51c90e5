"""A picture of the larger playground: pieces of any kind on a plain ground, in a place, or over a photograph.

`scene.Scene` is the picture of the first tasks; this one adds places, props, comic figures, cut fruit, shadows and class maps.
Integer arithmetic only, so equal pictures are equal bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from mm_interleaved.data.playground.extras import extras_of
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import GROUNDS
from mm_interleaved.data.playground.stuff import Landscape, class_number, classes_of, draw_landscape
from mm_interleaved.errors import ConfigError

Kind = Literal["thing", "halves", "slices", "pile", "prop", "figure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One drawing in a picture."""

    kind: Kind
    """thing: whole; halves and slices: cut in two or four; pile: three of it; prop and figure: from the extras."""
    name: str
    """Id of the thing, prop or figure."""
    look: str
    """Id of its style; of a figure "pose/feeling"."""
    centre_x: float
    """Fraction of the picture's side, 0 at the left edge."""
    centre_y: float
    """Fraction of the picture's side, 0 at the top edge."""
    size: float
    """Longest side of the drawing as a fraction of the picture's side."""
    flip: bool = False
    """Mirrored left to right."""

    def as_json(self) -> dict:
        """The piece as a plain dict."""
        return {name: getattr(self, name) for name in ("kind", "name", "look", "centre_x", "centre_y", "size", "flip")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A whole picture. Later pieces cover earlier ones. Exactly one of ground, landscape and photo is given."""

    pieces: tuple[Piece, ...]
    ground: int | None = None
    """Index in `scene.GROUNDS`."""
    landscape: Landscape | None = None
    photo: str | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.ground, self.landscape, self.photo)) != 1:
            raise ConfigError("a picture has exactly one of ground, landscape and photo.")

    def as_json(self) -> dict:
        """The picture as plain dicts and lists, for the ground truth of a sample."""
        return {
            "ground": self.ground,
            "landscape": None if self.landscape is None else self.landscape.as_json(),
            "photo": self.photo,
            "pieces": [piece.as_json() for piece in self.pieces],
        }

    @classmethod
    def from_json(cls, scene: dict) -> Picture:
        """The inverse of `as_json`."""
        landscape = scene["landscape"]
        return cls(
            ground=scene["ground"],
            landscape=None if landscape is None else Landscape(**landscape),
            photo=scene["photo"],
            pieces=tuple(Piece(**piece) for piece in scene["pieces"]),
        )


def paint(picture: Picture, pack: Pack, side: int) -> np.ndarray:
    """Draws a picture.

    Args:
        side: pixels per side.

    Returns:
        side side 3 uint8 sRGB.

    Raises:
        DataError: a piece is not in the pack.
    """
    canvas = _background(picture, pack, side).copy()
    for piece in picture.pieces:
        drawing = sprite(piece, pack, side, solid=picture.ground is None)
        canvas.paste(drawing, corner(piece, drawing, side), drawing)
    return np.asarray(canvas)


def class_map(picture: Picture, pack: Pack, side: int) -> np.ndarray:
    """Class of every pixel of a picture in a place, H W uint8; pieces have the class of their thing's category.

    Raises:
        ConfigError: the picture has no place, or shows something other than things.
    """
    if picture.landscape is None or any(piece.kind in ("prop", "figure") for piece in picture.pieces):
        raise ConfigError("only pictures of things in a place have a class map.")
    canvas = Image.fromarray(classes_of(picture.landscape, side))
    for piece in picture.pieces:
        drawing = sprite(piece, pack, side, solid=True)
        inside = drawing.getchannel("A").point(lambda alpha: 255 if alpha > 127 else 0)
        canvas.paste(class_number(pack.things[pack.thing_index(piece.name)].category), corner(piece, drawing, side), inside)
    return np.asarray(canvas)


def standing(kind: Kind, name: str, look: str, foot: tuple[float, float], size: float, pack: Pack, *, flip: bool = False) -> Piece:
    """A piece whose lower edge stands at a point.

    Args:
        foot: fractions of the side: centre of the lower edge.
    """
    width, height = proportions(kind, name, look, pack)
    return Piece(
        kind=kind,
        name=name,
        look=look,
        centre_x=round(foot[0], 4),
        centre_y=round(foot[1] - size * height / max(width, height) / 2, 4),
        size=round(size, 4),
        flip=flip,
    )


def proportions(kind: Kind, name: str, look: str, pack: Pack) -> tuple[int, int]:
    """Width and height of a drawing in its own pixels."""
    drawing = _drawing(kind, name, look, pack)
    return drawing.width, drawing.height


def sprite(piece: Piece, pack: Pack, side: int, *, solid: bool = False) -> Image.Image:
    """A piece at its size, RGBA.

    Args:
        solid: fill what an ink drawing encloses with white, so that a patterned background does not show through.
    """
    solid = solid and piece.look == "ink"
    return _sprite(pack, piece.kind, piece.name, piece.look, max(1, round(piece.size * side)), piece.flip, solid)


def corner(piece: Piece, drawing: Image.Image, side: int) -> tuple[int, int]:
    """Left and top pixel of a piece's drawing."""
    return round(piece.centre_x * side - drawing.width / 2), round(piece.centre_y * side - drawing.height / 2)


def box(piece: Piece, pack: Pack, side: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel of a piece."""
    drawing = sprite(piece, pack, side)
    left, top = corner(piece, drawing, side)
    return left, top, left + drawing.width, top + drawing.height


def _background(picture: Picture, pack: Pack, side: int) -> Image.Image:
    if picture.landscape is not None:
        return Image.fromarray(draw_landscape(picture.landscape, side))
    if picture.photo is not None:
        return _photo(pack, picture.photo, side)
    assert picture.ground is not None
    return Image.new("RGB", (side, side), GROUNDS[picture.ground].colour)


@lru_cache(maxsize=128)
def _photo(pack: Pack, name: str, side: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(extras_of(pack.folder).photo(name))).resize((side, side), Image.Resampling.BOX)


# 2048 sprites of about 90 pixels are 65 MB; a 224-pixel piece costs 0.3-1 ms to scale when it is not in here.
@lru_cache(maxsize=2048)
def _sprite(pack: Pack, kind: Kind, name: str, look: str, longest: int, flip: bool, solid: bool) -> Image.Image:
    drawing = _drawing(kind, name, look, pack)
    if solid:
        drawing = _filled(drawing)
    if flip:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = longest / max(drawing.size)
    size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    return drawing.resize(size, Image.Resampling.BICUBIC)


@lru_cache(maxsize=1024)
def _drawing(kind: Kind, name: str, look: str, pack: Pack) -> Image.Image:
    if kind == "prop":
        return Image.fromarray(extras_of(pack.folder).prop(name, look))
    if kind == "figure":
        pose, emotion = look.split("/")
        return Image.fromarray(extras_of(pack.folder).figure(name, pose, emotion))
    style = next((index for index, style in enumerate(pack.styles) if style.id == look), 0)
    whole = Image.fromarray(pack.drawing(pack.thing_index(name), style))
    return _ARRANGE[kind](whole)


def _filled(drawing: Image.Image) -> Image.Image:
    """The drawing on the white shape that its lines enclose."""
    outside = Image.new("L", (drawing.width + 2, drawing.height + 2), 0)
    outside.paste(drawing.getchannel("A").point(lambda alpha: 255 if alpha > 127 else 0), (1, 1))
    ImageDraw.floodfill(outside, (0, 0), 128)
    shape = outside.crop((1, 1, drawing.width + 1, drawing.height + 1)).point(lambda value: 0 if value == 128 else 255)
    filled = Image.new("RGBA", drawing.size, (255, 255, 255, 0))
    filled.putalpha(shape)
    filled.alpha_composite(drawing)
    return filled


def _halves(whole: Image.Image) -> Image.Image:
    """Cut down the middle, the halves apart."""
    gap, middle = whole.width // 6, whole.width // 2
    drawn = Image.new("RGBA", (whole.width + gap, whole.height))
    drawn.paste(whole.crop((0, 0, middle, whole.height)), (0, 0))
    drawn.paste(whole.crop((middle, 0, whole.width, whole.height)), (middle + gap, 0))
    return drawn


def _slices(whole: Image.Image) -> Image.Image:
    """Cut in four, the quarters apart."""
    across, down = whole.width // 2, whole.height // 2
    gap = max(whole.size) // 6
    drawn = Image.new("RGBA", (whole.width + gap, whole.height + gap))
    for left, top in ((0, 0), (across, 0), (0, down), (across, down)):
        piece = whole.crop((left, top, across if left == 0 else whole.width, down if top == 0 else whole.height))
        drawn.paste(piece, (left + (gap if left else 0), top + (gap if top else 0)))
    return drawn


def _pile(whole: Image.Image) -> Image.Image:
    """Three of it: two below, one above."""
    width, height = whole.width, whole.height
    drawn = Image.new("RGBA", (2 * width, height * 7 // 4))
    for corner_at in ((width // 2, 0), (0, height * 3 // 4), (width, height * 3 // 4)):
        drawn.alpha_composite(whole, corner_at)
    return drawn


_ARRANGE = {"thing": lambda whole: whole, "halves": _halves, "slices": _slices, "pile": _pile}
