"""A story of three panels: an opening line, then text and picture three times.

Three plots. In each, what the first panel says comes back in the third, and the hero (an animal, drawn in one style) stands on the
left of every panel. Who may eat, ride or visit what is a hand-made table, so that every story makes sense.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mm_interleaved.data.playground.scene import Scene, compose
from mm_interleaved.data.playground.tasks import wording
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose
from mm_interleaved.errors import ConfigError

FAVOURITE_FOOD = {
    "dog": ("bone",),
    "cat": ("fish",),
    "camel": ("cactus",),
    "elephant": ("watermelon", "banana"),
    "penguin": ("fish",),
    "horse": ("apple", "carrot"),
    "cow": ("tulip", "sunflower"),
    "pig": ("tomato", "mushroom"),
    "rabbit": ("carrot",),
    "mouse": ("cheese",),
    "monkey": ("banana", "pineapple"),
    "koala": ("maple_leaf",),
    "tiger": ("bone",),
    "lion": ("bone",),
    "fox": ("egg",),
    "bear": ("honey_pot",),
    "giraffe": ("maple_leaf",),
    "zebra": ("carrot", "apple"),
    "turtle": ("tomato", "strawberry"),
    "snail": ("strawberry", "maple_leaf"),
    "bee": ("rose", "sunflower"),
    "butterfly": ("tulip", "rose"),
    "rooster": ("cherry",),
    "hedgehog": ("mushroom", "apple"),
    "squirrel": ("chestnut",),
    "deer": ("mushroom", "apple"),
    "sheep": ("tulip", "sunflower"),
}
GUIDES = ("owl", "elephant", "turtle", "butterfly")
"""Animals that know the way: they see far, or are old and remember."""
VEHICLES_TO = {
    "castle": ("bicycle", "car", "bus", "train"),
    "school": ("bus", "bicycle", "scooter"),
    "tent": ("truck", "car", "bicycle"),
    "temple": ("train", "bus", "airplane"),
    "volcano": ("helicopter", "airplane"),
    "factory": ("truck", "train", "scooter"),
    "moon": ("rocket", "flying_saucer"),
}
# fmt: off
TRAVELLERS = (
    "dog", "cat", "camel", "elephant", "penguin", "frog", "horse", "cow", "pig", "rabbit", "mouse", "monkey", "panda",
    "koala", "tiger", "lion", "fox", "bear", "giraffe", "zebra", "turtle", "owl", "duck", "rooster", "hedgehog", "squirrel",
    "deer", "sheep",
)
# fmt: on
"""Animals that may ride, play music and have friends: those that live on land."""
ONLY_ONE = ("moon",)
"""Goals that the world has only one of: always "the"."""
INSTRUMENTS = ("guitar", "trumpet", "violin", "drum", "saxophone", "piano")

PLOTS: dict[str, dict[str, tuple[tuple[str, ...], ...]]] = {
    "food": {
        "en": (
            ("tell a story: {hero_styled} looks for {goal_one}.", "a story about {hero_styled} who looks for {goal_one}."),
            (" {hero} is lost and hungry. it dreams of {goal_one}.", " {hero} has lost its way. it would love {goal_one}."),
            ("{hero} meets {other_one}. {other} knows where to go.", "{other_one} comes by. {other} shows {hero} the way."),
            ("{hero} finds {goal} at last. now it is happy.", "at last {hero} has {goal}. it is not hungry any more."),
        ),
        "zh": (
            ("讲个故事：{hero_styled}在找{goal_one}。", "说一说{hero_styled}怎样找{goal_one}。"),
            ("{hero}迷路了，肚子很饿。它想吃{goal}。", "{hero}找不到路了。它很想要{goal_one}。"),
            ("{hero}遇见了{other_one}。{other}知道路。", "{other_one}来了。{other}给{hero}带路。"),
            ("{hero}终于找到了{goal}，它很开心。", "{hero}终于有了{goal}，它不饿了。"),
        ),
    },
    "journey": {
        "en": (
            ("tell a story: {hero_styled} travels to {goal_one}.", "a story about {hero_styled} who travels to {goal_one}."),
            (" {hero} sees {goal_one} far away. it wants to go there.", " {hero} dreams of {goal_one}. but it is far away."),
            ("{hero} takes {other_one}. the way is long.", "the way is long, so {hero} takes {other_one}."),
            ("{hero} is at {goal} at last. what a trip!", "now {hero} is at {goal}. how big it is!"),
        ),
        "zh": (
            ("讲个故事：{hero_styled}要去看{goal_one}。", "说一说{hero_styled}怎样去看{goal_one}。"),
            ("{hero}看见远处有{goal_one}。它想去那里。", "{hero}梦见{goal_one}，可是很远。"),
            ("{hero}坐上了{other_one}。路很长。", "路很长，{hero}坐上了{other_one}。"),
            ("{hero}终于到了{goal}。真是一次好旅行！", "{hero}到了{goal}。{goal}真大！"),
        ),
    },
    "music": {
        "en": (
            ("tell a story: {hero_styled} makes music for {goal_one}.", "a story about {hero_styled} who makes music for {goal_one}."),
            (" {hero} meets {goal_one}. {goal} is sad today.", " {goal_one} is sad. {hero} wants to help {goal}."),
            ("{hero} finds {other_one} and learns to play.", "{hero} looks around and finds {other_one}."),
            ("{hero} plays {other} for {goal}. {goal} is happy again.", "{hero} plays {other}, and {goal} is not sad any more."),
        ),
        "zh": (
            ("讲个故事：{hero_styled}给{goal_one}演奏音乐。", "说一说{hero_styled}怎样给{goal_one}演奏音乐。"),
            ("{hero}遇见了{goal_one}。{goal}今天很难过。", "{goal_one}很难过。{hero}想帮助{goal}。"),
            ("{hero}找到了{other_one}，学会了演奏。", "{hero}到处找，找到了{other_one}。"),
            ("{hero}为{goal}演奏{other}。{goal}又开心了。", "{hero}演奏{other}，{goal}不再难过了。"),
        ),
    },
}
"""Plot -> language -> wordings of the opening and of the three panels. `goal` is shown in panels 1 and 3, `other` in panel 2."""

GROUND_OF_PLOT = {"food": 3, "journey": 1, "music": 2}
"""A meadow, the sky, lamp light: the ground colour follows from the plot, so that a reader of the opening can know it."""
GOAL_SIZES = {"food": (0.28, 0.4), "journey": (0.26, 0.42), "music": (0.4, 0.4)}
"""Size of the goal in the first panel (a dream, or far away) and in the last."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays in a story: pack indices."""

    hero: int
    style: int
    goal: int
    other: int


