"""Accuracy of short answers by the official rules of VQA (VQAv2, OK-VQA, VizWiz, TextVQA) and GQA.

VQA: an answer is as right as people agree with it, min(1, people / 3), averaged over every choice of all given answers but one. Answers
are compared after the official cleaning: case, punctuation, articles, numbers in words, apostrophes of contractions.

Source: visualqa.org/evaluation.html (the rule and the order of its steps).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mm_interleaved.errors import DataError

ENOUGH = 3
"""People who must have said an answer for it to be fully right."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Words that become digits; "none" becomes 0, too."""

ARTICLES = ("a", "an", "the")

MARKS = ';/[]"{}()=+\\_-><@`,?!'
"""Characters that are taken out, or become a blank where they stand between characters."""

CONTRACTED = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll let's ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"""
"""Words that people write without their apostrophes."""

_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"(\d)(,)(\d)")


def _without_apostrophes(word: str) -> list[str]:
    """The word without all of its apostrophes, or without one of several."""
    places = [place for place, letter in enumerate(word) if letter == "'"]
    shorter = [word[:place] + word[place + 1 :] for place in places]
    return [word.replace("'", ""), *shorter]


_MENDED = {bare: word for word in CONTRACTED.split() for bare in _without_apostrophes(word) if bare != word and bare not in ("shed", "wed")}


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """Accuracy of one answer against what people said, usually ten of them.

    Raises:
        DataError: nobody gave an answer.
    """
    if not given:
        raise DataError("a question without answers cannot be scored; the annotations are incomplete.")
    said = cleaned(answer)
    people = [_one_line(each) for each in given]
    # The official script cleans what people said only where they disagree.
    if len(set(people)) > 1:
        people = [cleaned(each) for each in people]
    if len(people) == 1:
        return float(said == people[0])
    shares = [min(1.0, sum(said == other for other in people[:place] + people[place + 1 :]) / ENOUGH) for place in range(len(people))]
    return sum(shares) / len(shares)


def exact_accuracy(answer: str, true: str) -> float:
    """GQA's rule: the same word or words, without regard to case, blanks and a full stop."""
    return float(_one_line(answer).lower().rstrip(".") == _one_line(true).lower().rstrip("."))


def cleaned(text: str) -> str:
    """An answer after the official cleaning."""
    return _digits_and_articles(_without_marks(_one_line(text)))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_marks(text: str) -> str:
    found = text
    comma = _COMMA_IN_NUMBER.search(text) is not None
    for mark in MARKS:
        removed = comma or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if removed else " ")
    return _PERIOD.sub("", found)


def _digits_and_articles(text: str) -> str:
    digits = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
    words = [digits.get(word, word) for word in text.lower().split()]
    return " ".join(_MENDED.get(word, word) for word in words if word not in ARTICLES)
