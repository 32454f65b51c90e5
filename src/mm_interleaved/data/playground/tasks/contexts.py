"""Three captions, two pictures in one style: the third picture follows, and only the context says in which style.

In a third of the samples the words contradict it ("a photo of …"). Styles are the pack's and filters; a third of the test styles are
filter settings that training never shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mm_interleaved.data.playground.canvas import Picture, paint
from mm_interleaved.data.playground.filters import Filter, apply_filter, filters
from mm_interleaved.data.playground.stuff import PLACES
from mm_interleaved.data.playground.tasks import staging
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose

CAPTIONS: dict[Language, tuple[str, ...]] = {"en": ("{what}.", "here: {what}."), "zh": ("{what}。", "这是{what}。")}
CONTRADICTIONS: dict[Language, tuple[str, ...]] = {
    "en": ("a photo of {what}.", "a photograph of {what}."),
    "zh": ("一张照片：{what}。", "{what}的照片。"),
}
PLACE_CAPTIONS = {
    "beach": ("waves at the beach", "海边的波浪"),
    "meadow": ("a green meadow", "绿色的草地"),
    "mountains": ("high mountains", "高高的山"),
    "winter": ("a snowy land", "一片雪地"),
    "desert": ("a wide desert", "一片沙漠"),
    "street": ("an empty street", "一条空空的街道"),
    "night": ("a starry night", "星空下的夜晚"),
    "farm": ("a farm field", "农场的田地"),
    "lake": ("a lake by the forest", "树林边的湖"),
}
CONTRADICTED = 1 / 3
UNSEEN_FILTERS = 1 / 3
"""Share of test samples whose style is a filter setting that training never shows."""
FILTERED = 0.5
"""Share of training samples in a filter; the others are in one of the pack's styles."""
BASE_STYLES = ("flat", "3d", "cartoon")
"""Pack styles under a filter; ink and sticker lose too much."""


def context_style(world: World, random: np.random.Generator, side: int) -> Sample:
    """Caption, picture, caption, picture, caption; then the third picture in the style of the first two."""
    language = draw_language(world, random)
    if world.config.split == "test":
        chosen = choose(random, filters(held_out=True)) if random.random() < UNSEEN_FILTERS else None
    else:
        chosen = choose(random, filters(held_out=False)) if random.random() < FILTERED else None
    ids = [style.id for style in world.pack.styles[: world.config.styles]]
    if chosen is None:
        style = choose(random, list(world.things_of))
    else:
        style = ids.index(choose(random, [base for base in BASE_STYLES if base in ids]))
    pictures, words = _three(world, random, style, language)
    contradicted = bool(random.random() < CONTRADICTED)
    captions = [choose(random, CAPTIONS[language]).format(what=what) for what in words]
    if contradicted:
        captions[2] = choose(random, CONTRADICTIONS[language]).format(what=words[2])
    parts: list[Segment] = []
    for caption, picture in zip(captions, pictures, strict=True):
        parts += [caption, _drawn(picture, chosen, world, side)]
    truth: dict[str, Any] = {
        "language": language,
        "style": staging.style_id(world, style),
        "filter": None if chosen is None else list(chosen),
        "contradicted": contradicted,
        "what": words,
        "scenes": [{**picture.as_json(), "filter": None if chosen is None else list(chosen)} for picture in pictures],
    }
    return Sample("context_style", tuple(parts), 5, truth)


def _drawn(picture: Picture, chosen: Filter | None, world: World, side: int) -> np.ndarray:
    drawn = paint(picture, world.pack, side)
    return drawn if chosen is None else apply_filter(drawn, chosen)


def _three(world: World, random: np.random.Generator, style: int, language: Language) -> tuple[list[Picture], list[str]]:
    """Two pictures of what training shows in the style, then one of what this split shows in it; a quarter of the pictures are places."""
    seen = [thing for thing, styles in world.seen_styles_of.items() if style in styles]
    used: list[int] = []
    places = [place.id for place in PLACES if place.id in PLACE_CAPTIONS]
    pictures, words = [], []
    for number in range(3):
        if random.random() < 0.25:
            place = choose(random, places)
            places.remove(place)
            pictures.append(Picture(landscape=staging.draw_land(world, random, style, place), pieces=()))
            words.append(PLACE_CAPTIONS[place][language == "zh"])
            continue
        options = seen if number < 2 else world.things_of.get(style, tuple(seen))
        thing = choose(random, [option for option in options if option not in used] or list(seen))
        used.append(thing)
        pictures.append(staging.lone(world, random, thing, style, world.draw_ground(random)))
        words.append(staging.one(world, world.pack.things[thing].id, language))
    return pictures, words
