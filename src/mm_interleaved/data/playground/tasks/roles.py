"""Two pictures, two roles: the subject from one, the style from the other. Also the twin of `style` with the style in words.

In training both pictures show named things in seen styles; in the test split the subject and the example were never shown.
"""

from __future__ import annotations

import numpy as np

from mm_interleaved.data.playground.canvas import paint
from mm_interleaved.data.playground.tasks import staging, wording
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose

SUBJECT_FIRST: dict[Language, tuple[tuple[str, str, str], ...]] = {
    "en": (
        ("", "in the style of", ":"),
        ("draw this:", "but in the style of this:", ""),
        ("take the thing from", "and the style from", ""),
    ),
    "zh": (("", "用这张图的风格来画：", ""), ("画这个：", "但用这张图的风格：", ""), ("把这张图里的东西", "画成这张图的风格：", "")),
}
"""Words before, between and after the two pictures when the subject comes first."""
STYLE_FIRST: dict[Language, tuple[tuple[str, str, str], ...]] = {
    "en": (("in the style of", "draw this:", ""), ("take the style from", "and the thing from", "")),
    "zh": (("用这张图的风格：", "画这个：", ""), ("风格像这张图：", "东西是这个：", "")),
}
NAMED: dict[Language, tuple[str, ...]] = {
    "en": ("draw {one} in {style} style on a {ground} ground.", "in {style} style, on a {ground} ground, draw {one}."),
    "zh": ("用{style}风格画{one}，背景是{ground}。", "背景是{ground}，用{style}风格画{one}。"),
}


def two_roles(world: World, random: np.random.Generator, side: int) -> Sample:
    """Subject and style in pictures, then the subject in that style, on the subject's ground.

    Each of the two orders comes half of the time, so that only the words say which picture has which role.
    """
    language = draw_language(world, random)
    subject, own, example, target = _cast(world, random)
    grounds = [world.draw_ground(random), world.draw_ground(random)]
    shown = staging.lone(world, random, subject, own, grounds[0])
    model = staging.lone(world, random, example, target, grounds[1])
    wanted = staging.lone(world, random, subject, target, grounds[0])
    subject_first = bool(random.integers(2))
    before, between, after = choose(random, (SUBJECT_FIRST if subject_first else STYLE_FIRST)[language])
    given = [shown, model] if subject_first else [model, shown]
    parts: list[Segment] = [before, paint(given[0], world.pack, side), between, paint(given[1], world.pack, side), after]
    prompt = [part for part in parts if not isinstance(part, str) or part]
    name = [thing.id for thing in world.pack.things]
    truth = {
        "language": language,
        "subject": name[subject],
        "example": name[example],
        "own_style": staging.style_id(world, own),
        "style": staging.style_id(world, target),
        "subject_first": subject_first,
        "scenes": [picture.as_json() for picture in (*given, wanted)],
    }
    return Sample("two_roles", (*prompt, paint(wanted, world.pack, side)), len(prompt), truth)


def style_named(world: World, random: np.random.Generator, side: int) -> Sample:
    """The twin of `style`: the same wish, the style in words instead of in a picture."""
    language = draw_language(world, random)
    thing, style = world.draw_pair(random)
    ground = world.draw_ground(random)
    wanted = staging.lone(world, random, thing, style, ground)
    blanks = {
        "one": wording.one(world.pack.things[thing], language),
        "style": wording.style_word(world.pack.styles[style], language),
        "ground": wording.ground_word(ground, language),
    }
    prompt = choose(random, NAMED[language]).format(**blanks)
    truth = {
        "language": language,
        "thing": world.pack.things[thing].id,
        "style": staging.style_id(world, style),
        "ground": ground,
        "scenes": [wanted.as_json()],
    }
    return Sample("style_named", (prompt, paint(wanted, world.pack, side)), 1, truth)


def _cast(world: World, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Subject, its own style, the example, the wanted style."""
    if world.config.split == "test" and len(world.unseen_things) > 1:
        subject = choose(random, world.unseen_things)
        example = choose(random, [other for other in world.unseen_things if other != subject])
        styles: list[int] = list(range(world.config.styles))
        own = choose(random, styles)
        return subject, own, example, choose(random, [style for style in styles if style != own])
    subject = choose(random, list(world.seen_styles_of))
    own, target = (int(style) for style in random.permutation(world.seen_styles_of[subject])[:2])
    others = [other for other, seen in world.seen_styles_of.items() if other != subject and target in seen]
    return subject, own, choose(random, others), target
