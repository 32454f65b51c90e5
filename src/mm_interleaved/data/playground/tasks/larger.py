"""The larger tasks, one for each demonstration of rows 5 and 8 to 18 of the design, and the sentences that their texts are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from mm_interleaved.data.playground.extras import extras_of
from mm_interleaved.data.playground.pack import DEFAULT_FOLDER
from mm_interleaved.data.playground.stuff import CLASSES, PLACES, class_words
from mm_interleaved.data.playground.tasks import (
    building,
    contexts,
    episodes,
    heroes,
    inserting,
    layouts,
    processes,
    roles,
    silhouettes,
    tales,
    talking,
)
from mm_interleaved.data.playground.tasks.samples import Sample
from mm_interleaved.data.playground.world import World

TASKS: dict[str, Callable[[World, np.random.Generator, int], Sample]] = {
    "blocks": building.blocks,
    "silhouette": silhouettes.silhouette,
    "style_named": roles.style_named,
    "two_roles": roles.two_roles,
    "surroundings": inserting.surroundings,
    "joined_scene": inserting.joined_scene,
    "context_style": contexts.context_style,
    "layout_map": layouts.layout_map,
    "tale": tales.tale,
    "process": processes.process,
    "episode": episodes.episode,
    "own_hero": heroes.own_hero,
    "conversation": talking.conversation,
}
"""Task name -> function(world, random, side in pixels)."""


def _blocks() -> Iterator[str]:
    yield from _strings((building.ASKED, building.STEP, building.MATERIALS, building.NUMBERS_EN, building.NUMBERS_ZH, "a an 1 2 3 4 5 6"))
    for build, sizes, *words in building.GOALS.values():
        yield from words
        for step in (step for size in sizes for step in build(size, "oak")):
            yield from (step.en, step.zh)


def _props() -> Iterator[str]:
    for prop in extras_of(DEFAULT_FOLDER).props.values():
        yield from (prop.phrase_en, prop.phrase_zh)


def _places() -> Iterator[str]:
    yield from ("the in style it is drawn", "风格用来画")
    for place in PLACES:
        yield from (place.at_en, place.at_zh)


def _silhouette() -> Iterator[str]:
    yield from _strings((silhouettes.TEXTS, silhouettes.INKS, silhouettes.PALETTES, silhouettes.PLACES, silhouettes.BACKGROUNDS))
    yield from _props()


def _roles() -> Iterator[str]:
    yield from _strings((roles.SUBJECT_FIRST, roles.STYLE_FIRST, roles.NAMED))


def _inserting() -> Iterator[str]:
    yield from _strings((inserting.AMONG, inserting.HERE, inserting.JOIN, inserting.SIDES, inserting.PHOTO_WORDS))
    yield from ("a large wooden house stands sits", "一座很大的木屋")
    yield from _places()
    yield from _props()


def _contexts() -> Iterator[str]:
    yield from _strings((contexts.CAPTIONS, contexts.CONTRADICTIONS, contexts.PLACE_CAPTIONS))


def _layouts() -> Iterator[str]:
    yield from _strings(layouts.TEXTS)
    yield from ("a an and in style", "一个和、风格")
    for number in range(len(CLASSES)):
        yield from (class_words(number, "en"), class_words(number, "zh"))


def _tales() -> Iterator[str]:
    yield from _strings(tales.OPENINGS)
    for plot in tales.plots().values():
        yield from _strings((plot.wish, plot.panels))
    yield from _props()


def _processes() -> Iterator[str]:
    yield from _strings((processes.ASKED, processes.STEP, processes.WORDS, processes.NUMBERS_ZH, "a an 1 2 3 4 5 6"))
    for each in processes.processes().values():
        yield from _strings((each.goal, tuple((stage.en, stage.zh) for stage in each.stages)))
    yield from _props()


def _episodes() -> Iterator[str]:
    yield from _strings(episodes.TITLES)
    for figure in extras_of(DEFAULT_FOLDER).figures.values():
        yield from (figure.name_en, figure.name_zh)
    for episode in episodes.episodes().values():
        yield from _strings(tuple((panel.en, panel.zh) for panel in episode.panels))


def _heroes() -> Iterator[str]:
    yield from _strings((heroes.NAMES, heroes.MEET, heroes.ELSEWHERE, heroes.WITH, heroes.QUESTIONS, heroes.STORY))
    yield from _places()


def _talking() -> Iterator[str]:
    yield from _strings((talking.YOU, talking.ME, talking.LINES))


SENTENCES: dict[str, Callable[[], Iterable[str]]] = {
    "blocks": _blocks,
    "silhouette": _silhouette,
    "style_named": _roles,
    "two_roles": _roles,
    "surroundings": _inserting,
    "joined_scene": _inserting,
    "context_style": _contexts,
    "layout_map": _layouts,
    "tale": _tales,
    "process": _processes,
    "episode": _episodes,
    "own_hero": _heroes,
    "conversation": _talking,
}
"""Task -> the sentences and names that its texts are made of, `{blanks}` included."""


def _strings(table: object) -> Iterator[str]:
    if isinstance(table, str):
        yield table
    elif isinstance(table, dict):
        yield from _strings(tuple(table.values()))
    elif isinstance(table, (tuple, list)):
        for member in table:
            yield from _strings(member)
