"""A silhouette from a long description: which object, where it stands, what is behind it, in which colours. All four are scored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from mm_interleaved.data.playground.canvas import proportions, sprite, standing
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import staging
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose

# fmt: off
OBJECTS = (
    "grand_piano", "wooden_house", "bridge", "cactus", "car", "camel", "umbrella", "guitar", "elephant", "tree", "dress", "hammer", "bus",
    "penguin", "palm_tree", "horse", "chair", "sunflower", "pineapple", "castle", "trumpet", "rabbit", "tractor", "tulip", "crown", "key",
    "rose", "bicycle", "factory", "violin", "giraffe", "rocket", "star", "tent", "turtle", "snail", "helicopter", "butterfly", "shoe",
    "airplane", "whale", "saxophone", "octopus", "bed", "sailboat", "owl", "duck", "rooster", "anchor", "deer", "scooter", "lizard",
)
# fmt: on
"""Things and props that their outline alone tells apart."""
INKS = {
    "black": ((16, 16, 16), "black", "黑色"),
    "navy": ((20, 28, 96), "dark blue", "深蓝色"),
    "pine": ((8, 70, 40), "dark green", "深绿色"),
    "wine": ((110, 10, 30), "dark red", "深红色"),
}
"""Colour of the silhouette with its words."""
PALETTES = {
    "sunset": ((255, 152, 60), (255, 224, 130), "orange", "yellow", "橙色", "黄色"),
    "dawn": ((250, 170, 190), (255, 236, 214), "pink", "cream", "粉色", "米色"),
    "ice": ((130, 190, 240), (236, 246, 255), "light blue", "white", "浅蓝色", "白色"),
    "spring": ((150, 214, 120), (246, 250, 180), "light green", "pale yellow", "浅绿色", "淡黄色"),
    "dusk": ((176, 140, 224), (250, 190, 214), "violet", "pink", "紫色", "粉色"),
    "fog": ((178, 178, 178), (236, 236, 236), "gray", "white", "灰色", "白色"),
}
"""First and second colour of the background with their words."""
PLACES = {
    "left": ((0.27, 0.86), "on the left side", "左边"),
    "middle": ((0.5, 0.86), "in the middle", "正中间"),
    "right": ((0.73, 0.86), "on the right side", "右边"),
    "top": ((0.5, 0.56), "in the upper half", "上半部分"),
}
"""Foot of the silhouette with its words."""
BACKGROUNDS = {
    "bands": (
        "behind it {first} changes in broad bands to {second} at the lower edge",
        "身后的颜色从上边的{first}一条一条地变成下边的{second}",
    ),
    "disc": ("behind it a huge round {second} disc hangs in a calm {first} sky", "身后是{first}的天空，挂着一个巨大的{second}圆盘"),
    "hills": ("behind it soft round {second} hills lie below a wide {first} sky", "身后是{first}的天空，下面是一片柔和的{second}山丘"),
    "rays": (
        "behind it {first} and {second} rays spread from the lower edge like a fan",
        "身后是{first}和{second}的光芒，从下边像扇子一样展开",
    ),
    "stripes": ("behind it upright stripes of {first} and {second} run from edge to edge", "身后是{first}和{second}相间的竖条纹"),
}
TEXTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "draw the {ink} silhouette of {one}, {where} of the picture, one flat shape without details. {behind}.",
        "a picture with only the outline of {one}, filled with {ink}, {where} of the picture; {behind}, and nothing more.",
    ),
    "zh": (
        "画一张剪影：{one}，全是{ink}，站在画面的{where}，轮廓清楚，里面没有任何细节。{behind}，除此之外什么也没有。",
        "请画{one}的{ink}剪影，放在画面{where}，只有平平的一个形状，没有明暗。{behind}，没有别的东西。",
    ),
}
SIZE = 0.46


@dataclass(frozen=True, slots=True, kw_only=True)
class Silhouette:
    """What is drawn; names are keys of this file's tables."""

    object: str
    ink: str
    palette: str
    place: str
    background: str

    def as_json(self) -> dict[str, str]:
        """The silhouette as a plain dict."""
        return {name: getattr(self, name) for name in ("object", "ink", "palette", "place", "background")}


