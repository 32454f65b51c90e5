"""A conversation: ask, answer, draw, ask about what was drawn. The last turn of the one who answers must be produced.

Turns are "you:" and "me:"; a drawing is an answer. Questions about a drawing can only be answered by looking at it: what lies where, in
which style, on which ground were chosen by whoever drew, not by the words.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mm_interleaved.data.playground.canvas import Picture, Piece, paint
from mm_interleaved.data.playground.tasks import staging, wording
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose

YOU: dict[Language, str] = {"en": "you: {text}", "zh": "你：{text}"}
ME: dict[Language, str] = {"en": "me: {text}", "zh": "我：{text}"}
LINES: dict[str, dict[Language, str]] = {
    "what": {"en": "what is this?", "zh": "这是什么？"},
    "it_is": {"en": "it is {one}.", "zh": "这是{one}。"},
    "draw": {"en": "draw it together with {other}.", "zh": "把它和{other}画在一起。"},
    "drawn": {"en": "here they are.", "zh": "画好了。"},
    "left": {"en": "what did you draw on the left?", "zh": "你在左边画了什么？"},
    "right": {"en": "what did you draw on the right?", "zh": "你在右边画了什么？"},
    "ground": {"en": "which ground did you choose?", "zh": "你用了什么颜色的背景？"},
    "style": {"en": "in which style did you draw them?", "zh": "你是用什么风格画的？"},
    "again": {"en": "please draw it once more on a {ground} ground.", "zh": "请再画一次，用{ground}的背景。"},
    "swap": {"en": "now let them change places.", "zh": "现在让它们交换位置。"},
    "done": {"en": "here it is.", "zh": "好了。"},
}
ASKED = ("left", "right", "ground", "style")
CHANGES = ("again", "swap")


def conversation(world: World, random: np.random.Generator, side: int) -> Sample:
    """Picture and question, answer, a wish, a drawing, a question about it, an answer, a wish to change it, the new drawing.

    The prompt ends before one of the four answers, each equally likely; the document ends with that answer.
    """
    language = draw_language(world, random)
    thing, own = world.draw_pair(random)
    shown = staging.lone(world, random, thing, own, world.draw_ground(random))
    other, style = _partner(world, random, thing)
    ground = world.draw_ground(random)
    order = (thing, other) if random.integers(2) else (other, thing)
    pieces = tuple(_beside(world, random, member, style, x) for member, x in zip(order, (0.26, 0.74), strict=True))
    drawing = Picture(ground=ground, pieces=pieces)
    names = [wording.one(world.pack.things[member], language) for member in order]
    asked = choose(random, ASKED if world.grounds > 1 else ("left", "right", "style"))
    answer = {
        "left": names[0],
        "right": names[1],
        "ground": wording.ground_word(ground, language),
        "style": wording.style_word(world.pack.styles[style], language),
    }[asked]
    changed, wish = _change(world, random, drawing, language)
    one = wording.one(world.pack.things[thing], language)
    turns: list[tuple[list[Segment], list[Segment]]] = [
        ([paint(shown, world.pack, side), _you("what", language)], [_me(_line("it_is", language).format(one=one), language)]),
        (
            [_you("draw", language, other=wording.one(world.pack.things[other], language))],
            [_me(_line("drawn", language), language), paint(drawing, world.pack, side)],
        ),
        ([_you(asked, language)], [_me(f"{answer}." if language == "en" else f"{answer}。", language)]),
        ([YOU[language].format(text=wish)], [_me(_line("done", language), language), paint(changed, world.pack, side)]),
    ]
    last = int(random.integers(len(turns)))
    parts: list[Segment] = []
    prompt = 0
    for number, (said, replied) in enumerate(turns[: last + 1]):
        parts += said
        prompt = len(parts) if number == last else prompt
        parts += replied
    scenes = [shown, drawing, changed]
    pictures = sum(not isinstance(part, str) for part in parts)
    truth: dict[str, Any] = {
        "language": language,
        "turn": ("what", "draw", "about", "change")[last],
        "thing": world.pack.things[thing].id,
        "other": world.pack.things[other].id,
        "style": staging.style_id(world, style),
        "ground": ground,
        "asked": asked,
        "answer": {0: one, 2: answer}.get(last, ""),
        "scenes": [scene.as_json() for scene in scenes[:pictures]],
    }
    return Sample("conversation", tuple(parts), prompt, truth)


def _partner(world: World, random: np.random.Generator, thing: int) -> tuple[int, int]:
    """Another thing and the style of the drawing, in which this split may show both."""
    options = [
        (other, style)
        for style in world.styles_of[thing]
        for other in (*world.things_of[style], *(_seen_in(world, style) if world.config.split == "test" else ()))
        if other != thing
    ]
    return choose(random, options)


def _seen_in(world: World, style: int) -> tuple[int, ...]:
    return tuple(thing for thing, styles in world.seen_styles_of.items() if style in styles)


def _beside(world: World, random: np.random.Generator, thing: int, style: int, x: float) -> Piece:
    item = world.place((thing, style), x, 0.5, 0.42, random)
    return Piece(
        kind="thing",
        name=world.pack.things[thing].id,
        look=staging.style_id(world, style),
        centre_x=item.centre_x,
        centre_y=item.centre_y,
        size=item.size,
    )


def _change(world: World, random: np.random.Generator, drawing: Picture, language: Language) -> tuple[Picture, str]:
    """The drawing after a wish, and the wish."""
    assert drawing.ground is not None
    change = choose(random, CHANGES if world.grounds > 1 else ("swap",))
    if change == "again":
        ground = choose(random, [other for other in range(world.grounds) if other != drawing.ground])
        return replace(drawing, ground=ground), _line("again", language).format(ground=wording.ground_word(ground, language))
    left, right = drawing.pieces
    swapped = (replace(right, centre_x=left.centre_x), replace(left, centre_x=right.centre_x))
    return replace(drawing, pieces=swapped), _line("swap", language)


def _line(name: str, language: Language) -> str:
    return LINES[name][language]


def _you(name: str, language: Language, **blanks: str) -> str:
    return YOU[language].format(text=_line(name, language).format(**blanks))


def _me(text: str, language: Language) -> str:
    return ME[language].format(text=text)
