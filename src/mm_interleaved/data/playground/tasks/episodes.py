"""Cartoon episodes: two recurring figures talk through four panels, and their feelings change. The first panel is given.

The dialogues are in `tables/episodes.yaml`. Held out are pairs of figures, so that a test episode joins two that were never seen together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mm_interleaved.data.playground.canvas import Picture, Piece, paint, proportions, standing
from mm_interleaved.data.playground.extras import ANY_STYLE, Figure, extras_of
from mm_interleaved.data.playground.tasks import staging
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose
from mm_interleaved.errors import ConfigError

TABLE = Path(__file__).parents[1] / "tables" / "episodes.yaml"
TITLES: dict[Language, str] = {"en": "a cartoon with {a} and {b}. {text}", "zh": "{a}和{b}的漫画。{text}"}
FIGURE_HEIGHT = 0.62
"""Height of a figure as a fraction of the panel's side; wide poses are made smaller."""
WIDEST = 0.56


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: text in two languages, "pose/feeling" of both figures, what else is shown or an empty string."""

    en: str
    zh: str
    left: str
    right: str
    prop: str


@dataclass(frozen=True, slots=True)
class Episode:
    """One row of `episodes.yaml`."""

    id: str
    place: str
    panels: tuple[Panel, ...]


@lru_cache(maxsize=1)
def episodes() -> dict[str, Episode]:
    """All episodes by id."""
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {row["id"]: Episode(row["id"], row["place"], tuple(Panel(*panel) for panel in row["panels"])) for row in rows}


def named_figures(world: World) -> dict[str, Figure]:
    """Figures that have names; the others are for "your own picture is the hero"."""
    return {name: figure for name, figure in extras_of(world.pack.folder).figures.items() if figure.name_en}


def episode(world: World, random: np.random.Generator, side: int) -> Sample:
    """Title and first panel, then three more panels.

    Raises:
        ConfigError: the world has too few things for any episode.
    """
    language = draw_language(world, random)
    chosen = choose(random, _playable(world))
    figures = named_figures(world)
    pairs = staging.of_this_split(world, "episode", [(one, other) for one in figures for other in figures if one < other])
    pair = choose(random, pairs)
    left, right = pair if random.integers(2) else pair[::-1]
    style = choose(random, _styles(world, chosen))
    land = staging.draw_land(world, random, style, chosen.place)
    names = {"a": _name(figures[left], language), "b": _name(figures[right], language)}
    scenes, segments, texts = [], [], []
    for number, panel in enumerate(chosen.panels):
        text = (panel.zh if language == "zh" else panel.en).format(**names)
        texts.append(text)
        pieces = [figure_piece(world, left, panel.left, 0.25), figure_piece(world, right, panel.right, 0.75, flip=True)]
        if panel.prop:
            pieces += _between(world, random, panel.prop, style)
        scene = Picture(landscape=land, pieces=tuple(pieces))
        scenes.append(scene)
        shown: Segment = TITLES[language].format(text=text, **names) if number == 0 else text
        segments += [shown, paint(scene, world.pack, side)]
    truth: dict[str, Any] = {
        "language": language,
        "episode": chosen.id,
        "left": left,
        "right": right,
        "feelings": [[panel.left.split("/")[1], panel.right.split("/")[1]] for panel in chosen.panels],
        "props": [panel.prop for panel in chosen.panels],
        "texts": texts,
        "scenes": [scene.as_json() for scene in scenes],
    }
    return Sample("episode", tuple(segments), 2, truth)


def figure_piece(world: World, name: str, look: str, x: float, *, height: float = FIGURE_HEIGHT, flip: bool = False) -> Piece:
    """A figure that rises from the lower edge of the panel."""
    width, tall = proportions("figure", name, look, world.pack)
    size = min(height * max(width, tall) / tall, WIDEST * max(width, tall) / width)
    return standing("figure", name, look, (x, 1.0), size, world.pack, flip=flip)


def _between(world: World, random: np.random.Generator, name: str, style: int) -> list[Piece]:
    """What they speak about, in a speech bubble in the upper middle where no figure covers it."""
    x, y = 0.5 + 0.03 * float(random.uniform(-1, 1)), 0.19 + 0.02 * float(random.uniform(-1, 1))
    bubble = Piece(kind="prop", name="bubble", look=ANY_STYLE, centre_x=round(x, 4), centre_y=round(y + 0.03, 4), size=0.36)
    look = staging.style_id(world, style)
    shown = Piece(kind=staging.piece_kind(world, name), name=name, look=look, centre_x=round(x, 4), centre_y=round(y, 4), size=0.2)
    return [bubble, shown]


def _name(figure: Figure, language: Language) -> str:
    return figure.name_zh if language == "zh" else figure.name_en


def _styles(world: World, chosen: Episode) -> list[int]:
    """Styles of its places and props; figures are coloured, so never ink."""
    coloured = staging.coloured_styles(world)
    return [style for style in staging.common_styles(world, _props(chosen)) if style in coloured]


def _props(chosen: Episode) -> list[str]:
    return [panel.prop for panel in chosen.panels if panel.prop]


@lru_cache(maxsize=16)
def _playable(world: World) -> list[Episode]:
    found = [each for each in episodes().values() if all(staging.is_known(world, name) for name in _props(each)) and _styles(world, each)]
    if not found:
        raise ConfigError(f"no episode can be shown with the first {world.config.things} things of the pack; raise world.things.")
    return found
