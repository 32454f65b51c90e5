"""A handwritten page: six to ten words by one hand, one of them in a red circle; which one is it, and which stands beside it?

Some hands (fonts) are held out, and some words are never written in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from mm_interleaved.data.playground.material.lettering import Face, faces
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import canvas
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose, fraction

HELD_OUT_HANDS = 0.25
"""Share of each script's fonts that training never sees; at least one."""
HELD_OUT_WORDS = 0.15
"""Share of words that training never writes. A quarter of the test's circled words are such."""
SHORTEST, LONGEST = {"en": 2, "zh": 1}, {"en": 9, "zh": 4}
"""Fewest and most letters of a word: three stand on one line."""
PAPERS = ((255, 255, 255), (252, 249, 240), (246, 250, 255), (250, 246, 235))
INKS = ((28, 32, 44), (24, 44, 120), (60, 60, 66), (20, 70, 60))
RED = (214, 32, 36)

EVERYDAY = (
    ("hello", "你好"), ("thanks", "谢谢"), ("today", "今天"), ("morning", "早上"), ("evening", "晚上"), ("monday", "星期一"),
    ("friday", "星期五"), ("sunday", "星期天"), ("summer", "夏天"), ("winter", "冬天"), ("friend", "朋友"), ("mother", "妈妈"),
    ("father", "爸爸"), ("sister", "妹妹"), ("brother", "哥哥"), ("teacher", "老师"), ("doctor", "医生"), ("school", "学校"),
    ("market", "市场"), ("garden", "花园"), ("kitchen", "厨房"), ("window", "窗户"), ("letter", "信件"), ("music", "音乐"),
    ("water", "水"), ("bread", "面包"), ("sugar", "糖"), ("green", "绿色"), ("yellow", "黄色"), ("happy", "开心"),
    ("quick", "很快"), ("seven", "七"), ("twelve", "十二"), ("river", "河流"), ("island", "小岛"), ("winner", "冠军"),
    ("dream", "梦想"), ("secret", "秘密"), ("ticket", "车票"), ("holiday", "假期"),
)  # fmt: skip
"""Words beside the names of the pack's things, in English and Chinese."""

PROMPTS = {
    "en": (
        "what is written in the red circle? answer:",
        "read the word inside the red circle. answer:",
        "which word is circled in red? answer:",
    ),
    "zh": ("红圈里写的是什么？答：", "请读出红圈里的字。答：", "红色圆圈圈出了什么词？答："),
}
FURTHER = {
    "right": {"en": (" question: which word is to the right of it? answer:",), "zh": ("问：它右边的词是什么？答：",)},
    "left": {"en": (" question: which word is to the left of it? answer:",), "zh": ("问：它左边的词是什么？答：",)},
    "first": {"en": (" question: what is the first word on the page? answer:",), "zh": ("问：这页的第一个词是什么？答：",)},
    "last": {"en": (" question: what is the last word on the page? answer:",), "zh": ("问：这页的最后一个词是什么？答：",)},
}
"""Which other word -> language -> wordings of the second question."""
ANSWER = {"en": " {answer}.", "zh": "{answer}。"}


@dataclass(frozen=True, slots=True)
class _Word:
    """A word on its page: places as fractions of the side."""

    text: str
    centre_x: float
    centre_y: float
    height: float
    slant: float
    turn: float
    """Degrees."""


