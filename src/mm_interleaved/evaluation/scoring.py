"""Scores of single samples: pure functions of what was made and what is true. No model, no picture, no file.

Answers and captions are compared whole and exactly; what does not read like a caption has nothing right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import wording
from mm_interleaved.data.playground.tasks.wording import Language

Scores = dict[str, float]
"""Metric → score of one sample, 0 to 1."""

ENDS = ".。"
"""Characters that end an answer or a caption."""


@dataclass(frozen=True, slots=True)
class Names:
    """How things and styles are called: id → word."""

    things: dict[Language, dict[str, str]]
    styles: dict[Language, dict[str, str]]

    @classmethod
    def of(cls, pack: Pack) -> Names:
        """The names of a pack."""
        return cls(
            {"en": {thing.id: thing.name_en for thing in pack.things}, "zh": {thing.id: thing.name_zh for thing in pack.things}},
            {"en": {style.id: style.word_en for style in pack.styles}, "zh": {style.id: style.word_zh for style in pack.styles}},
        )


@dataclass(frozen=True, slots=True)
class Caption:
    """What a caption says: styled things from left to right, and the ground."""

    items: tuple[tuple[str, str], ...]
    """(style, thing) in the caption's own words; in Chinese the measure word stands before the style."""
    ground: str


def sentence(text: str) -> str:
    """The first sentence without its end and without blanks around it."""
    return re.split(f"[{ENDS}]", text, maxsplit=1)[0].strip()


def answer(text: str, truth: dict[str, Any]) -> Scores:
    """A question: right is the whole answer and nothing else before the full stop."""
    return {"exact": float(sentence(text) == truth["answer"].strip())}


def read_caption(text: str, language: Language) -> Caption | None:
    """Takes a caption apart by the templates it was learnt from; None when it follows none of them."""
    for template in (wording.CAPTION_TWO[language], wording.CAPTION_ONE[language]):
        found = re.fullmatch(_pattern(template, language), sentence(text))
        if found:
            groups = found.groupdict()
            items = [(groups[f"{blank}_style"], groups[f"{blank}_thing"]) for blank in ("styled", "other") if f"{blank}_thing" in groups]
            return Caption(tuple(items), groups["ground"])
    return None


def caption(text: str, truth: dict[str, Any], names: Names) -> Scores:
    """A caption: share of slots right, all of them right, and the share by kind of slot.

    Slots are thing and style of each drawing, in place, and the ground. A caption of more or fewer drawings is not all right.
    """
    language = truth["language"]
    said = read_caption(text, language)
    things, styles = [], []
    for place, (thing, style) in enumerate(zip(truth["things"], truth["styles"], strict=True)):
        worded = said.items[place] if said is not None and place < len(said.items) else ("", "")
        things.append(worded[1] == names.things[language][thing])
        styles.append(_same_style(worded[0], names.styles[language][style], language))
    ground = said is not None and said.ground == wording.ground_word(truth["ground"], language)
    slots = [*things, *styles, ground]
    complete = said is not None and len(said.items) == len(truth["things"]) and all(slots)
    return {"slots": mean(slots), "all": float(complete), "thing": mean(things), "style": mean(styles), "ground": float(ground)}


def drawing(judged: list[str] | None, truth: dict[str, Any]) -> Scores:
    """One picture: thing, style and both right, and whether there is a picture at all.

    Args:
        judged: thing and style that the judge saw; None when nothing was drawn.
    """
    thing, style = (judged[0] == truth["thing"], judged[1] == truth["style"]) if judged else (False, False)
    return {"thing": float(thing), "style": float(style), "both": float(thing and style), "drawn": float(bool(judged))}


def story(texts: list[str], panels: list[dict[str, list[str]]], ended: bool, truth: dict[str, Any], names: Names) -> Scores:
    """A story of three panels; a panel that is missing is wrong.

    `hero`: share of panels with the hero on the left in its style; `hero_thing`, `hero_style`: one of the two. `second`: share of panels
    whose right drawing is named in the panel's own text, whatever the text says (the second panel's is not fixed by the opening line).
    `words`: share of panels whose text names the hero and, where the opening line fixes it (panels 1 and 3), the goal. `pictures`:
    three, and then the model ended by itself.

    Args:
        texts: words before each picture.
        panels: thing and style in the `left` and the `right` half of each picture.
        ended: whether the model ended the document.
    """
    count = len(truth["panels"])
    things, styles, heroes, seconds, words = [], [], [], [], []
    for place in range(count):
        panel = panels[place] if place < len(panels) else {"left": ["", ""], "right": ["", ""]}
        text = texts[place] if place < len(texts) else ""
        said = named(text, truth["language"], names)
        wanted = {truth["hero"]} | ({truth["goal"]} if place in (0, count - 1) else set())
        things.append(panel["left"][0] == truth["hero"])
        styles.append(panel["left"][1] == truth["style"])
        heroes.append(things[-1] and styles[-1])
        seconds.append(panel["right"][0] in said - {truth["hero"]})
        words.append(wanted <= said)
    shares = {"hero": heroes, "hero_thing": things, "hero_style": styles, "second": seconds, "words": words}
    return {**{name: mean(right) for name, right in shares.items()}, "pictures": float(len(panels) == count and ended)}


def named(text: str, language: Language, names: Names) -> set[str]:
    """Ids of the things that a text names; of overlapping names the longest counts ("热狗" is no "狗")."""
    ids = {word: thing for thing, word in names.things[language].items()}
    longest_first = "|".join(re.escape(word) for word in sorted(ids, key=len, reverse=True))
    edge = r"\b" if language == "en" else ""
    return {ids[word] for word in re.findall(f"{edge}(?:{longest_first}){edge}", text)}


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean of at least one value."""
    found = [float(value) for value in values]
    return sum(found) / len(found)


def caption_chance(truth: dict[str, Any], *, things: int, styles: int, grounds: int) -> Scores:
    """What guessing every slot gives on average, for the number of drawings there are."""
    count = len(truth["things"])
    slots = [1 / things, 1 / styles] * count + [1 / grounds]
    whole = (1 / things / styles) ** count / grounds
    return {"slots": mean(slots), "all": whole, "thing": 1 / things, "style": 1 / styles, "ground": 1 / grounds}


def _same_style(worded: str, word: str, language: Language) -> bool:
    # "头立体" is measure word and style; which measure word is right depends on the thing, and is not asked here.
    return worded.endswith(word) if language == "zh" else worded == word


def _pattern(template: str, language: Language) -> str:
    article = {"en": r"an? (?P<NAME_style>\S+) (?P<NAME_thing>.+?)", "zh": r"一(?P<NAME_style>.+?)风格的(?P<NAME_thing>.+?)"}[language]
    pattern = re.escape(template.strip().rstrip(ENDS))
    for blank in ("styled", "other"):
        pattern = pattern.replace(re.escape(f"{{{blank}}}"), article.replace("NAME", blank))
    return pattern.replace(re.escape("{ground}"), r"(?P<ground>\S+?)")
