"""Fairy tales and travel journals: an opening line, then four panels of text and picture. The plots are in `tables/tales.yaml`.

Every plot has a state: a wish, what stands in its way, a tool that fits, the end; five questions about it are answered from a text by
`answers`. What panel 1 shows returns in panel 4, and the hero stands on the left of every panel. Held out are heroes of a plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mm_interleaved.data.playground.canvas import Picture, paint
from mm_interleaved.data.playground.tasks import staging, wording
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose

TABLE = Path(__file__).parents[1] / "tables" / "tales.yaml"
OPENINGS: dict[str, dict[Language, tuple[str, ...]]] = {
    "tale": {
        "en": ("tell a fairy tale: {hero_styled} {wish}.", "once upon a time there was {hero_styled} who {wish}."),
        "zh": ("讲一个童话：{hero_styled}{wish}。", "从前有{hero_styled}，它{wish}。"),
    },
    "journal": {
        "en": ("write a travel journal: {hero_styled} {wish}.", "the travel journal of {hero_styled} who {wish}."),
        "zh": ("写一篇旅行日记：{hero_styled}{wish}。", "{hero_styled}{wish}，这是它的日记。"),
    },
}
ROLES = ("goal", "block", "tool")
SHOWN = ("goal", "block", "tool", "goal")
"""What each panel shows beside the hero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One schema of `tales.yaml`."""

    id: str
    kind: str
    heroes: tuple[str, ...]
    casts: tuple[tuple[str, str, str], ...]
    """Goal, obstacle and tool."""
    places: tuple[str, ...]
    wish: tuple[str, str]
    panels: tuple[tuple[str, str], ...]
    """English and Chinese text of each panel."""


@lru_cache(maxsize=1)
def plots() -> dict[str, Plot]:
    """All plots by id."""
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {row["id"]: Plot(**{name: _frozen(value) for name, value in row.items()}) for row in rows}


def tale(world: World, random: np.random.Generator, side: int) -> Sample:
    """An opening line, then four panels.

    Raises:
        ConfigError: the world has too few things for any plot.
    """
    language = draw_language(world, random)
    plot_id, hero = choose(random, _heroes_by_plot(world, random))
    plot = plots()[plot_id]
    cast = dict(zip(ROLES, choose(random, _casts(world, plot, hero)), strict=True))
    style = choose(random, staging.common_styles(world, (hero, *cast.values())))
    blanks = _blanks(world, hero, cast, style, language)
    number = language == "zh"
    opening = choose(random, OPENINGS[plot.kind][language]).format(wish=plot.wish[number], **blanks)
    texts = [panel[number].format(**blanks) for panel in plot.panels]
    lands = {place: staging.draw_land(world, random, style, place) for place in plot.places}
    scenes = []
    for place, role in zip(plot.places, SHOWN, strict=True):
        pieces = staging.on_the_floor(world, random, (hero, cast[role]), style, place, sizes=(0.38, 0.38))
        scenes.append(Picture(landscape=lands[place], pieces=pieces))
    segments: list[Segment] = [opening]
    for index, (text, scene) in enumerate(zip(texts, scenes, strict=True)):
        segments += [text if index or number else f" {text}", paint(scene, world.pack, side)]
    truth: dict[str, Any] = {
        "language": language,
        "plot": plot_id,
        "kind": plot.kind,
        "hero": hero,
        **cast,
        "style": staging.style_id(world, style),
        "texts": texts,
        "panels": [[hero, cast[role]] for role in SHOWN],
        "scenes": [scene.as_json() for scene in scenes],
    }
    return Sample("tale", tuple(segments), 1, truth)


def answers(world: World, truth: dict[str, Any], texts: Sequence[str]) -> dict[str, bool]:
    """Five questions about a story's state, answered from its text: is each answer right?

    Who is it about? What does it wish for? What is in the way? What helps, and does it fit? Is the wish there at the end?
    The last three may be answered by any cast of the plot that has the opening's state; a text that never says it is wrong.

    Args:
        truth: of the sample whose opening was continued.
        texts: the texts of the panels that were told, in order; missing panels are wrong.
    """
    language: Language = truth["language"]
    plot = plots()[truth["plot"]]
    panels = [*texts, "", "", "", ""][:4]
    hero = _mentions(world, truth["hero"], language, " ".join(panels))
    goals = {cast[0] for cast in plot.casts if _mentions(world, cast[0], language, panels[0])}
    blocks = {cast[1] for cast in plot.casts if _mentions(world, cast[1], language, panels[1])}
    fitting = [cast for cast in plot.casts if cast[0] in goals and cast[1] in blocks and _mentions(world, cast[2], language, panels[2])]
    returned = any(_mentions(world, goal, language, panels[3]) for goal in goals)
    return {"hero": hero, "wish": bool(goals), "obstacle": bool(blocks), "tool": bool(fitting), "end": returned}


def _mentions(world: World, name: str, language: Language, text: str) -> bool:
    word = staging.the(world, name, language)
    return word in text if language == "zh" else word.removeprefix("the ") in text.lower()


def _heroes_by_plot(world: World, random: np.random.Generator) -> list[tuple[str, str]]:
    """The split's heroes of one plot, the plot drawn first, so that plots come equally often."""
    by_plot: dict[str, list[tuple[str, str]]] = {}
    for plot, hero in _castable(world):
        by_plot.setdefault(plot, []).append((plot, hero))
    return by_plot[choose(random, list(by_plot))]


@lru_cache(maxsize=16)
def _castable(world: World) -> list[tuple[str, str]]:
    pairs = [(plot.id, hero) for plot in plots().values() for hero in plot.heroes if _casts(world, plot, hero)]
    return staging.of_this_split(world, "tale", pairs)


@lru_cache(maxsize=4096)
def _casts(world: World, plot: Plot, hero: str) -> list[tuple[str, str, str]]:
    """The casts that this world can show in at least one style common to all."""
    return [
        cast
        for cast in plot.casts
        if hero not in cast and all(staging.is_known(world, name) for name in (hero, *cast)) and staging.common_styles(world, (hero, *cast))
    ]


def _blanks(world: World, hero: str, cast: dict[str, str], style: int, language: Language) -> dict[str, str]:
    thing = world.pack.things[world.numbers[hero]]
    blanks = {"hero_styled": wording.one(thing, language, world.pack.styles[style])}
    for role, name in (("hero", hero), *cast.items()):
        the = staging.the(world, name, language)
        only = name in ("sun", "moon")
        blanks[role] = the
        blanks[f"{role}_one"] = the if only else staging.one(world, name, language)
        blanks[f"{role}_word"] = the if language == "zh" else the.removeprefix("the ")
    return blanks


def _frozen(value: Any) -> Any:
    return tuple(_frozen(member) for member in value) if isinstance(value, list) else value