def circled_word(world: World, random: np.random.Generator, side: int) -> Sample:
    """The page, then the circled word; half of the samples go on from there to another word."""
    language = draw_language(world, random)
    test = world.config.split == "test"
    face = choose(random, hands(language, test))
    unseen = test and random.random() < 0.25
    seen_words, unseen_words = vocabulary(world.pack, language)
    circled = choose(random, unseen_words if unseen else seen_words)
    lines, row, column = _lines(circled, [word for word in seen_words if word != circled], random)
    words = [word for line in lines for word in line]
    placed = _placed(lines, language, random, world.config.jitter)
    target = sum(len(line) for line in lines[:row]) + column
    look = (choose(random, PAPERS), choose(random, INKS), bool(random.integers(2)), int(random.integers(2**32)))
    page = canvas.picture(side, lambda: _page(placed, target, face, look))
    other = _other(lines, row, column, random) if random.random() < 0.5 else None
    form, asked_for = ("circled", circled) if other is None else other
    prompt = choose(random, PROMPTS[language])
    if other is not None:
        prompt += ANSWER[language].format(answer=circled) + choose(random, FURTHER[form][language])
    word = placed[target]
    truth = {
        "language": language,
        "form": form,
        "answer": asked_for,
        "circled": circled,
        "answers": len(words),
        "words": words,
        "hand": face.name,
        "unseen_word": unseen and other is None,
        "scenes": [{"words": words, "circle": [round(word.centre_x, 4), round(word.centre_y, 4)], "hand": face.name}],
    }
    return Sample("handwriting", (page, prompt, ANSWER[language].format(answer=asked_for)), 2, truth)


def hands(language: Language, held_out: bool) -> tuple[Face, ...]:
    """The fonts of one script on one side of the held-out line."""
    ranked = sorted(faces("hand", language), key=lambda face: fraction("hand", face.name))
    count = max(1, round(HELD_OUT_HANDS * len(ranked)))
    return tuple(ranked[:count] if held_out else ranked[count:])


@lru_cache(maxsize=16)
def vocabulary(pack: Pack, language: Language) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words that training writes, and words that it never writes."""
    place = 0 if language == "en" else 1
    names = [(thing.name_en, thing.name_zh)[place] for thing in pack.things] + [pair[place] for pair in EVERYDAY]
    fitting = [name for name in names if SHORTEST[language] <= len(name) <= LONGEST[language]]
    whole = sorted({name for name in fitting if name.isalpha() and name.isascii() == (language == "en")})
    unseen = tuple(word for word in whole if fraction("word", word) < HELD_OUT_WORDS)
    return tuple(word for word in whole if word not in unseen), unseen


def characters() -> set[str]:
    """Every Chinese character that may be written."""
    seen, unseen = vocabulary(Pack.load(), "zh")
    return set("".join((*seen, *unseen)))


def sentences() -> Iterator[str]:
    """Every text that this task is made of, but for the names of the pack's things."""
    yield from (*PROMPTS["en"], *PROMPTS["zh"])
    for wordings in FURTHER.values():
        yield from (*wordings["en"], *wordings["zh"])
    for pair in EVERYDAY:
        yield from pair


def _lines(circled: str, others: Sequence[str], random: np.random.Generator) -> tuple[list[list[str]], int, int]:
    """Lines of words with the circled one at a random place; its line and its place in it."""
    shape = [int(random.integers(2, 4)) for _ in range(int(random.integers(3, 5)))]
    while sum(shape) > 10:
        shape[int(random.integers(len(shape)))] = 2
    chosen = [others[place] for place in random.choice(len(others), sum(shape), replace=False)]
    lines = [[chosen.pop() for _ in range(count)] for count in shape]
    target = int(random.integers(sum(shape)))
    row = 0
    while target >= shape[row]:
        target -= shape[row]
        row += 1
    lines[row][target] = circled
    return lines, row, target


def _other(lines: list[list[str]], row: int, column: int, random: np.random.Generator) -> tuple[str, str] | None:
    options = {"first": lines[0][0], "last": lines[-1][-1]}
    if column > 0:
        options["left"] = lines[row][column - 1]
    if column + 1 < len(lines[row]):
        options["right"] = lines[row][column + 1]
    kinds = [kind for kind, word in options.items() if word != lines[row][column]]
    if not kinds:
        return None
    kind = choose(random, kinds)
    return kind, options[kind]


