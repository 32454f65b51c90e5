"""Find the small thing hidden behind another: look-alikes, each half covered by a different thing, told apart only by what covers them.

The target is at most 5 % of the picture, and 30 to 70 % of what is drawn of it is covered. The box holds what can be seen of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import Item, Scene, compose, sprite
from mm_interleaved.data.playground.tasks import boxes, canvas, wording
from mm_interleaved.data.playground.tasks.boxes import Box
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample
from mm_interleaved.data.playground.world import Pair, World, choose
from mm_interleaved.errors import ConfigError

SIDE = 224
"""Side in pixels at which is measured what covers what, whatever the picture's."""
COVERED = (0.3, 0.7)
"""Share of the target's own pixels that are covered."""
SMALL, LARGE = (0.15, 0.21), (0.3, 0.37)
"""Longest sides of the look-alikes and of what stands before them, as fractions of the picture's."""
LARGEST_SHARE = 0.05
"""Largest share of the picture that the target's whole drawing takes."""
SOLID = 0.55
"""Least share of its own box that a drawing must fill to hide something."""
SOLID_TARGET = 0.35
"""The same for what is hidden: of thin lines too little would be left to find."""
LINES = "ink"
"""The style drawn in black only: two such drawings before each other cannot be told apart."""
SEEN = 128
"""Alpha from which a pixel counts as drawn."""
PLACES = ((0.27, 0.28), (0.73, 0.28), (0.27, 0.74), (0.73, 0.74))
"""Centres of the things that hide something; none of them comes near another's look-alike."""
TRIES = 24

PROMPTS = {
    "behind": {
        "en": ("find the small {what} hidden behind {the}. answer:", "where is the small {what} behind {the}? answer:"),
        "zh": ("找出藏在{the}后面的小{what}。答：", "{the}后面的小{what}在哪里？答："),
    },
    "hidden": {
        "en": ("find the small {what} that is partly hidden. answer:", "where is the hidden small {what}? answer:"),
        "zh": ("找出被挡住的小{what}。答：", "被挡住一部分的小{what}在哪里？答："),
    },
}
"""Relation -> language -> wordings. `hidden`: all look-alikes but the target stand free."""
ANSWER = {"en": " {box}.", "zh": "{box}。"}


@dataclass(frozen=True, slots=True)
class _Hidden:
    """A look-alike, what stands before it, and what is left of it to see."""

    item: Item
    cover: Item
    covered: float
    box: Box


def hidden_thing(world: World, random: np.random.Generator, side: int) -> Sample:
    """A picture with two or three look-alikes, the question for one of them, its box."""
    language = draw_language(world, random)
    form = "behind" if random.random() < 0.75 else "hidden"
    pair, covers, hidden, free = _arranged(world, form, random)
    target = int(random.integers(len(hidden)))
    # What is hidden lies below what hides it; free look-alikes and a cover that hides nothing may stand anywhere.
    items = (*(one.item for one in hidden), *free, *covers)
    scene = Scene(ground=world.draw_ground(random), items=items)
    thing, before = world.pack.things[pair[0]], world.pack.things[hidden[target].cover.thing]
    what = thing.name_en if language == "en" else thing.name_zh
    question = choose(random, PROMPTS[form][language]).format(what=what, the=wording.the(before, language))
    found = hidden[target]
    truth = {
        "language": language,
        "form": form,
        "thing": thing.id,
        "style": world.pack.styles[pair[1]].id,
        "behind": before.id,
        "box": [round(edge, 4) for edge in found.box],
        "others": [[round(edge, 4) for edge in one.box] for one in hidden if one is not found]
        + [[round(edge, 4) for edge in _item_box(world.pack, item)] for item in free],
        "covered": round(found.covered, 3),
        "answers": len(hidden) + len(free),
        "scenes": [scene.as_json()],
    }
    picture = compose(scene, world.pack, side) if side >= canvas.UNSEEN else np.full((side, side, 3), 128, np.uint8)
    return Sample("referring", (picture, question, ANSWER[language].format(box=boxes.in_words(found.box))), 2, truth)


def sentences() -> Iterator[str]:
    """Every text that this task is made of, but for the names of the pack's things."""
    for wordings in PROMPTS.values():
        yield from (*wordings["en"], *wordings["zh"])


def _arranged(world: World, form: str, random: np.random.Generator) -> tuple[Pair, list[Item], list[_Hidden], list[Item]]:
    """Look-alikes and what hides them: two or three things each with a look-alike behind it, or one such and free look-alikes."""
    solid = _solid(world)
    for _ in range(TRIES):
        pair = world.draw_pair(random)
        if _mask(world.pack, *pair, _pixels(SMALL[1])).mean() < SOLID_TARGET:
            continue
        lines = world.pack.styles[pair[1]].id == LINES
        others = [other for other in solid if other[0] != pair[0] and not (lines and world.pack.styles[other[1]].id == LINES)]
        count = int(random.integers(2, 4))
        if len({thing for thing, _ in others}) < count:
            continue
        names: dict[int, Pair] = {}
        for place in random.permutation(len(others)):
            names.setdefault(others[place][0], others[place])
            if len(names) == count:
                break
        places = [PLACES[place] for place in random.permutation(len(PLACES))]
        covers = [
            world.place(cover, *centre, float(random.uniform(*LARGE)), random)
            for cover, centre in zip(names.values(), places, strict=False)
        ]
        size = _small(world.pack, pair, float(random.uniform(*SMALL)))
        behind = covers if form == "behind" else covers[:1]
        free = [] if form == "behind" else _free(world, pair, size, places[count:], random)
        kept: list[_Hidden] = []
        for cover in behind:
            # Nothing else may touch it: it is behind one thing only.
            near = (*(each for each in covers if each is not cover), *(one.item for one in kept), *free)
            found = _behind(world.pack, pair, cover, size, [_item_box(world.pack, item) for item in near], random)
            if found is None:
                break
            kept.append(found)
        if len(kept) < len(behind):
            continue
        return pair, covers, kept, free
    raise ConfigError("no scene with something hidden can be made of this world's things; raise world.things or world.styles.")