def story(world: World, random: np.random.Generator, side: int) -> Sample:
    """One story. The hero's pair belongs to the world's split; all others are drawn in the same style, from pairs seen in training.

    Raises:
        ConfigError: the world has too few things for any plot.
    """
    casts = _casts(world)
    language = draw_language(world, random)
    plot = choose(random, list(casts))
    cast = choose(random, choose(random, casts[plot]))
    ground = 0 if GROUND_OF_PLOT[plot] >= world.grounds else GROUND_OF_PLOT[plot]
    blanks = _blanks(world, cast, language)
    texts = [choose(random, templates).format(**blanks) for templates in PLOTS[plot][language]]
    early, late = GOAL_SIZES[plot]
    seconds = ((cast.goal, early), (cast.other, 0.4), (cast.goal, late))
    scenes = [_panel(world, cast, ground, second, size, random) for second, size in seconds]
    segments: list[Segment] = [texts[0]]
    for text, scene in zip(texts[1:], scenes, strict=False):
        segments += [text, compose(scene, world.pack, side)]
    name = [thing.id for thing in world.pack.things]
    truth = {
        "language": language,
        "plot": plot,
        "hero": name[cast.hero],
        "style": world.pack.styles[cast.style].id,
        "goal": name[cast.goal],
        "other": name[cast.other],
        "ground": ground,
        "panels": [[name[cast.hero], name[second]] for second, _ in seconds],
        "texts": texts[1:],
        "scenes": [scene.as_json() for scene in scenes],
    }
    return Sample("story", tuple(segments), 1, truth)


def _panel(world: World, cast: Cast, ground: int, second: int, size: float, random: np.random.Generator) -> Scene:
    hero = world.place((cast.hero, cast.style), 0.23, 0.5, 0.38, random)
    return Scene(ground=ground, items=(hero, world.place((second, cast.style), 0.76, 0.5, size, random)))


def _blanks(world: World, cast: Cast, language: Language) -> dict[str, str]:
    hero, goal, other = (world.pack.things[index] for index in (cast.hero, cast.goal, cast.other))
    return {
        "hero_styled": wording.one(hero, language, world.pack.styles[cast.style]),
        "hero": wording.the(hero, language),
        "goal": wording.the(goal, language),
        "goal_one": wording.the(goal, language) if goal.id in ONLY_ONE else wording.one(goal, language),
        "other": wording.the(other, language),
        "other_one": wording.one(other, language),
    }


@lru_cache(maxsize=16)
def _casts(world: World) -> dict[str, list[list[Cast]]]:
    """Plot -> heroes -> all casts of that hero, so that heroes come equally often whatever the length of their tables."""
    index = {world.pack.things[thing].id: thing for thing in world.train_things}
    found: dict[str, list[list[Cast]]] = {}
    for plot in PLOTS:
        heroes = []
        for hero_name in FAVOURITE_FOOD if plot == "food" else TRAVELLERS:
            casts = [
                Cast(index[hero_name], style, index[goal], index[other])
                for goal, other in _partners(plot, hero_name)
                if hero_name in index and goal in index and other in index
                for style in world.styles_of.get(index[hero_name], ())
                if style in world.seen_styles_of[index[goal]] and style in world.seen_styles_of[index[other]]
            ]
            if casts:
                heroes.append(casts)
        if heroes:
            found[plot] = heroes
    if not found:
        raise ConfigError(f"no story can be told with the first {world.config.things} things of the pack; raise world.things.")
    return found


def _partners(plot: str, hero: str) -> list[tuple[str, str]]:
    """(goal, other) by name."""
    if plot == "food":
        return [(food, guide) for food in FAVOURITE_FOOD[hero] for guide in GUIDES if guide != hero]
    if plot == "journey":
        return [(place, vehicle) for place, vehicles in VEHICLES_TO.items() for vehicle in vehicles]
    return [(friend, instrument) for friend in TRAVELLERS if friend != hero for instrument in INSTRUMENTS]
