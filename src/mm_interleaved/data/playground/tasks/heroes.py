"""Your own picture is the hero: a figure never seen before, with a name. Ask about it, draw it elsewhere, tell its story.

In training the figures are named things, in the test split things and comic figures that training never showed. The words never say what
the figure is: only its name, so that everything else must come from the picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mm_interleaved.data.playground.canvas import Kind, Picture, Piece, paint, standing
from mm_interleaved.data.playground.extras import extras_of
from mm_interleaved.data.playground.stuff import PLACE_NAMES
from mm_interleaved.data.playground.tasks import staging, wording
from mm_interleaved.data.playground.tasks.episodes import figure_piece
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose

NAMES: dict[Language, tuple[str, ...]] = {
    "en": (
        "Momo",
        "Pip",
        "Zuzu",
        "Bobo",
        "Kiki",
        "Tilo",
        "Lulu",
        "Nemo",
        "Wanda",
        "Rufus",
        "Toto",
        "Mimi",
        "Oskar",
        "Fifi",
        "Hugo",
        "Yoyo",
    ),
    "zh": ("毛毛", "皮皮", "豆包", "波波", "可可", "丁丁", "露露", "小宝", "团团", "圆圆", "多多", "咪咪", "阿呆", "飞飞", "乐乐", "悠悠"),
}
MEET: dict[Language, tuple[str, ...]] = {
    "en": ("this is {name}.", "my own drawing. its name is {name}.", "meet {name}!"),
    "zh": ("这是{name}。", "这是我自己的画，它叫{name}。", "来认识一下{name}！"),
}
ELSEWHERE: dict[Language, tuple[str, ...]] = {
    "en": ("draw {name} {place}.", "now show {name} {place}.", "where is {name} today? {place}."),
    "zh": ("画{name}{place}。", "现在让大家看看{name}{place}。", "{name}今天在哪儿？{place}。"),
}
WITH: dict[Language, tuple[str, ...]] = {
    "en": ("draw {name} {place} with {one}.", "{place}, {name} finds {one}."),
    "zh": ("画{name}{place}，旁边有{one}。", "{place}，{name}发现了{one}。"),
}
QUESTIONS: dict[str, dict[Language, tuple[str, ...]]] = {
    "ground": {"en": ("which color is behind {name}?",), "zh": ("{name}身后是什么颜色？",)},
    "style": {"en": ("in which style is {name} drawn?",), "zh": ("{name}是什么风格？",)},
    "side": {"en": ("on which side is {name}?",), "zh": ("{name}在哪边？",)},
}
STORY: dict[Language, tuple[tuple[str, str, str], ...]] = {
    "en": (
        (
            "tell a story about {name}.",
            "{name} wakes up {first}. today it wants to find {one}.",
            "it walks and walks. {second} there is {one}! {name} is happy.",
        ),
        (
            "what does {name} do today?",
            "{first}, {name} looks for {one}, but there is none.",
            "then {name} looks {second}, and there it finds {one}.",
        ),
    ),
    "zh": (
        ("讲一个{name}的故事。", "{name}{first}醒来，今天它想找{one}。", "它走啊走，{second}找到了{one}！{name}真高兴。"),
        ("{name}今天做什么？", "{name}{first}找{one}，可是没有找到。", "后来{name}去找，{second}终于找到了{one}。"),
    ),
}
HOMES = tuple(place for place in PLACE_NAMES if place != "table")
"""Where a figure may be."""
SIDES = {"left": 0.3, "right": 0.7}
COMIC_SHARE = 0.4
"""Share of test samples whose hero is a comic figure instead of a thing."""
STORY_GOALS = ("star", "key", "balloon", "apple", "rose", "kite", "cake", "crown", "soccer_ball", "book", "sunflower", "umbrella")


def own_hero(world: World, random: np.random.Generator, side: int) -> Sample:
    """One of three forms: a question about the figure, the figure elsewhere, or its story of two panels."""
    language = draw_language(world, random)
    hero = _Hero(world, random)
    name = choose(random, NAMES[language])
    form = choose(random, ("ask", "elsewhere", "story"))
    where = choose(random, list(SIDES))
    ground = world.draw_ground(random)
    portrait = Picture(ground=ground, pieces=(hero.alone(SIDES[where] if form == "ask" else 0.5),))
    opening = choose(random, MEET[language]).format(name=name)
    truth: dict[str, Any] = {
        "language": language,
        "form": form,
        "name": name,
        "hero": hero.name,
        "kind": hero.kind,
        "style": staging.style_id(world, hero.style),
        "unseen": world.config.split == "test",
    }
    made: list[Segment]
    if form == "ask":
        asked, answer, count = _question(world, random, hero, where, ground, name, language)
        given: list[Segment] = [opening, paint(portrait, world.pack, side), wording.QUESTION[language].format(question=asked)]
        made = [wording.ANSWER[language].format(answer=answer)]
        scenes = [portrait]
        truth |= {"question": asked, "answer": answer, "answers": count}
    else:
        scenes, texts = (_elsewhere if form == "elsewhere" else _story)(world, random, hero, name, language)
        given = [opening, paint(portrait, world.pack, side), texts[0]]
        made = []
        for text, scene in zip(texts[1:] or [""], scenes, strict=True):
            made += [text, paint(scene, world.pack, side)] if text else [paint(scene, world.pack, side)]
        truth |= {"texts": texts, "panels": [[piece.name for piece in scene.pieces] for scene in scenes]}
        scenes = [portrait, *scenes]
    truth["scenes"] = [scene.as_json() for scene in scenes]
    return Sample("own_hero", (*given, *made), len(given), truth)


class _Hero:
    """The figure of one sample, and how it is drawn."""

    def __init__(self, world: World, random: np.random.Generator) -> None:
        self.world = world
        self.kind: Kind = "thing"
        unseen = world.config.split == "test"
        if unseen and random.random() < COMIC_SHARE:
            self.kind = "figure"
            self.name = choose(random, [name for name, figure in extras_of(world.pack.folder).figures.items() if not figure.name_en])
            self.style = choose(random, staging.coloured_styles(world))
            return
        if unseen and world.unseen_things:
            thing, self.style = choose(random, world.unseen_things), int(random.integers(world.config.styles))
        else:
            thing = choose(random, list(world.seen_styles_of))
            self.style = choose(random, world.seen_styles_of[thing])
        self.name = world.pack.things[thing].id

    def alone(self, x: float) -> Piece:
        """Large, on its portrait."""
        if self.kind == "figure":
            return figure_piece(self.world, self.name, "stand/happy", x, height=0.8)
        return Piece(kind="thing", name=self.name, look=self._look(), centre_x=x, centre_y=0.5, size=0.56)

    def at(self, foot: tuple[float, float], look: str = "stand/happy") -> Piece:
        """Standing in a place."""
        if self.kind == "figure":
            return figure_piece(self.world, self.name, look, foot[0])
        return standing("thing", self.name, self._look(), foot, 0.4, self.world.pack)

    def _look(self) -> str:
        return staging.style_id(self.world, self.style)


def _question(
    world: World, random: np.random.Generator, hero: _Hero, where: str, ground: int, name: str, language: Language
) -> tuple[str, str, int]:
    """Question, answer, number of equally likely answers."""
    forms = ["ground"] * (world.grounds > 1) + ["style"] * (hero.kind == "thing") + ["side"]
    form = choose(random, forms)
    asked = choose(random, QUESTIONS[form][language]).format(name=name)
    if form == "ground":
        return asked, wording.ground_word(ground, language), world.grounds
    if form == "style":
        return asked, wording.style_word(world.pack.styles[hero.style], language), world.config.styles
    return asked, where if language == "en" else wording.PLACES[where][1], 2


def _elsewhere(world: World, random: np.random.Generator, hero: _Hero, name: str, language: Language) -> tuple[list[Picture], list[str]]:
    place = choose(random, HOMES)
    land = staging.draw_land(world, random, hero.style, place)
    low, high = PLACE_NAMES[place].stand
    foot = (low + high) / 2
    blanks = {"name": name, "place": staging.place_words(place, language)}
    others = [thing for thing, styles in world.seen_styles_of.items() if hero.style in styles and world.pack.things[thing].id != hero.name]
    if others and random.integers(2):
        other = choose(random, others)
        piece = standing("thing", world.pack.things[other].id, staging.style_id(world, hero.style), (0.76, foot), 0.34, world.pack)
        text = choose(random, WITH[language]).format(one=wording.one(world.pack.things[other], language), **blanks)
        return [Picture(landscape=land, pieces=(hero.at((0.28, foot)), piece))], [text]
    return [Picture(landscape=land, pieces=(hero.at((0.5, foot)),))], [choose(random, ELSEWHERE[language]).format(**blanks)]


def _story(world: World, random: np.random.Generator, hero: _Hero, name: str, language: Language) -> tuple[list[Picture], list[str]]:
    goals = [goal for goal in STORY_GOALS if goal != hero.name and hero.style in staging.common_styles(world, (goal,))]
    goal = choose(random, goals)
    places = staging.pick_two(random, HOMES)
    first, second = (staging.place_words(place, language) for place in places)
    one = staging.one(world, goal, language)
    texts = [text.format(name=name, first=first, second=second, one=one) for text in choose(random, STORY[language])]
    scenes = []
    for number, place in enumerate(places):
        foot = sum(PLACE_NAMES[place].stand) / 2
        pieces = [hero.at((0.3, foot), "stand/worried" if number == 0 else "approve/laughing")]
        if number == 1:
            pieces.append(standing("thing", goal, staging.style_id(world, hero.style), (0.74, foot), 0.34, world.pack))
        scenes.append(Picture(landscape=staging.draw_land(world, random, hero.style, place), pieces=tuple(pieces)))
    return scenes, texts
