"""The words of the playground: how a thing, a style and a ground are called in a sentence, in English and Chinese.

Few templates, short sentences, lower case: a language model of a few million weights learns them in minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from mm_interleaved.data.playground.pack import Pack, Style, Thing
from mm_interleaved.data.playground.scene import GROUNDS

Language = Literal["en", "zh"]

PLACES = {
    "left": ("on the left", "左边"),
    "right": ("on the right", "右边"),
    "top": ("at the top", "上边"),
    "bottom": ("at the bottom", "下边"),
    "middle": ("in the middle", "中间"),
}
NUMBERS = {1: ("one", "一"), 2: ("two", "两"), 3: ("three", "三"), 4: ("four", "四")}
YES_NO = {
    "is_there": {True: ("yes", "有"), False: ("no", "没有")},
    "left_of": {True: ("yes", "在"), False: ("no", "不在")},
    "same_style": {True: ("yes", "一样"), False: ("no", "不一样")},
}
"""Question form -> truth -> answer. Chinese says yes and no by repeating the question's verb."""


def number_of(language: Language) -> int:
    """0 for English, 1 for Chinese: the place of a word in the pairs of this file."""
    return 0 if language == "en" else 1


def one(thing: Thing, language: Language, style: Style | None = None) -> str:
    """ "a camel", "a 3D camel" · 一头骆驼, 一头立体风格的骆驼."""
    if language == "zh":
        return f"一{thing.measure_zh}" + (f"{style.word_zh}风格的" if style else "") + thing.name_zh
    if style is None:
        return f"{thing.article_en} {thing.name_en}"
    return f"{'an' if style.word_en[0] in 'aeiou' else 'a'} {style.word_en} {thing.name_en}"


def the(thing: Thing, language: Language) -> str:
    """ "the camel" · 骆驼."""
    return thing.name_zh if language == "zh" else f"the {thing.name_en}"


def style_word(style: Style, language: Language) -> str:
    """ "flat" · 扁平."""
    return style.word_zh if language == "zh" else style.word_en


def ground_word(ground: int, language: Language) -> str:
    """ "white" · 白色."""
    return GROUNDS[ground].word_zh if language == "zh" else GROUNDS[ground].word_en


CAPTION_PROMPTS = {
    "en": ("describe the picture:", "what does the picture show?", "caption:"),
    "zh": ("描述这张图：", "图里有什么？", "图片说明："),
}
CAPTION_ONE = {"en": " {styled} on a {ground} ground.", "zh": "{ground}背景上有{styled}。"}
CAPTION_TWO = {
    "en": " {styled} on the left and {other} on the right, on a {ground} ground.",
    "zh": "{ground}背景上，左边有{styled}，右边有{other}。",
}
PICTURE_PROMPTS = {
    "en": (
        "draw {styled} on a {ground} ground.",
        "please draw {styled} on a {ground} ground.",
        "show me {styled} on a {ground} ground.",
        "paint {styled} on a {ground} ground.",
    ),
    "zh": ("画{styled}，背景是{ground}。", "请画{styled}，背景是{ground}。", "给我看{styled}，背景是{ground}。"),
}
STYLE_PROMPTS = {
    "en": (
        "in the style of the picture above, draw {one}.",
        "draw {one} in the style of the picture above.",
        "now draw {one} in the same style.",
    ),
    "zh": ("用上图的风格画{one}。", "请按上图的风格，画{one}。", "再用同样的风格画{one}。"),
}
QUESTION = {"en": "question: {question} answer:", "zh": "问：{question}答："}
ANSWER = {"en": " {answer}.", "zh": "{answer}。"}


def words(pack: Pack | None = None) -> frozenset[str]:
    """All words that the playground's texts use: English words in lower case, Chinese names, styles and colours whole, and every
    single Chinese character of the sentences around them.

    Args:
        pack: whose names to include; None means the pack in the box.
    """
    # Imported here: both modules use this one for their sentences, and only this list looks back at their tables.
    from mm_interleaved.data.playground.tasks import looking, stories

    pack = Pack.load() if pack is None else pack
    english: list[str] = []
    chinese: set[str] = set()
    for thing in pack.things:
        english += [thing.name_en, thing.plural_en, thing.article_en]
        chinese.add(thing.name_zh)
    for style in pack.styles:
        english.append(style.word_en)
        chinese.add(style.word_zh)
    for ground in GROUNDS:
        english.append(ground.word_en)
        chinese.add(ground.word_zh)
    captions = (CAPTION_PROMPTS, CAPTION_ONE, CAPTION_TWO)
    tables = (PLACES, NUMBERS, YES_NO, captions, PICTURE_PROMPTS, STYLE_PROMPTS, QUESTION, ANSWER)
    english += _strings((tables, looking.QUESTIONS, stories.PLOTS))
    measures = [thing.measure_zh for thing in pack.things]
    return frozenset(words_in([*english, *measures]) | chinese)


def words_in(texts: Iterable[str]) -> frozenset[str]:
    """English words of some texts in lower case, and their single Chinese characters; `{blanks}` are left out."""
    found: set[str] = set()
    for text in texts:
        plain = re.sub(r"\{\w+\}", " ", text.lower())
        found.update(re.findall(r"[a-z0-9]+(?:-[a-z]+)?|[\u4e00-\u9fff]", plain))
    return frozenset(found)


def _strings(table: object) -> list[str]:
    if isinstance(table, str):
        return [table]
    if isinstance(table, dict):
        return _strings(list(table.values()))
    if isinstance(table, (tuple, list)):
        return [text for member in table for text in _strings(member)]
    return []
