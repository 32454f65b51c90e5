"""Words the model never learnt: found by comparing a prompt with the words of the corpus, each with its nearest known ones.

English (and any script with spaces) is compared word by word, without regard to case. Han text has no spaces: a run of Han
characters is cut into known words by longest match, and what no known word covers is unknown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LETTER = rf"(?:(?![{_HAN}])[^\W\d_])"
_PIECE = re.compile(rf"(?P<han>[{_HAN}]+)|{_LETTER}+(?:['’]{_LETTER}+)*")
NEAREST = 3
"""How many known words are offered for an unknown one."""
WORD_CUTOFF = 0.6
"""Smallest similarity (difflib ratio) of an offered word; its default."""
HAN_CUTOFF = 0.4
"""The same for Han words: of two characters, sharing one is 0.5."""


def words_of(text: str) -> set[str]:
    """Everything in a text that `Words` can know: words in lower case, and single Han characters, which cover any run of them."""
    found: set[str] = set()
    for match in _PIECE.finditer(text):
        found.update(match.group() if match["han"] else (_plain(match.group()),))
    return found


class Words:
    """The words of a corpus.

    Args:
        known: words and names; a name of several words ("hot air balloon") makes each of them known.
    """

    def __init__(self, known: Iterable[str]) -> None:
        pieces = [match for entry in known for match in _PIECE.finditer(entry)]
        self._han = frozenset(match.group() for match in pieces if match["han"])
        self._words = frozenset(_plain(match.group()) for match in pieces if not match["han"])
        self._longest = max(map(len, self._han), default=0)

    def unknown(self, text: str) -> list[tuple[str, tuple[str, ...]]]:
        """Unknown words of a text in their order, each once, with up to `NEAREST` known ones, the nearest first.

        Without any known word of a script nothing can be said about it, and nothing is reported.
        """
        found: dict[str, tuple[str, ...]] = {}
        for match in _PIECE.finditer(text):
            if match["han"]:
                for piece in self._uncovered(match.group()):
                    found.setdefault(piece, self._nearest(piece, self._han, HAN_CUTOFF))
            elif self._words and _plain(match.group()) not in self._words:
                word = _plain(match.group())
                found.setdefault(word, self._nearest(word, self._words, WORD_CUTOFF))
        return list(found.items())

    def _uncovered(self, run: str) -> list[str]:
        """Stretches of a Han run that longest match leaves over."""
        if not self._han:
            return []
        left: list[str] = []
        start = position = 0
        while position < len(run):
            length = next((size for size in range(self._longest, 0, -1) if run[position : position + size] in self._han), 0)
            if length:
                if start < position:
                    left.append(run[start:position])
                start = position + length
            position += max(length, 1)
        if start < len(run):
            left.append(run[start:])
        return left

    @staticmethod
    def _nearest(word: str, known: frozenset[str], cutoff: float) -> tuple[str, ...]:
        return tuple(difflib.get_close_matches(word, sorted(known), n=NEAREST, cutoff=cutoff))


def _plain(word: str) -> str:
    return word.replace("’", "'").casefold()
