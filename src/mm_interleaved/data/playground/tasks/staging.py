"""What the larger tasks share: which combinations a split may show, styles that fit a whole cast, places, and phrases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from mm_interleaved.data.playground.canvas import Kind, Picture, Piece, standing
from mm_interleaved.data.playground.extras import ANY_STYLE, extras_of
from mm_interleaved.data.playground.stuff import PLACE_NAMES, Landscape
from mm_interleaved.data.playground.tasks import wording
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose, fraction
from mm_interleaved.errors import ConfigError

FLOATING = ("sun", "moon", "star", "snowflake", "balloon", "kite", "rocket", "helicopter", "airplane", "flying_saucer", "bee", "butterfly",
            "owl", "heart", "bubbles", "water_drop", "rainbow", "shower")  # fmt: skip
"""What hangs or flies in a picture instead of standing on its floor."""
FLOATING_FOOT = 0.5
"""Height of its lower edge as a fraction of the side."""
HELD_OUT_SHARE = 0.15
"""Share of a task's combinations of names that training never shows."""

Combination = TypeVar("Combination", bound=tuple[str, ...])


def of_this_split(world: World, task: str, combinations: Sequence[Combination]) -> list[Combination]:
    """The combinations that the world's split may show; a salted hash of their names decides.

    Raises:
        ConfigError: none is left, which only a very small world can cause.
    """
    found = [names for names in combinations if is_of_split(world, task, names)]
    if not found:
        raise ConfigError(f"the {world.config.split} split of this world has nothing to show in task {task!r}; raise world.things.")
    return found


def is_of_split(world: World, task: str, names: tuple[str, ...]) -> bool:
    """Whether a combination belongs to the world's split."""
    return (fraction("task", task, *names) < HELD_OUT_SHARE) == (world.config.split == "test")


def is_thing(world: World, name: str) -> bool:
    """Whether a name is one of the pack's things (else a prop)."""
    return name in world.numbers


def is_known(world: World, name: str) -> bool:
    """Whether this world may show and name something: a named thing, or any prop of the pack."""
    number = world.numbers.get(name)
    return number in world.seen_styles_of if number is not None else name in extras_of(world.pack.folder).props


def common_styles(world: World, names: Sequence[str]) -> list[int]:
    """Styles in which training shows every named thing of a cast. Props drawn in one way only fit every style but ink."""
    numbers = [world.numbers[name] for name in names if is_thing(world, name)]
    props = extras_of(world.pack.folder).props
    coloured = any(ANY_STYLE in props[name].styles for name in names if not is_thing(world, name))
    styles = [style for style in range(world.config.styles) if not (coloured and style_id(world, style) == "ink")]
    return [style for style in styles if all(style in world.seen_styles_of.get(number, ()) for number in numbers)]


def coloured_styles(world: World) -> list[int]:
    """Every style but ink: what goes with drawings that come in one coloured way only."""
    return [style for style in range(world.config.styles) if style_id(world, style) != "ink"]


def one(world: World, name: str, language: Language) -> str:
    """ "a camel" · 一头骆驼, of things and props."""
    if is_thing(world, name):
        return wording.one(world.pack.things[world.numbers[name]], language)
    prop = extras_of(world.pack.folder).props[name]
    return prop.phrase_zh if language == "zh" else prop.phrase_en


def the(world: World, name: str, language: Language) -> str:
    """ "the camel" · 骆驼, of things and props."""
    if is_thing(world, name):
        return wording.the(world.pack.things[world.numbers[name]], language)
    phrase = one(world, name, language)
    if language == "zh":
        return phrase[2:] if phrase.startswith("一") else phrase  # without 一 and the measure word
    return f"the {phrase.split(' ', 1)[1]}"


def piece_kind(world: World, name: str) -> Kind:
    """What kind of piece shows a name."""
    return "thing" if is_thing(world, name) else "prop"


def style_id(world: World, style: int) -> str:
    """Id of a style by its number."""
    return world.pack.styles[style].id


def style_with_word(world: World, style: int, language: Language) -> str:
    """ "in ink style" · 墨线风格."""
    word = wording.style_word(world.pack.styles[style], language)
    return f"{word}风格" if language == "zh" else f"in {word} style"


def draw_land(world: World, random: np.random.Generator, style: int, place: str) -> Landscape:
    """A place in a style, one of 65,536 shapes."""
    return Landscape(place=place, style=style_id(world, style), shape=int(random.integers(65536)))


def place_words(place: str, language: Language) -> str:
    """ "at the beach" · 在海边."""
    return PLACE_NAMES[place].at_zh if language == "zh" else PLACE_NAMES[place].at_en


def on_the_floor(
    world: World, random: np.random.Generator, names: Sequence[str], style: int, place: str, *, sizes: Sequence[float] | None = None
) -> tuple[Piece, ...]:
    """Pieces that stand side by side in a place, from left to right, each a little moved."""
    count = len(names)
    sizes = [min(0.42, 0.8 / count)] * count if sizes is None else sizes
    pieces = []
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        foot = foot_of(world, random, name, (number + 0.5) / count, place)
        pieces.append(standing(piece_kind(world, name), name, style_id(world, style), foot, size, world.pack))
    return tuple(pieces)


def foot_of(world: World, random: np.random.Generator, name: str, x: float, place: str) -> tuple[float, float]:
    """Where the lower edge of a thing is in a place: on the floor, or in the air when it flies; a little moved."""
    shift_x, shift_y = random.uniform(-1, 1, 2) * world.config.jitter
    low, high = PLACE_NAMES[place].stand
    if name in FLOATING:
        low, high = FLOATING_FOOT - 0.03, FLOATING_FOOT + 0.03
    return x + 0.02 * float(shift_x), (low + high) / 2 + (high - low) / 2 * float(shift_y)


def pick_two(random: np.random.Generator, options: Sequence[str]) -> tuple[str, str]:
    """Two different members, in either order."""
    first = choose(random, options)
    return first, choose(random, [option for option in options if option != first])


def lone(world: World, random: np.random.Generator, thing: int, style: int, ground: int) -> Picture:
    """One thing, large and centred, on a plain ground."""
    item = world.place((thing, style), 0.5, 0.5, 0.8, random)
    name, look = world.pack.things[thing].id, style_id(world, style)
    piece = Piece(kind="thing", name=name, look=look, centre_x=item.centre_x, centre_y=item.centre_y, size=item.size)
    return Picture(ground=ground, pieces=(piece,))
