"""Step by step to a phone setting: the wish, the screens so far, then the next tap in words and as a box.

Screens are drawn in two looks, light or dark, in English or Chinese. A path has three to five screens, the last of which shows that it
is done. The menu trees of a fifth of the phones are held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from mm_interleaved.data.playground.material.lettering import Face, faces
from mm_interleaved.data.playground.tasks import boxes, canvas, menus
from mm_interleaved.data.playground.tasks.boxes import Box
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.menus import Phone
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose, fraction

LEFT, RIGHT = 64, 384
"""Edges of the phone on the canvas, in pixels."""
STATUS, BAR, ROW = 28, 52, 50
"""Heights of the status line, the title bar and a row, in pixels."""
GOALS = {
    True: {
        "en": ('goal: turn on "{name}".', 'how can i turn on "{name}" on my phone?', 'guide me step by step: turn on "{name}".'),
        "zh": ("目标：打开“{name}”。", "怎样在手机上打开“{name}”？", "一步一步教我打开“{name}”。"),
    },
    False: {
        "en": ('goal: turn off "{name}".', 'how can i turn off "{name}" on my phone?', 'guide me step by step: turn off "{name}".'),
        "zh": ("目标：关闭“{name}”。", "怎样在手机上关闭“{name}”？", "一步一步教我关闭“{name}”。"),
    },
}
"""Whether to turn it on -> language -> wordings of the wish."""
TAP = {"en": " tap {name} {box}.", "zh": "点击{name}{box}。"}
DONE = {
    True: {"en": " done: {name} is on.", "zh": "完成：{name}已打开。"},
    False: {"en": " done: {name} is off.", "zh": "完成：{name}已关闭。"},
}


@dataclass(frozen=True, slots=True)
class _View:
    """One screen as it is drawn."""

    phone: int
    title: str
    rows: tuple[str, ...]
    on: tuple[bool | None, ...]
    """State of each row's switch; None for a list."""
    language: Language
    clock: str


def next_tap(world: World, random: np.random.Generator, side: int) -> Sample:
    """The wish, screens with the taps that led on, and the next tap; or, on the last screen, that it is done."""
    language = draw_language(world, random)
    phone = menus.phone(choose(random, menus.phones(world.config.split == "test")))
    length = choose(random, sorted({len(path) for path in phone.paths}))
    path = choose(random, [path for path in phone.paths if len(path) == length])
    wanted = bool(random.integers(2))
    # All steps are equally likely, the one on which it is done among them.
    step = int(random.integers(len(path) + 1))
    clock = f"{int(random.integers(7, 23))}:{int(random.integers(60)):02d}"
    others = int(random.integers(2**32))
    views = [_view(phone, path, place, wanted, language, clock, others) for place in range(step + 1)]
    goal_names = menus.entries()[path[-1]].names[language]
    goal = choose(random, GOALS[wanted][language]).format(name=choose(random, goal_names))
    segments: list[Segment] = [goal]
    taps = [_tap(phone, view, key, language) for view, key in zip(views, path, strict=False)]
    for place, view in enumerate(views):
        segments.append(canvas.picture(side, lambda view=view: _screen(view)))  # type: ignore[misc]  # drawn at once
        segments.append(taps[place][0] if place < len(path) else DONE[wanted][language].format(name=phone.name(path[-1], language)))
    done = step == len(path)
    truth = {
        "language": language,
        "phone": phone.number,
        "path": list(path),
        "wanted": wanted,
        "step": step,
        "done": done,
        "words": str(segments[-1]).split("(")[0].strip().rstrip(".。"),
        "box": None if done else [round(edge, 4) for edge in taps[step][1]],
        "answers": len(views[-1].rows) + 1,
        "scenes": [{"title": view.title, "rows": list(view.rows), "on": list(view.on)} for view in views],
    }
    return Sample("screens", tuple(segments), len(segments) - 1, truth)


def sentences() -> Iterator[str]:
    """Every text that this task is made of."""
    for wordings in (*GOALS[True].values(), *GOALS[False].values()):
        yield from wordings
    yield from (*TAP.values(), *DONE[True].values(), *DONE[False].values(), *menus.names())


def _tap(phone: Phone, view: _View, key: str, language: Language) -> tuple[str, Box]:
    box = _row_box(view.rows.index(key))
    return TAP[language].format(name=phone.name(key, language), box=boxes.in_words(box)), box


def _view(phone: Phone, path: tuple[str, ...], place: int, wanted: bool, language: Language, clock: str, others: int) -> _View:
    """The screen before tap `place`; the one after the last tap shows the switch in its new state."""
    # A list that a phone opened up is no key of the path, so the screen is that of the row tapped last.
    last = path[min(place, len(path) - 1) - 1] if min(place, len(path) - 1) > 0 else menus.TITLE["en"]
    screen = phone.screens[last]
    states: list[bool | None] = []
    for key in screen.rows:
        if not menus.entries()[key].toggle:
            states.append(None)
        elif key == path[-1]:
            states.append(wanted if place == len(path) else not wanted)
        else:
            states.append(fraction("switch", str(others), key) < 0.5)
    return _View(phone.number, screen.title, screen.rows, tuple(states), language, clock)


