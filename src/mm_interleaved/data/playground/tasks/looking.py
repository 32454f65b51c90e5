"""Tasks that read a picture: captions, and questions of twelve forms with balanced answers.

Balance: a question's form is drawn first, then its answer, all answers of the form equally likely, then a picture that makes the
answer true. Nothing in the words of a question hints at its answer, so whoever does not look is right as often as chance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mm_interleaved.data.playground.scene import Item, Scene, compose
from mm_interleaved.data.playground.tasks import wording
from mm_interleaved.data.playground.tasks.samples import Sample
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import Pair, World, choose

LEFT, RIGHT = (0.25, 0.5), (0.75, 0.5)
TOP, BOTTOM = (0.5, 0.25), (0.5, 0.75)
PLACE_CENTRES = {"left": (0.22, 0.5), "right": (0.78, 0.5), "top": (0.5, 0.22), "bottom": (0.5, 0.78), "middle": (0.5, 0.5)}
QUARTERS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
HALF_SIZE = 0.4
"""Longest side of a drawing that shares the picture with one other, as a fraction of the picture's side. With full jitter the
two never touch: 0.25 + 0.025 + 0.2 * 1.08 < 0.5."""
QUARTER_SIZE = 0.38

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "what_thing": {"en": ("what is in the picture?", "what is this?"), "zh": ("图里是什么？", "这是什么？")},
    "which_style": {"en": ("which style is {the}?", "in which style is {the}?"), "zh": ("{the}是什么风格？",)},
    "which_ground": {"en": ("which color is the ground?", "what color is the ground?"), "zh": ("背景是什么颜色？",)},
    "where": {"en": ("where is {the}?",), "zh": ("{the}在哪里？",)},
    "how_many": {"en": ("how many {plural} are there?",), "zh": ("有几{measure}{the}？",)},
    "is_there": {"en": ("is there {one}?",), "zh": ("有没有{the}？",)},
    "what_left": {"en": ("what is on the left?",), "zh": ("左边是什么？",)},
    "what_right": {"en": ("what is on the right?",), "zh": ("右边是什么？",)},
    "what_above": {"en": ("what is above {the}?",), "zh": ("{the}的上面是什么？",)},
    "left_of": {"en": ("is {the} left of {other}?",), "zh": ("{the}在{other}的左边吗？",)},
    "which_larger": {"en": ("which is larger, {the} or {other}?",), "zh": ("{the}和{other}，哪个更大？",)},
    "same_style": {"en": ("do {the} and {other} have the same style?",), "zh": ("{the}和{other}的风格一样吗？",)},
}
"""Question form -> language -> wordings."""


def caption(world: World, random: np.random.Generator, side: int) -> Sample:
    """A picture, then what it shows: one thing, or two side by side."""
    language = draw_language(world, random)
    ground = world.draw_ground(random)
    count = 1 if world.config.centred_only or world.config.max_items < 2 or random.random() < 0.5 else 2
    first = world.draw_pair(random)
    if count == 1:
        pairs: tuple[tuple[int, int], ...] = (first,)
        scene = _single(world, first, ground, random)
        template = wording.CAPTION_ONE[language]
    else:
        pairs = (first, world.draw_pair(random, without=(first[0],)))
        scene = Scene(
            ground=ground,
            items=tuple(world.place(pair, *centre, HALF_SIZE, random) for pair, centre in zip(pairs, (LEFT, RIGHT), strict=False)),
        )
        template = wording.CAPTION_TWO[language]
    named = [_styled(world, pair, language) for pair in pairs]
    text = template.format(styled=named[0], other=named[-1], ground=wording.ground_word(ground, language))
    prompt = choose(random, wording.CAPTION_PROMPTS[language])
    truth = {
        "language": language,
        "things": [world.pack.things[thing].id for thing, _ in pairs],
        "styles": [world.pack.styles[style].id for _, style in pairs],
        "ground": ground,
        "caption": text.strip(),
        "scenes": [scene.as_json()],
    }
    return Sample("caption", (compose(scene, world.pack, side), prompt, text), 2, truth)


def question(world: World, random: np.random.Generator, side: int) -> Sample:
    """A picture, a question about it, the answer."""
    form = choose(random, _possible(world))
    language = draw_language(world, random)
    scene, answer, answers, subjects = _FORMS[form](world, random, language)
    things = [world.pack.things[thing] for thing in subjects]
    blanks = {}
    if things:
        blanks = {
            "the": wording.the(things[0], language),
            "one": wording.one(things[0], language),
            "plural": things[0].plural_en,
            "measure": things[0].measure_zh,
            "other": wording.the(things[-1], language),
        }
    asked = choose(random, QUESTIONS[form][language]).format(**blanks)
    prompt = wording.QUESTION[language].format(question=asked)
    text = wording.ANSWER[language].format(answer=answer)
    truth = {
        "language": language,
        "form": form,
        "question": asked,
        "answer": answer,
        "answers": answers,
        "asked_about": [thing.id for thing in things],
        "ground": scene.ground,
        "scenes": [scene.as_json()],
    }
    return Sample("question", (compose(scene, world.pack, side), prompt, text), 2, truth)


def draw_language(world: World, random: np.random.Generator) -> Language:
    """Chinese in the configured share of samples."""
    return "zh" if random.random() < world.config.chinese else "en"


Posed = tuple[Scene, str, int, tuple[int, ...]]
"""Scene, answer, number of equally likely answers, things that the question names."""


def _what_thing(world: World, random: np.random.Generator, language: Language) -> Posed:
    pair = world.draw_pair(random)
    return _single(world, pair, world.draw_ground(random), random), _answer_thing(world, pair, language), len(world.styles_of), ()


def _which_style(world: World, random: np.random.Generator, language: Language) -> Posed:
    style = choose(random, list(world.things_of))
    thing = choose(random, world.things_of[style])
    scene = _single(world, (thing, style), world.draw_ground(random), random)
    return scene, wording.style_word(world.pack.styles[style], language), len(world.things_of), (thing,)


def _which_ground(world: World, random: np.random.Generator, language: Language) -> Posed:
    ground = world.draw_ground(random)
    return _single(world, world.draw_pair(random), ground, random), wording.ground_word(ground, language), world.grounds, ()


def _where(world: World, random: np.random.Generator, language: Language) -> Posed:
    place = choose(random, list(PLACE_CENTRES))
    pair = world.draw_pair(random)
    scene = Scene(ground=world.draw_ground(random), items=(world.place(pair, *PLACE_CENTRES[place], 0.4, random),))
    word = place if language == "en" else wording.PLACES[place][1]
    return scene, word, len(PLACE_CENTRES), (pair[0],)


def _how_many(world: World, random: np.random.Generator, language: Language) -> Posed:
    count = int(random.integers(1, 5))
    pair = world.draw_pair(random)
    corners = random.permutation(4)[:count]
    items = tuple(world.place(pair, *QUARTERS[corner], QUARTER_SIZE, random) for corner in sorted(corners))
    word = wording.NUMBERS[count][wording.number_of(language)]
    if language == "zh":
        word += world.pack.things[pair[0]].measure_zh
    return Scene(ground=world.draw_ground(random), items=items), word, 4, (pair[0],)


def _is_there(world: World, random: np.random.Generator, language: Language) -> Posed:
    present = bool(random.integers(2))
    count = int(random.integers(1, min(3, world.config.max_items, len(world.styles_of) - 1) + 1))
    pairs = _different(world, random, count + 1)
    asked, shown = (pairs[0], pairs[:count]) if present else (pairs[0], pairs[1:])
    corners = random.permutation(4)[:count]
    items = tuple(world.place(pair, *QUARTERS[corner], QUARTER_SIZE, random) for pair, corner in zip(shown, corners, strict=False))
    return (
        Scene(ground=world.draw_ground(random), items=items),
        wording.YES_NO["is_there"][present][wording.number_of(language)],
        2,
        (asked[0],),
    )


def _what_left(world: World, random: np.random.Generator, language: Language) -> Posed:
    pairs = _different(world, random, 2)
    return _two(world, pairs, (LEFT, RIGHT), random), _answer_thing(world, pairs[0], language), len(world.styles_of), ()


def _what_right(world: World, random: np.random.Generator, language: Language) -> Posed:
    pairs = _different(world, random, 2)
    return _two(world, pairs, (LEFT, RIGHT), random), _answer_thing(world, pairs[1], language), len(world.styles_of), ()


def _what_above(world: World, random: np.random.Generator, language: Language) -> Posed:
    pairs = _different(world, random, 2)
    return _two(world, pairs, (TOP, BOTTOM), random), _answer_thing(world, pairs[0], language), len(world.styles_of) - 1, (pairs[1][0],)


def _left_of(world: World, random: np.random.Generator, language: Language) -> Posed:
    first, second = _different(world, random, 2)
    true = bool(random.integers(2))
    scene = _two(world, [first, second] if true else [second, first], (LEFT, RIGHT), random)
    return scene, wording.YES_NO["left_of"][true][wording.number_of(language)], 2, (first[0], second[0])


def _which_larger(world: World, random: np.random.Generator, language: Language) -> Posed:
    larger, smaller = _different(world, random, 2)
    sized = [(larger, 0.44), (smaller, 0.26)]
    places = (LEFT, RIGHT) if random.integers(2) else (RIGHT, LEFT)
    items = tuple(world.place(pair, *place, size, random) for (pair, size), place in zip(sized, places, strict=False))
    named = (larger[0], smaller[0]) if random.integers(2) else (smaller[0], larger[0])
    return Scene(ground=world.draw_ground(random), items=items), wording.the(world.pack.things[larger[0]], language), 2, named


def _same_style(world: World, random: np.random.Generator, language: Language) -> Posed:
    same = bool(random.integers(2))
    usable = _shared_styles(world)
    style = choose(random, usable)
    thing = choose(random, world.things_of[style])
    other_style = style if same else choose(random, [other for other in usable if other != style])
    other = choose(random, [member for member in world.things_of[other_style] if member != thing])
    scene = _two(world, [(thing, style), (other, other_style)], (LEFT, RIGHT), random)
    return scene, wording.YES_NO["same_style"][same][wording.number_of(language)], 2, (thing, other)


_FORMS: dict[str, Callable[[World, np.random.Generator, Language], Posed]] = {
    "what_thing": _what_thing,
    "which_style": _which_style,
    "which_ground": _which_ground,
    "where": _where,
    "how_many": _how_many,
    "is_there": _is_there,
    "what_left": _what_left,
    "what_right": _what_right,
    "what_above": _what_above,
    "left_of": _left_of,
    "which_larger": _which_larger,
    "same_style": _same_style,
}


def _possible(world: World) -> list[str]:
    """The forms that this world can answer both ways: one ground or one shared style leaves nothing to ask."""
    impossible = {"which_ground"} if world.grounds < 2 else set()
    if len(_shared_styles(world)) < 2:
        impossible.add("same_style")
    return [form for form in QUESTIONS if form not in impossible]


def _shared_styles(world: World) -> list[int]:
    """Styles in which this split shows at least two things."""
    return [style for style, things in world.things_of.items() if len(things) > 1]


def _single(world: World, pair: Pair, ground: int, random: np.random.Generator) -> Scene:
    """One thing: large in the middle, or of any size anywhere when the world is not `centred_only`."""
    if world.config.centred_only:
        return world.centred(pair, ground, random)
    size = float(random.uniform(0.4, 0.8))
    reach = (1 - size) / 2 * 0.8 * min(1.0, world.config.jitter)
    shift_x, shift_y = random.uniform(-reach, reach, 2)
    item = Item(thing=pair[0], style=pair[1], centre_x=round(0.5 + shift_x, 4), centre_y=round(0.5 + shift_y, 4), size=round(size, 4))
    return Scene(ground=ground, items=(item,))


def _two(world: World, pairs: list[Pair], centres: tuple[tuple[float, float], ...], random: np.random.Generator) -> Scene:
    items = tuple(world.place(pair, *centre, HALF_SIZE, random) for pair, centre in zip(pairs, centres, strict=False))
    return Scene(ground=world.draw_ground(random), items=items)


def _different(world: World, random: np.random.Generator, count: int) -> list[Pair]:
    """Pairs of different things, all things equally likely."""
    pairs: list[Pair] = []
    for _ in range(count):
        pairs.append(world.draw_pair(random, without=tuple(thing for thing, _ in pairs)))
    return pairs


def _styled(world: World, pair: Pair, language: Language) -> str:
    return wording.one(world.pack.things[pair[0]], language, world.pack.styles[pair[1]])


def _answer_thing(world: World, pair: Pair, language: Language) -> str:
    thing = world.pack.things[pair[0]]
    return thing.name_zh if language == "zh" else wording.one(thing, language)
