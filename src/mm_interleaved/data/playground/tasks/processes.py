"""How something is made: the question, then every stage in words with a picture after it. The stages are in `tables/processes.yaml`.

The prompt holds the question and some of the first stages. Held out are combinations of a process and what it is done with; a process
that has only one such thing is shown with held-out styles instead of held-out things.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mm_interleaved.data.playground.canvas import Kind, Picture, Piece, paint, standing
from mm_interleaved.data.playground.tasks import staging
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose
from mm_interleaved.errors import ConfigError

TABLE = Path(__file__).parents[1] / "tables" / "processes.yaml"
ASKED: dict[Language, tuple[str, ...]] = {
    "en": ("how do i {goal}?", "show me how to {goal}.", "step by step: {goal}."),
    "zh": ("怎么{goal}？", "教我{goal}。", "一步一步地{goal}。"),
}
STEP: dict[Language, str] = {"en": "{number}. {text}", "zh": "第{number}步：{text}"}
NUMBERS_ZH = "一二三四五六"
STATES: dict[str, Kind] = {"pile": "pile", "halves": "halves", "slices": "slices"}
WORDS = {"honey_pot": ("honey", "蜂蜜"), "herb": ("herbs", "香草"), "meat": ("meat", "肉")}
"""What a thing is called as an ingredient, where its own name speaks of a pot or a sprig."""
SIZES = {1: (0.5,), 2: (0.38, 0.38), 3: (0.28, 0.28, 0.28)}


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: its texts with blanks, and what its picture shows."""

    en: str
    zh: str
    show: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Process:
    """One row of `processes.yaml`."""

    id: str
    goal: tuple[str, str]
    place: str
    results: tuple[tuple[str, str], ...]
    """What it may be done with, and what comes out."""
    stages: tuple[Stage, ...]


@lru_cache(maxsize=1)
def processes() -> dict[str, Process]:
    """All processes by id."""
    found = {}
    for name, row in yaml.safe_load(TABLE.read_text(encoding="utf-8")).items():
        stages = [[part.strip() for part in step.split("|")] for step in row["steps"]]
        found[name] = Process(
            name,
            tuple(row["goal"]),
            row["place"],
            tuple(row["x"].items()),
            tuple(Stage(en, zh, tuple(show.split())) for en, zh, show in stages),
        )
    return found


def process(world: World, random: np.random.Generator, side: int) -> Sample:
    """A question, then all stages; zero to two of them are given.

    Raises:
        ConfigError: the world has too few things for any process.
    """
    language = draw_language(world, random)
    by_process = _doable(world)
    name, made_of, style = choose(random, by_process[choose(random, list(by_process))])
    chosen = processes()[name]
    after = dict(chosen.results)[made_of]
    land = staging.draw_land(world, random, style, chosen.place)
    blanks = _blanks(world, made_of, language)
    number = language == "zh"
    given = int(random.integers(3))
    question = choose(random, ASKED[language]).format(goal=chosen.goal[number].format(**blanks))
    parts: list[Segment] = [question]
    scenes, texts = [], []
    for place, stage in enumerate(chosen.stages):
        text = (stage.zh if number else stage.en).format(**blanks)
        scene = Picture(landscape=land, pieces=_pieces(world, random, stage.show, made_of, after, style, chosen.place))
        shown = STEP[language].format(number=NUMBERS_ZH[place] if number else place + 1, text=text)
        parts += [shown if place or number else f" {shown}", paint(scene, world.pack, side)]
        scenes.append(scene)
        texts.append(text)
    truth: dict[str, Any] = {
        "language": language,
        "process": name,
        "made_of": made_of,
        "style": staging.style_id(world, style),
        "given": given,
        "texts": texts,
        "panels": [[piece.name for piece in scene.pieces] for scene in scenes],
        "scenes": [scene.as_json() for scene in scenes],
    }
    return Sample("process", tuple(parts), 1 + 2 * given, truth)


@lru_cache(maxsize=16)
def _doable(world: World) -> dict[str, list[tuple[str, str, int]]]:
    """Process -> what it may be done with in this split, and in which style."""
    found: dict[str, list[tuple[str, str, int]]] = {}
    for chosen in processes().values():
        known = [(made_of, after) for made_of, after in chosen.results if _shown(world, chosen, made_of, after)]
        # With one ingredient there is no other combination: then its style takes part.
        named = [((chosen.id, made_of) if len(known) > 1 else (), made_of, after) for made_of, after in known]
        options = []
        for names, made_of, after in named:
            for style in staging.common_styles(world, _things(world, chosen, made_of, after)):
                combination = names or (chosen.id, made_of, staging.style_id(world, style))
                if staging.is_of_split(world, "process", combination):
                    options.append((chosen.id, made_of, style))
        if options:
            found[chosen.id] = options
    if not found:
        raise ConfigError(f"no process can be shown with the first {world.config.things} things of the pack; raise world.things.")
    return found


def _shown(world: World, chosen: Process, made_of: str, after: str) -> bool:
    return all(staging.is_known(world, name) for name in _things(world, chosen, made_of, after))


def _things(world: World, chosen: Process, made_of: str, after: str) -> list[str]:
    """Everything that a process shows, by name."""
    del world
    return list(dict.fromkeys(_named(token, made_of, after)[1] for stage in chosen.stages for token in stage.show) | {made_of: None})


def _named(token: str, made_of: str, after: str) -> tuple[str, str]:
    """State and name of what a token of the table shows."""
    state, _, name = token.rpartition(":")
    return state, {"x": made_of, "after": after}.get(name, name)


def _pieces(
    world: World, random: np.random.Generator, show: tuple[str, ...], made_of: str, after: str, style: int, place: str
) -> tuple[Piece, ...]:
    pieces = []
    for number, token in enumerate(show):
        state, name = _named(token, made_of, after)
        kind = STATES.get(state) or staging.piece_kind(world, name)
        if kind in STATES.values() and not staging.is_thing(world, name):
            kind = "prop"  # a prop has one state only
        foot = staging.foot_of(world, random, name, (number + 0.5) / len(show), place)
        pieces.append(standing(kind, name, staging.style_id(world, style), foot, SIZES[len(show)][number], world.pack))
    return tuple(pieces)


def _blanks(world: World, made_of: str, language: Language) -> dict[str, str]:
    name = staging.the(world, made_of, language).removeprefix("the ")
    if made_of in WORDS:
        name = WORDS[made_of][language == "zh"]
    blanks = {"x": name, "xs": name, "art": "a", "measure": "个"}
    if staging.is_thing(world, made_of) and made_of not in WORDS:
        thing = world.pack.things[world.numbers[made_of]]
        blanks |= {"xs": thing.name_zh if language == "zh" else thing.plural_en, "art": thing.article_en, "measure": thing.measure_zh}
    return blanks