def _behind(pack: Pack, pair: Pair, cover: Item, size: float, taken: list[Box], random: np.random.Generator) -> _Hidden | None:
    """Slides a drawing out from behind another until the wanted share of it is covered; None when no place does.

    Args:
        taken: boxes that it must not touch.
    """
    mine, its = _mask(pack, *pair, _pixels(size)), _mask(pack, cover.thing, cover.style, _pixels(cover.size))
    wanted = float(random.uniform(COVERED[0] + 0.05, COVERED[1] - 0.05))
    for angle in random.permutation(np.linspace(0, 2 * np.pi, 8, endpoint=False) + random.uniform(0, 1)):
        best: _Hidden | None = None
        for distance in np.linspace(0.05, 0.3, 26):
            centre_x = round(cover.centre_x + distance * float(np.cos(angle)), 4)
            centre_y = round(cover.centre_y + distance * float(np.sin(angle)), 4)
            item = Item(thing=pair[0], style=pair[1], centre_x=centre_x, centre_y=centre_y, size=round(size, 4))
            left, top = _corner(item, mine)
            if left < 2 or top < 2 or left + mine.shape[1] > SIDE - 2 or top + mine.shape[0] > SIDE - 2:
                continue
            whole = (left / SIDE, top / SIDE, (left + mine.shape[1]) / SIDE, (top + mine.shape[0]) / SIDE)
            if any(boxes.overlap(whole, box) > 0 for box in taken):
                continue
            seen = mine & ~_window(its, _corner(cover, its), (left, top), mine.shape)
            covered = 1 - float(seen.sum() / mine.sum())
            if COVERED[0] <= covered <= COVERED[1] and (best is None or abs(covered - wanted) < abs(best.covered - wanted)):
                best = _Hidden(item, cover, covered, _seen_box(seen, left, top))
        if best is not None:
            return best
    return None


def _free(world: World, pair: Pair, size: float, places: list[tuple[float, float]], random: np.random.Generator) -> list[Item]:
    """One look-alike in each of some empty places; these do not vary in size, or size would tell them apart."""
    items = [world.place(pair, *centre, size, random) for centre in places[: int(random.integers(1, len(places) + 1))]]
    return [replace(item, size=size) for item in items]


def _small(pack: Pack, pair: Pair, size: float) -> float:
    """The size, or a smaller one at which the drawing takes no more of the picture than a target may."""
    share = _mask(pack, *pair, _pixels(size)).size / SIDE**2
    return round(size * min(1.0, 0.98 * (LARGEST_SHARE / share) ** 0.5), 4)


@lru_cache(maxsize=16)
def _solid(world: World) -> tuple[Pair, ...]:
    """Pairs of this split whose drawing hides what is behind it."""
    return tuple(pair for pair in world.pairs if _mask(world.pack, *pair, _pixels(LARGE[0])).mean() >= SOLID)


# A mask at one of these sizes is 1-5 KB.
@lru_cache(maxsize=4096)
def _mask(pack: Pack, thing: int, style: int, longest: int) -> np.ndarray:
    """Which pixels a drawing covers when its longest side has so many."""
    return np.asarray(sprite(pack, thing, style, longest).getchannel("A")) >= SEEN


def _pixels(size: float) -> int:
    """A longest side in pixels, as `compose` rounds it in a picture of `SIDE` pixels."""
    return max(2, round(size * SIDE))


def _corner(item: Item, mask: np.ndarray) -> tuple[int, int]:
    """Left and top in pixels, as `compose` places it."""
    return round(item.centre_x * SIDE - mask.shape[1] / 2), round(item.centre_y * SIDE - mask.shape[0] / 2)


def _window(mask: np.ndarray, at: tuple[int, int], left_top: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """The part of a mask placed at `at` that falls into a window, False elsewhere."""
    found = np.zeros(shape, bool)
    left, top = at[0] - left_top[0], at[1] - left_top[1]
    rows = slice(max(0, top), min(shape[0], top + mask.shape[0]))
    columns = slice(max(0, left), min(shape[1], left + mask.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        found[rows, columns] = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return found


def _seen_box(seen: np.ndarray, left: int, top: int) -> Box:
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return (
        (left + int(columns[0])) / SIDE,
        (top + int(rows[0])) / SIDE,
        (left + int(columns[-1]) + 1) / SIDE,
        (top + int(rows[-1]) + 1) / SIDE,
    )


def _item_box(pack: Pack, item: Item) -> Box:
    mask = _mask(pack, item.thing, item.style, _pixels(item.size))
    return _seen_box(mask, *_corner(item, mask))
