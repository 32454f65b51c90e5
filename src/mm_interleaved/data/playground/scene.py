"""A picture of the playground: drawings on a plain ground, described by numbers, drawn exactly the same every time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from mm_interleaved.data.playground.pack import Pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A plain ground colour with its words."""

    word_en: str
    word_zh: str
    colour: tuple[int, int, int]
    """sRGB, 0-255. Light tints, so that black ink stays readable on each of them."""


GROUNDS = (
    Ground(word_en="white", word_zh="白色", colour=(255, 255, 255)),
    Ground(word_en="blue", word_zh="蓝色", colour=(172, 210, 255)),
    Ground(word_en="yellow", word_zh="黄色", colour=(255, 238, 150)),
    Ground(word_en="green", word_zh="绿色", colour=(155, 218, 150)),
    Ground(word_en="red", word_zh="红色", colour=(240, 115, 110)),
    Ground(word_en="gray", word_zh="灰色", colour=(188, 188, 188)),
    Ground(word_en="purple", word_zh="紫色", colour=(182, 142, 226)),
    Ground(word_en="pink", word_zh="粉色", colour=(255, 190, 220)),
)
"""White first; a world with n grounds uses the first n."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One drawing in a scene."""

    thing: int
    """Index in `Pack.things`."""
    style: int
    """Index in `Pack.styles`."""
    centre_x: float
    """Fraction of the picture's side, 0 at the left edge."""
    centre_y: float
    """Fraction of the picture's side, 0 at the top edge."""
    size: float
    """Longest side of the drawing as a fraction of the picture's side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A whole picture. Later items cover earlier ones."""

    ground: int
    """Index in `GROUNDS`."""
    items: tuple[Item, ...]

    def as_json(self) -> dict:
        """The scene as plain dicts and lists, for the ground truth of a sample."""
        fields = ("thing", "style", "centre_x", "centre_y", "size")
        return {"ground": self.ground, "items": [{name: getattr(item, name) for name in fields} for item in self.items]}


def compose(scene: Scene, pack: Pack, side: int) -> np.ndarray:
    """Draws a scene.

    Integer arithmetic only (Pillow's 8-bit resampling and pasting), so equal scenes are equal bytes on every machine.

    Args:
        side: pixels per side of the square picture.

    Returns:
        side side 3 uint8 sRGB.
    """
    picture = Image.new("RGB", (side, side), GROUNDS[scene.ground].colour)
    for item in scene.items:
        drawing = sprite(pack, item.thing, item.style, max(2, round(item.size * side)))
        corner = (round(item.centre_x * side - drawing.width / 2), round(item.centre_y * side - drawing.height / 2))
        picture.paste(drawing, corner, drawing)
    return np.asarray(picture)


# 1024 sprites of about 100 pixels are 40 MB; a 224-pixel item costs 0.3-1 ms to scale when it is not in here.
@lru_cache(maxsize=1024)
def sprite(pack: Pack, thing: int, style: int, longest: int) -> Image.Image:
    """One drawing, its longest side `longest` pixels, RGBA. Shared: not to be changed."""
    drawing = Image.fromarray(pack.drawing(thing, style))
    scale = longest / max(drawing.size)
    size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    # Pillow premultiplies RGBA while it resamples, so no dark fringe appears at the edges.
    return drawing.resize(size, Image.Resampling.BICUBIC)
