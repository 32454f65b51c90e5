"""How to build in a world of blocks: the goal in words and the steps so far, then the next step in words and as a picture.

Nine goals, each a list of steps that only add blocks. Held out are a material and a size of every goal, chosen by a salted hash.
Blocks are cubes seen from above at an angle, drawn by integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose, fraction

FIELD = 7
"""Side of the square of grass, in blocks."""
MATERIALS = {
    "oak": ((186, 140, 84), (140, 98, 52), "oak", "橡木"),
    "birch": ((226, 210, 160), (182, 160, 104), "birch", "桦木"),
    "stone": ((150, 150, 150), (104, 104, 104), "stone", "石头"),
    "brick": ((176, 84, 66), (120, 50, 40), "brick", "砖块"),
    "sandstone": ((232, 212, 150), (190, 166, 100), "sandstone", "砂岩"),
    "ice": ((170, 214, 246), (120, 174, 220), "ice", "冰块"),
    "gold": ((248, 208, 64), (198, 152, 20), "gold", "金块"),
    "coal": ((60, 60, 64), (30, 30, 34), "coal", "煤块"),
}
"""Material -> colour, colour of its seams, words."""
Block = tuple[int, int, int, str]
"""x to the right and down, y to the left and down, z up, material or a part."""
NUMBERS_ZH = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二")
NUMBERS_EN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True, slots=True)
class Step:
    """What one step says and adds."""

    en: str
    zh: str
    blocks: tuple[Block, ...]


def _fence(size: int, material: str) -> list[Step]:
    low, high = 3 - size // 2, 3 - size // 2 + size - 1
    corners = [(x, y, 0, f"post:{material}") for x in (low, high) for y in (low, high)]
    sides = [
        ("along the back", "后面", [(x, low) for x in range(low + 1, high)]),
        ("on the left and on the right", "左右两边", [(x, y) for x in (low, high) for y in range(low + 1, high)]),
        ("along the front and leave a gap for the gate", "前面，留出门的位置", [(x, high) for x in range(low + 1, high) if x != 3]),
    ]
    steps = [Step("set {material} posts at the four corners.", "在四个角上立{material}柱子。", tuple(corners))]
    for en, zh, places in sides:
        rails = tuple((x, y, 0, f"rail:{material}") for x, y in places)
        steps.append(Step(f"put {{material}} rails {en}.", f"把{{material}}栏杆装在{zh}。", rails))
    return [*steps, Step("hang a gate in the gap.", "在空位装上门。", ((3, high, 0, "gate"),))]


def _wall(size: int, material: str) -> list[Step]:
    names = (("first", "第一"), ("second", "第二"), ("third", "第三"))
    low = 3 - size // 2
    rows = [
        Step(f"lay the {en} row of {{count}} {{material}} blocks.", f"砌{zh}层，用{{count}}块{{material}}。", _line(low, size, z, material))
        for z, (en, zh) in enumerate(names)
    ]
    top = tuple((x, 3, 3, material) for x in range(low, low + size, 2))
    return [*rows, Step("set battlements on top.", "在上面砌出城垛。", top)]


def _tower(size: int, material: str) -> list[Step]:
    square = [(x, y) for x in (2, 3, 4) for y in (2, 3, 4) if (x, y) != (3, 3)]
    base = tuple((x, y, 0, material) for x, y in square)
    middle = tuple((x, y, z, material) for z in range(1, size) for x, y in square)
    top = tuple((x, y, size, material) for x in (2, 4) for y in (2, 4))
    return [
        Step("lay a ring of {material} three blocks wide.", "用{material}砌一个三格宽的圆环底座。", base),
        Step("raise the ring to {count} blocks.", "把它砌到{count}层高。", middle),
        Step("set four {material} blocks on the corners.", "在四个角上各放一块{material}。", top),
        Step("put a torch in the middle.", "在中间插一支火把。", ((3, 3, size, "torch"),)),
    ]


def _stairs(size: int, material: str) -> list[Step]:
    names = ("first", "second", "third", "fourth", "fifth")
    steps = []
    for number in range(size):
        column = tuple((1 + number, y, z, material) for y in (3, 4) for z in range(number + 1))
        en = f"build the {names[number]} stair, {NUMBERS_EN[number + 1]} high, of {{material}}."
        steps.append(Step(en, f"用{{material}}砌第{'一二三四五'[number]}级台阶，高{NUMBERS_ZH[number + 1]}块。", column))
    return steps


def _bridge(size: int, material: str) -> list[Step]:
    low = 3 - size // 2
    end = low + size - 1
    water = tuple((x, y, -1, "water") for x in range(low + 1, end) for y in range(FIELD))
    ends = tuple((x, y, 0, material) for x in (low, end) for y in (3, 4))
    deck = tuple((x, y, 1, f"slab:{material}") for x in range(low, end + 1) for y in (3, 4))
    rails = tuple((x, 3, 2, f"post:{material}") for x in range(low, end + 1))
    return [
        Step("find the river: it is {gap} blocks wide.", "找到河流：它有{gap}格宽。", water),
        Step("set {material} blocks on both banks.", "在两岸放上{material}。", ends),
        Step("lay {material} slabs from bank to bank.", "用{material}板从这岸铺到那岸。", deck),
        Step("put posts along one edge.", "在一边立上柱子。", rails),
    ]


def _hut(size: int, material: str) -> list[Step]:
    low, high = 3 - size // 2, 3 - size // 2 + size - 1
    ring = [(x, y) for x in range(low, high + 1) for y in range(low, high + 1) if x in (low, high) or y in (low, high)]
    door = (3, high)
    floor = tuple((x, y, -1, material) for x in range(low, high + 1) for y in range(low, high + 1))
    walls = tuple((x, y, z, material) for z in (0, 1) for x, y in ring if (x, y) != door)
    roof = tuple((x, y, 2, "slab:roof") for x in range(low, high + 1) for y in range(low, high + 1))
    return [
        Step("lay {art} {material} floor, {count} by {count}.", "铺一块{count}乘{count}的{material}地板。", floor),
        Step("raise {material} walls two blocks high and leave a doorway.", "砌两层高的{material}墙，留出门洞。", walls),
        Step("hang a door in the doorway.", "在门洞装上门。", ((*door, 0, "gate"),)),
        Step("cover it with a red roof.", "盖上红色的屋顶。", roof),
    ]


def _well(size: int, material: str) -> list[Step]:
    low, high = 3 - size // 2, 3 - size // 2 + size - 1
    inside = [(x, y) for x in range(low + 1, high) for y in range(low + 1, high)]
    ring = [(x, y) for x in range(low, high + 1) for y in range(low, high + 1) if (x, y) not in inside]
    posts = tuple((x, y, z, "post:oak") for x, y in ((low, low), (high, high)) for z in (1, 2))
    roof = tuple((x, y, 3, "slab:roof") for x in range(low, high + 1) for y in range(low, high + 1))
    return [
        Step("lay a ring of {material}.", "用{material}砌一圈。", tuple((x, y, 0, material) for x, y in ring)),
        Step("fill the inside with water.", "在里面倒满水。", tuple((x, y, 0, "slab:water") for x, y in inside)),
        Step("set two posts on opposite corners.", "在对角立两根柱子。", posts),
        Step("lay a red roof on the posts.", "在柱子上盖红色的屋顶。", roof),
    ]


def _pyramid(size: int, material: str) -> list[Step]:
    names = (("bottom", "最下面一"), ("second", "第二"), ("third", "第三"), ("fourth", "第四"))
    steps = []
    for z in range((size + 1) // 2):
        low, high = 3 - size // 2 + z, 3 + size // 2 - z
        layer = tuple((x, y, z, material) for x in range(low, high + 1) for y in range(low, high + 1))
        wide = high - low + 1
        if wide == 1:
            steps.append(Step("set one {material} block on the top.", "在最上面放一块{material}。", layer))
        else:
            words = f"{NUMBERS_EN[wide]} by {NUMBERS_EN[wide]}", f"{NUMBERS_ZH[wide]}乘{NUMBERS_ZH[wide]}"
            steps.append(
                Step(f"lay the {names[z][0]} layer of {{material}}, {words[0]}.", f"用{{material}}铺{names[z][1]}层，{words[1]}。", layer)
            )
    return steps


def _table(size: int, material: str) -> list[Step]:
    low = 3 - size // 2
    high = low + size - 1
    legs = tuple((x, y, 0, f"post:{material}") for x in (low, high) for y in (2, 4))
    top = tuple((x, y, 1, f"slab:{material}") for x in range(low, high + 1) for y in (2, 3, 4))
    benches = tuple((x, y, 0, f"slab:{material}") for x in range(low, high + 1) for y in (0, 6))
    return [
        Step("set four {material} posts as legs.", "立四根{material}柱子做桌腿。", legs),
        Step("lay {material} slabs across them, {count} long.", "在上面铺{material}板，{count}格长。", top),
        Step("put a bench on each side.", "在两边各放一条长凳。", benches),
        Step("set a torch on the table.", "在桌上放一支火把。", ((3, 3, 2, "torch"),)),
    ]


GOALS: dict[str, tuple[Callable[[int, str], list[Step]], tuple[int, ...], str, str]] = {
    "fence": (_fence, (4, 5, 6, 7), "{art} {material} fence, {count} blocks on each side", "一圈{material}栅栏，每边{count}格"),
    "wall": (_wall, (3, 4, 5, 6), "{art} {material} wall, {count} blocks long", "一堵{material}墙，{count}格长"),
    "tower": (_tower, (2, 3, 4), "{art} {material} tower, {count} blocks high", "一座{material}塔，{count}层高"),
    "stairs": (_stairs, (3, 4, 5), "{material} stairs with {count} steps", "{count}级{material}台阶"),
    "bridge": (_bridge, (4, 5, 6), "{art} {material} bridge, {count} blocks long", "一座{material}桥，{count}格长"),
    "hut": (_hut, (3, 5), "{art} {material} hut, {count} by {count} blocks", "一间{material}小屋，{count}乘{count}格"),
    "well": (_well, (3, 5), "{art} {material} well, {count} blocks wide", "一口{material}水井，{count}格宽"),
    "pyramid": (_pyramid, (3, 5, 7), "{art} {material} pyramid, {count} blocks wide", "一座{material}金字塔，{count}格宽"),
    "table": (_table, (3, 4, 5), "{art} {material} table, {count} blocks long", "一张{material}桌子，{count}格长"),
}
"""Goal -> builder, sizes, words."""
ASKED: dict[Language, tuple[str, ...]] = {
    "en": ("how do i build {goal}?", "in the block game i want {goal}.", "goal: {goal}."),
    "zh": ("怎样搭{goal}？", "在方块游戏里，我想要{goal}。", "目标：{goal}。"),
}
STEP: dict[Language, str] = {"en": "step {number}: {text}", "zh": "第{number}步：{text}"}


def blocks(world: World, random: np.random.Generator, side: int) -> Sample:
    """Goal and the steps so far with their pictures, then the next step with its picture."""
    language = draw_language(world, random)
    goal = choose(random, list(GOALS))
    size, material = choose(random, variants(goal, held_out=world.config.split == "test"))
    steps = steps_of(goal, size, material)
    done = int(random.integers(len(steps)))
    _, _, *words = GOALS[goal]
    parts: list[Segment] = [choose(random, ASKED[language]).format(goal=_fill(words[language == "zh"], size, material, language))]
    scenes = []
    for number in range(done + 1):
        text = _fill(steps[number].zh if language == "zh" else steps[number].en, size, material, language)
        shown = NUMBERS_ZH[number + 1].replace("两", "二") if language == "zh" else str(number + 1)
        scene = {"blocks": {"goal": goal, "size": size, "material": material, "done": number + 1}}
        parts += [STEP[language].format(number=shown, text=text), draw_blocks(scene["blocks"], side)]
        scenes.append(scene)
    truth: dict[str, Any] = {
        "language": language,
        "goal": goal,
        "size": size,
        "material": material,
        "step": done + 1,
        "steps": len(steps),
        "text": parts[-2],
        "scenes": scenes,
    }
    return Sample("blocks", tuple(parts), len(parts) - 2, truth)


def variants(goal: str, *, held_out: bool) -> list[tuple[int, str]]:
    """Sizes and materials of a goal: training never sees one of its sizes nor two of its materials."""
    sizes, materials = GOALS[goal][1], tuple(MATERIALS)
    size = min(sizes, key=lambda each: fraction("block size", goal, str(each)))
    kept_out = sorted(materials, key=lambda each: fraction("block material", goal, each))[:2]
    every = [(each, material) for each in sizes for material in materials]
    return [(each, material) for each, material in every if (each == size or material in kept_out) == held_out]


@lru_cache(maxsize=512)
def steps_of(goal: str, size: int, material: str) -> tuple[Step, ...]:
    """The steps of a goal."""
    return tuple(GOALS[goal][0](size, material))


def draw_blocks(scene: dict[str, Any], side: int) -> np.ndarray:
    """The field after `done` steps, side side 3 uint8."""
    steps = steps_of(scene["goal"], scene["size"], scene["material"])[: scene["done"]]
    placed = {(x, y, z): what for step in steps for x, y, z, what in step.blocks}
    canvas = _field(side).copy()
    unit = max(1, side * 15 // 224)
    for (x, y, z), what in sorted(placed.items(), key=_depth):
        _put(canvas, x, y, z, what, unit, side)
    return np.asarray(canvas)


def _depth(placed: tuple[tuple[int, int, int], str]) -> tuple[bool, int, int]:
    """Far and low blocks first: what comes later covers them."""
    x, y, z = placed[0]
    return z >= 0, x + y + z, z


def _line(low: int, size: int, z: int, material: str) -> tuple[Block, ...]:
    return tuple((x, 3, z, material) for x in range(low, low + size))


def _fill(text: str, size: int, material: str, language: Language) -> str:
    numbers = NUMBERS_ZH if language == "zh" else NUMBERS_EN
    word = MATERIALS[material][3 if language == "zh" else 2]
    return text.format(material=word, art="an" if word[0] in "aio" else "a", count=numbers[size], gap=numbers[max(size - 2, 0)])


@lru_cache(maxsize=8)
def _field(side: int) -> Image.Image:
    canvas = Image.new("RGB", (side, side), (176, 218, 250))
    unit = max(1, side * 15 // 224)
    for x in range(FIELD):
        for y in range(FIELD):
            _put(canvas, x, y, -1, "grass", unit, side)
    return canvas


def _put(canvas: Image.Image, x: int, y: int, z: int, what: str, unit: int, side: int) -> None:
    drawing = _cube(what, unit)
    # One block to the right is one unit right and half a unit down; one block up is one unit up.
    left = side // 2 + (x - y) * unit - unit
    top = side * 92 // 224 + (x + y) * unit // 2 - (z + 1) * unit - unit
    canvas.paste(drawing, (left, top), drawing)


@lru_cache(maxsize=256)
def _cube(what: str, unit: int) -> Image.Image:
    """A cube, slab, post, rail, gate or torch as RGBA, 2 units wide and 3 high: a top of one unit, a body of one, space of one above."""
    part, _, material = what.partition(":")
    if not material:
        part, material = ("block", what) if what in MATERIALS or what in ("grass", "water") else (what, "oak")
    colours = {"grass": ((120, 186, 80), (132, 96, 60)), "water": ((64, 140, 220), (40, 100, 180)), "roof": ((200, 64, 50), (140, 36, 30))}
    colour, seam = colours.get(material) or MATERIALS[material][:2]
    drawn = Image.new("RGBA", (2 * unit + 1, 3 * unit + 1))
    pen = ImageDraw.Draw(drawn)
    if part == "torch":
        pen.rectangle((unit - unit // 6, unit, unit + unit // 6, 2 * unit + unit // 2), fill=(122, 84, 46, 255))
        pen.rectangle((unit - unit // 4, unit - unit // 3, unit + unit // 4, unit + unit // 8), fill=(255, 190, 40, 255))
        return drawn
    width = {"post": unit // 3, "rail": unit * 3 // 4}.get(part, unit)
    height = {"slab": unit // 2, "rail": unit * 2 // 3}.get(part, unit)
    if part == "gate":
        colour, seam = (150, 90, 40), (90, 50, 20)
        width, height = unit * 3 // 4, unit * 5 // 6
    middle, floor, half = unit, 2 * unit + unit // 2, width // 2
    right, left, back = middle + width, middle - width, floor - height - unit // 2
    base = floor - unit // 2 + half
    top = [(middle, back - half), (right, back), (middle, back + half), (left, back)]
    side_colour = tuple(value * 4 // 5 for value in (seam if material == "grass" else colour))
    dark_colour = tuple(value * 3 // 5 for value in (seam if material == "grass" else colour))
    pen.polygon([top[3], top[2], (middle, base), (left, base - half)], fill=(*side_colour, 255))
    pen.polygon([top[2], top[1], (right, base - half), (middle, base)], fill=(*dark_colour, 255))
    pen.polygon(top, fill=(*colour, 255))
    line = tuple(value * 7 // 8 for value in colour) if material == "grass" else seam
    pen.line([*top, top[0]], fill=(*line, 255))
    if part in ("block", "gate") and unit >= 6 and material not in ("grass", "water"):
        pen.line([top[2], (middle, base)], fill=(*seam, 255))
        for share in (1, 2):
            down = (base - top[2][1]) * share // 3
            pen.line([(left, top[3][1] + down), (middle, top[2][1] + down), (right, top[1][1] + down)], fill=(*seam, 255))
    return drawn