def silhouette(world: World, random: np.random.Generator, side: int) -> Sample:
    """A description of 25 to 40 English words, then its picture. Held out are combinations of object and background."""
    language = draw_language(world, random)
    names = [name for name in OBJECTS if staging.is_known(world, name)]
    combinations = [(name, background) for name in names for background in BACKGROUNDS]
    name, background = choose(random, staging.of_this_split(world, "silhouette", combinations))
    drawn = Silhouette(
        object=name,
        ink=choose(random, list(INKS)),
        palette=choose(random, list(PALETTES)),
        place=choose(random, list(PLACES)),
        background=background,
    )
    text = _describe(world, drawn, choose(random, (0, 1)), language)
    truth = {"language": language, "thing": name, "scenes": [{"silhouette": drawn.as_json()}]}
    return Sample("silhouette", (text, draw(drawn, world.pack, side)), 1, truth)


def draw(silhouette: Silhouette, pack: Pack, side: int) -> np.ndarray:
    """The picture, side side 3 uint8."""
    canvas = Image.fromarray(_background(silhouette.background, silhouette.palette, side)).copy()
    kind = "thing" if any(thing.id == silhouette.object for thing in pack.things) else "prop"
    foot = PLACES[silhouette.place][0]
    width, height = proportions(kind, silhouette.object, "flat", pack)  # type: ignore[arg-type]  # one of the two kinds
    size = SIZE if height >= 0.5 * width else SIZE * 0.9
    piece = standing(kind, silhouette.object, "flat", foot, size, pack)  # type: ignore[arg-type]
    shape = sprite(piece, pack, side).getchannel("A")
    corner = (round(piece.centre_x * side - shape.width / 2), round(piece.centre_y * side - shape.height / 2))
    canvas.paste(INKS[silhouette.ink][0], (*corner, corner[0] + shape.width, corner[1] + shape.height), shape)
    return np.asarray(canvas)


def rivals(silhouette: Silhouette, names: tuple[str, ...]) -> dict[str, list[Silhouette]]:
    """For each scored aspect, the silhouettes that differ from this one in that aspect alone."""
    tables = {"object": names, "ink": tuple(INKS), "palette": tuple(PALETTES), "place": tuple(PLACES), "background": tuple(BACKGROUNDS)}
    mine = silhouette.as_json()
    return {
        aspect: [Silhouette(**{**mine, aspect: other}) for other in options if other != mine[aspect]] for aspect, options in tables.items()
    }


def _describe(world: World, drawn: Silhouette, form: int, language: Language) -> str:
    chinese = language == "zh"
    first, second = PALETTES[drawn.palette][4:6] if chinese else PALETTES[drawn.palette][2:4]
    behind = BACKGROUNDS[drawn.background][chinese].format(first=first, second=second)
    where, ink = PLACES[drawn.place][1 + chinese], INKS[drawn.ink][1 + chinese]
    return TEXTS[language][form].format(one=staging.one(world, drawn.object, language), ink=ink, where=where, behind=behind)


@lru_cache(maxsize=64)
def _background(kind: str, palette: str, side: int) -> np.ndarray:
    first, second = (np.array(colour, np.int32) for colour in PALETTES[palette][:2])
    rows, columns = np.mgrid[0:side, 0:side].astype(np.int64) * 1000 // max(side, 1)
    if kind == "bands":
        share = (rows * 6 // 1000)[..., None]
        picture = (first * (5 - share) + second * share) // 5
    else:
        marked = {
            "disc": (rows - 420) ** 2 + (columns - 500) ** 2 < 330**2,
            "hills": ((columns - 220) ** 2 + 3 * (rows - 980) ** 2 < 420**2) | ((columns - 800) ** 2 + 3 * (rows - 1000) ** 2 < 480**2),
            "rays": ((columns - 500) * 5 // (1300 - rows) + 41) % 2 == 0,
            "stripes": columns // 125 % 2 == 0,
        }[kind]
        picture = np.where(marked[..., None], second, first)
    drawn = picture.astype(np.uint8)
    drawn.setflags(write=False)
    return drawn
