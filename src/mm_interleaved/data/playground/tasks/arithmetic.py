"""Arithmetic with fruit: two or three equations as pictures give each fruit a value; one more asks for a sum that none of them shows.

The fruits come by picture and are never named, so the test split shows fruits that training never does.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from mm_interleaved.data.playground.material.lettering import faces
from mm_interleaved.data.playground.scene import GROUNDS, sprite
from mm_interleaved.data.playground.tasks import canvas
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.world import World, choose, fraction

# fmt: off
FRUITS = (
    "apple", "banana", "lemon", "watermelon", "strawberry", "pineapple", "tomato", "eggplant", "carrot", "pear", "peach", "mango",
    "coconut", "avocado", "kiwi", "orange", "cherry", "onion", "chili", "bell_pepper", "cucumber", "potato", "mushroom", "chestnut",
)
# fmt: on
HELD_OUT = 0.3
"""Share of fruits that training never shows in an equation."""
ANSWERS = range(3, 19)
"""Sums asked for, all equally likely."""
LARGEST = 9
"""Largest value of one fruit."""
INK = (40, 40, 48)

PROMPTS = {
    "en": ("which number belongs at the question mark? answer:", "solve the last equation. answer:", "what is the missing number? answer:"),
    "zh": ("问号处应该是几？答：", "最后一个算式等于几？答：", "缺的数字是多少？答："),
}
ANSWER = {"en": " {number}.", "zh": "{number}。"}


def fruit_sum(world: World, random: np.random.Generator, side: int) -> Sample:
    """Two or three equations, the sum that is asked for, the question, the number."""
    language = draw_language(world, random)
    count = 2 if random.random() < 0.5 else 3
    fruits = _drawn(world, random, count)
    answer = choose(random, ANSWERS)
    # The wanted sum is that of the first and the last fruit: each value follows from the equations, the sum itself is not shown.
    first = int(random.integers(max(1, answer - LARGEST), min(LARGEST, answer - 1) + 1))
    values = [first, answer - first] if count == 2 else [first, int(random.integers(1, LARGEST + 1)), answer - first]
    equations = _equations(count, random)
    asked = (0, count - 1) if random.integers(2) else (count - 1, 0)
    style, ground = int(random.integers(world.config.styles)), world.draw_ground(random)
    tilt = random.uniform(-0.06, 0.06, len(equations) + 1) * world.config.jitter
    totals = [sum(values[fruit] for fruit in terms) for terms in equations]
    scenes = [
        {
            "fruits": [world.pack.things[fruits[term]].id for term in terms],
            "total": total,
            "style": world.pack.styles[style].id,
            "ground": ground,
        }
        for terms, total in zip([*equations, asked], [*totals, None], strict=True)
    ]
    segments: list[Segment] = []
    for terms, total, shift in zip([*equations, asked], [*totals, None], tilt, strict=True):
        drawn = [(fruits[term], style) for term in terms]
        segments.append(_picture(world, drawn, "?" if total is None else str(total), ground, float(shift), side))
    segments += [choose(random, PROMPTS[language]), ANSWER[language].format(number=answer)]
    truth = {
        "language": language,
        "answer": str(answer),
        "answers": len(ANSWERS),
        "values": {world.pack.things[fruit].id: value for fruit, value in zip(fruits, values, strict=True)},
        "totals": totals,
        "scenes": scenes,
    }
    return Sample("arithmetic", tuple(segments), len(segments) - 1, truth)


def sentences() -> Iterator[str]:
    """Every text that this task is made of."""
    yield from (*PROMPTS["en"], *PROMPTS["zh"], *(str(answer) for answer in ANSWERS))


def _equations(count: int, random: np.random.Generator) -> list[tuple[int, ...]]:
    """Terms of each equation, as numbers of fruits. The values follow from them in some order, and no equation shows the wanted sum."""
    twice = (0, 0) if random.integers(2) else (0, 0, 0)
    if count == 2:
        found = [twice, choose(random, [(1, 1), (1, 1, 1), (0, 0, 1), (0, 1, 1)])]
    else:
        found = [twice, choose(random, [(0, 1), (1, 1, 0)]), choose(random, [(1, 2), (2, 1, 1), (2, 2, 1)])]
    mixed = [tuple(terms[place] for place in random.permutation(len(terms))) for terms in found]
    return [mixed[place] for place in random.permutation(len(mixed))]


def _drawn(world: World, random: np.random.Generator, count: int) -> list[int]:
    options = _fruits(world)
    return [options[place] for place in random.permutation(len(options))[:count]]


@lru_cache(maxsize=16)
def _fruits(world: World) -> tuple[int, ...]:
    held_out = world.config.split == "test"
    return tuple(world.pack.thing_index(name) for name in FRUITS if (fraction("fruit", name) < HELD_OUT) == held_out)


def _picture(world: World, terms: list[tuple[int, int]], total: str, ground: int, shift: float, side: int) -> np.ndarray:
    def draw() -> Image.Image:
        page = Image.new("RGB", (canvas.SIDE, canvas.SIDE), GROUNDS[ground].colour)
        (face,) = faces("screen", "en")
        fruit_width, sign_width, total_width = (0.2, 0.09, 0.17) if len(terms) == 2 else (0.165, 0.075, 0.16)
        x = (1 - len(terms) * (fruit_width + sign_width) - total_width) / 2
        y = (0.5 + shift) * canvas.SIDE
        size = round(0.13 * canvas.SIDE)
        for place, (thing, style) in enumerate(terms):
            fruit = sprite(world.pack, thing, style, round((fruit_width - 0.01) * canvas.SIDE))
            page.paste(fruit, (round((x + fruit_width / 2) * canvas.SIDE - fruit.width / 2), round(y - fruit.height / 2)), fruit)
            x += fruit_width + sign_width
            sign = "+" if place + 1 < len(terms) else "="
            canvas.write(page, ((x - sign_width / 2) * canvas.SIDE, y), sign, face, round(size * 0.8), INK)
        canvas.write(page, ((x + total_width / 2) * canvas.SIDE, y), total, face, size, INK)
        return page

    return canvas.picture(side, draw)