def _row_box(row: int) -> Box:
    top = STATUS + BAR + row * ROW
    return LEFT / canvas.SIDE, top / canvas.SIDE, RIGHT / canvas.SIDE, (top + ROW) / canvas.SIDE


@dataclass(frozen=True, slots=True)
class _Look:
    """Colours of a phone."""

    ground: canvas.Colour
    card: canvas.Colour
    text: canvas.Colour
    line: canvas.Colour
    accent: canvas.Colour
    wall: canvas.Colour
    round_icons: bool


ACCENTS = ((26, 115, 232), (0, 122, 102), (198, 82, 20), (140, 60, 180), (52, 168, 83))
ICONS = ((66, 133, 244), (52, 168, 83), (251, 188, 4), (234, 67, 53), (142, 142, 147), (0, 172, 193), (171, 71, 188), (255, 112, 67))
WALLS = ((120, 144, 156), (196, 180, 160), (150, 170, 200), (90, 96, 110))


@lru_cache(maxsize=512)
def _look(phone: int) -> _Look:
    def pick(purpose: str, count: int) -> int:
        return int(fraction("phone look", purpose, str(phone)) * count)

    accent, wall, round_icons = ACCENTS[pick("accent", len(ACCENTS))], WALLS[pick("wall", len(WALLS))], bool(pick("icons", 2))
    if pick("dark", 3) == 0:
        return _Look((18, 18, 20), (32, 33, 36), (232, 234, 237), (60, 62, 66), accent, wall, round_icons)
    if pick("cards", 2):
        return _Look((242, 242, 247), (255, 255, 255), (28, 28, 30), (222, 222, 228), accent, wall, round_icons)
    return _Look((255, 255, 255), (255, 255, 255), (32, 33, 36), (232, 234, 237), accent, wall, round_icons)


def _screen(view: _View) -> Image.Image:
    look = _look(view.phone)
    page = Image.new("RGB", (canvas.SIDE, canvas.SIDE), look.wall)
    pen = ImageDraw.Draw(page)
    pen.rounded_rectangle((LEFT - 6, -30, RIGHT + 5, canvas.SIDE + 30), 24, (16, 16, 18))
    pen.rectangle((LEFT, 0, RIGHT - 1, canvas.SIDE), look.ground)
    (digits,), (face,) = faces("screen", "en"), faces("screen", view.language)
    canvas.write(page, (LEFT + 12, STATUS / 2), view.clock, digits, 18, look.text, "lm")
    pen.rounded_rectangle((RIGHT - 36, 8, RIGHT - 12, 20), 3, outline=look.text, width=2)
    pen.rectangle((RIGHT - 33, 11, RIGHT - 21, 17), look.text)
    middle = STATUS + BAR / 2
    indent = 16
    if view.title != menus.TITLE["en"]:
        pen.line([(LEFT + 26, middle - 9), (LEFT + 16, middle), (LEFT + 26, middle + 9)], look.accent, 4, joint="curve")
        indent = 40
    title = menus.phone(view.phone).name(view.title, view.language)
    canvas.write(page, (LEFT + indent, middle), title, face, _fitting(face, title, RIGHT - LEFT - indent - 12, 28), look.text, "lm")
    for row, (key, on) in enumerate(zip(view.rows, view.on, strict=True)):
        _row(page, view, row, key, on)
    return page


def _row(page: Image.Image, view: _View, row: int, key: str, on: bool | None) -> None:
    look, pen = _look(view.phone), ImageDraw.Draw(page)
    (face,) = faces("screen", view.language)
    top = STATUS + BAR + row * ROW
    middle = top + ROW / 2
    pen.rectangle((LEFT, top, RIGHT - 1, top + ROW - 1), look.card)
    pen.line((LEFT + 12, top + ROW - 1, RIGHT - 1, top + ROW - 1), look.line, 2)
    text = LEFT + 14
    if view.title == menus.TITLE["en"]:
        colour = ICONS[int(fraction("icon", key) * len(ICONS))]
        shape = (LEFT + 12, middle - 13, LEFT + 38, middle + 13)
        pen.ellipse(shape, colour) if look.round_icons else pen.rounded_rectangle(shape, 7, colour)
        text = LEFT + 48
    name = menus.phone(view.phone).name(key, view.language)
    end = RIGHT - (62 if on is not None else 34)
    canvas.write(page, (text, middle), name, face, _fitting(face, name, end - text, 24), look.text, "lm")
    if on is None:
        pen.line([(RIGHT - 22, middle - 7), (RIGHT - 15, middle), (RIGHT - 22, middle + 7)], (150, 150, 155), 3, joint="curve")
    else:
        pen.rounded_rectangle((RIGHT - 54, middle - 12, RIGHT - 12, middle + 12), 12, look.accent if on else (160, 162, 168))
        knob = RIGHT - 24 if on else RIGHT - 42
        pen.ellipse((knob - 9, middle - 9, knob + 9, middle + 9), (255, 255, 255))


@lru_cache(maxsize=4096)
def _fitting(face: Face, text: str, width: int, largest: int) -> int:
    """The largest size in pixels, at most `largest`, at which a text fits a width."""
    return next((size for size in range(largest, 12, -1) if face.at(size).getlength(text) <= width), 12)
