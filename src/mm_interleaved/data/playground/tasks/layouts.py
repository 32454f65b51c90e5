"""A segmentation map and a caption, then the picture with that layout. Every pixel of the map has one of 23 classes.

A quarter of the maps are drawn by hand: things are blobs. In the test split things are held-out pairs, or shapes never shown, of which the
caption says only the kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mm_interleaved.data.playground.canvas import Picture, box, class_map, paint
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.stuff import PLACES, THING_CLASSES, class_number, class_words, classes_of, label_picture
from mm_interleaved.data.playground.tasks import staging
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose

TEXTS: dict[Language, tuple[str, ...]] = {
    "en": ("a picture with this layout: {stuff}, {things}, {style}.", "paint this map: {things}, with {stuff}, {style}."),
    "zh": ("按照这张图的布局画：{stuff}，{things}，{style}。", "把这张布局图画出来：{things}，还有{stuff}，{style}。"),
}
BLOBS = 0.25
ONLY_KIND = 0.25
"""Share of training samples whose caption says "an animal" instead of "a dog"."""


def layout_map(world: World, random: np.random.Generator, side: int) -> Sample:
    """Map, caption, picture."""
    language = draw_language(world, random)
    count = int(random.integers(1, 3))
    test = world.config.split == "test"
    unseen = test and bool(world.unseen_things) and random.random() < 0.5
    if unseen:
        style = int(random.integers(world.config.styles))
        things = [choose(random, world.unseen_things) for _ in range(count)]
    else:
        first, style = world.draw_pair(random)
        same = [thing for thing in world.things_of[style] if thing != first]
        things = [first, *([choose(random, same)] if count == 2 and same else [])]
    only_kind = unseen or (not test and random.random() < ONLY_KIND)
    names = [world.pack.things[thing].id for thing in things]
    land = staging.draw_land(world, random, style, choose(random, PLACES).id)
    sizes = [float(random.uniform(0.3, 0.45)) for _ in names]
    wanted = Picture(landscape=land, pieces=staging.on_the_floor(world, random, names, style, land.place, sizes=sizes))
    blobs = _blobs(wanted, world.pack, random) if random.random() < BLOBS else None
    given = layout_classes({**wanted.as_json(), "blobs": blobs}, world.pack, side)
    stuff = [class_words(int(number), language) for number in dict.fromkeys(_reading_order(classes_of(land, 64)))]
    blanks = {
        "stuff": _listed(stuff, language),
        "things": _listed([_named(world, name, language, only_kind=only_kind) for name in names], language),
        "style": staging.style_with_word(world, style, language),
    }
    truth: dict[str, Any] = {
        "language": language,
        "things": names,
        "style": staging.style_id(world, style),
        "unseen": unseen,
        "drawn_by_hand": blobs is not None,
        "scenes": [{**wanted.as_json(), "blobs": blobs}, wanted.as_json()],
    }
    text = choose(random, TEXTS[language]).format(**blanks)
    return Sample("layout_map", (label_picture(given), text, paint(wanted, world.pack, side)), 2, truth)


def layout_classes(scene: dict[str, Any], pack: Pack, side: int) -> np.ndarray:
    """The class of every pixel of a map, H W uint8.

    Args:
        scene: a picture's JSON with `blobs`: for every thing its ellipses as (x, y, radius x, radius y) in per mille, or None for
            exact shapes.
    """
    picture = Picture.from_json({name: value for name, value in scene.items() if name != "blobs"})
    if scene["blobs"] is None:
        return class_map(picture, pack, side)
    assert picture.landscape is not None
    classes = classes_of(picture.landscape, side).copy()
    rows, columns = np.mgrid[0:side, 0:side].astype(np.int64) * 1000 // max(side, 1)
    for piece, ellipses in zip(picture.pieces, scene["blobs"], strict=True):
        number = class_number(pack.things[pack.thing_index(piece.name)].category)
        for x, y, across, down in ellipses:
            classes[(columns - x) ** 2 * down**2 + (rows - y) ** 2 * across**2 < (across * down) ** 2] = number
    return classes


def _blobs(picture: Picture, pack: Pack, random: np.random.Generator) -> list[list[list[int]]]:
    """Three overlapping ellipses over each thing's box, as a hasty hand would fill it."""
    drawn = []
    for piece in picture.pieces:
        left, top, right, bottom = (edge * 1000 // 224 for edge in box(piece, pack, 224))
        width, height = right - left, bottom - top
        ellipses = [[(left + right) // 2, (top + bottom) // 2, width * 9 // 20 + 1, height * 9 // 20 + 1]]
        for _ in range(2):
            x, y = random.uniform(0.3, 0.7, 2)
            ellipses.append([left + int(width * x), top + int(height * y), width * 7 // 20 + 1, height * 7 // 20 + 1])
        drawn.append(ellipses)
    return drawn


def _reading_order(classes: np.ndarray) -> list[int]:
    """The stuff of a map, from top to bottom."""
    return [int(number) for number in classes[:, classes.shape[1] // 2]]


def _listed(words: list[str], language: Language) -> str:
    if len(words) == 1:
        return words[0]
    if language == "zh":
        return "、".join(words[:-1]) + "和" + words[-1]
    return ", ".join(words[:-1]) + " and " + words[-1]


def _named(world: World, name: str, language: Language, *, only_kind: bool) -> str:
    if not only_kind:
        return staging.one(world, name, language)
    _, english, chinese = THING_CLASSES[world.pack.things[world.numbers[name]].category]
    article = "an" if english[0] in "aeiou" else "a"
    return f"一个{chinese}" if language == "zh" else f"{article} {english}"