def _placed(lines: list[list[str]], language: Language, random: np.random.Generator, jitter: float) -> list[_Word]:
    slant = float(random.uniform(-0.15, 0.3)) * min(1.0, jitter)
    height = 0.082 if language == "en" else 0.088
    found = []
    for row, line in enumerate(lines):
        for column, text in enumerate(line):
            shift = random.uniform(-1, 1, 4) * min(1.0, jitter)
            found.append(
                _Word(
                    text=text,
                    centre_x=(column + 0.5) / len(line) * 0.96 + 0.02 + 0.008 * float(shift[0]),
                    centre_y=(row + 0.5) / len(lines) * 0.92 + 0.04 + 0.018 * float(shift[1]),
                    height=height * (1 + 0.1 * float(shift[2])),
                    slant=slant,
                    turn=4 * float(shift[3]),
                )
            )
    return found


Look = tuple[canvas.Colour, canvas.Colour, bool, int]
"""Paper, ink, whether the paper is lined, seed of the grain and of the circle's hand."""


def _page(words: Sequence[_Word], target: int, face: Face, look: Look) -> Image.Image:
    paper, ink, lined, seed = look
    random = np.random.Generator(np.random.Philox(seed))
    side = canvas.SIDE
    page = Image.new("RGB", (side, side), paper)
    pen = ImageDraw.Draw(page)
    if lined:
        for y in range(28, side, 36):
            pen.line((0, y, side, y), (206, 218, 232), 2)
    boxes = [_written(page, word, face, ink) for word in words]
    _circle(pen, boxes[target], random)
    grain = random.integers(-9, 10, (side // 2, side // 2, 1), np.int16).repeat(2, 0).repeat(2, 1)
    return Image.fromarray(np.clip(np.asarray(page, np.int16) + grain, 0, 255).astype(np.uint8))


def _written(page: Image.Image, word: _Word, face: Face, ink: canvas.Colour) -> tuple[int, int, int, int]:
    """Writes a word, slanted and turned, and gives its box in pixels."""
    mask = _mask(face, word.text, round(word.height * canvas.SIDE * 1.25))
    # Narrower when it would run into its neighbours.
    width = min(mask.width, round(0.3 * canvas.SIDE))
    mask = mask.resize((width, mask.height), Image.Resampling.BICUBIC) if width != mask.width else mask
    lean = round(abs(word.slant) * mask.height)
    wide = (mask.width + lean, mask.height)
    mask = mask.transform(wide, Image.Transform.AFFINE, (1, word.slant, -lean if word.slant > 0 else 0, 0, 1, 0), Image.Resampling.BICUBIC)
    mask = mask.rotate(word.turn, Image.Resampling.BICUBIC, expand=True)
    mask = mask.crop(mask.getbbox())
    left = min(max(4, round(word.centre_x * canvas.SIDE - mask.width / 2)), canvas.SIDE - mask.width - 4)
    top = round(word.centre_y * canvas.SIDE - mask.height / 2)
    page.paste(ink, (left, top), mask)
    return left, top, left + mask.width, top + mask.height


@lru_cache(maxsize=2048)
def _mask(face: Face, text: str, size: int) -> Image.Image:
    face.check(text)
    font = face.at(size)
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    mask = Image.new("L", (round(right - left) + 8, round(bottom - top) + 8), 0)
    ImageDraw.Draw(mask).text((4 - left, 4 - top), text, 255, font=font, anchor="ls")
    return mask


def _circle(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], random: np.random.Generator) -> None:
    """A red ring by an unsteady hand, its ends a little apart."""
    left, top, right, bottom = box
    middle, radius = ((left + right) / 2, (top + bottom) / 2), ((right - left) / 2 + 12, (bottom - top) / 2 + 10)
    angles = np.linspace(0, 2 * np.pi * random.uniform(0.97, 1.06), 49) + random.uniform(0, 2 * np.pi)
    wobble = 1 + 0.035 * np.sin(angles * 2 + random.uniform(0, 6)) + 0.02 * np.sin(angles * 3 + random.uniform(0, 6))
    points = [(middle[0] + radius[0] * r * np.cos(a), middle[1] + radius[1] * r * np.sin(a)) for a, r in zip(angles, wobble, strict=True)]
    pen.line(points, RED, 6, joint="curve")
