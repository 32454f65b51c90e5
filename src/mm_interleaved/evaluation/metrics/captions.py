"""Caption metrics: BLEU-1 to 4, CIDEr, ROUGE-L and METEOR, as COCO's evaluation computes them (pycocoevalcap).

The scorers are pycocoevalcap's own. Before them COCO runs Stanford's PTB tokenizer, which needs Java; `tokens` does what it does to
captions, without Java. Where the two differ stands in docs/results.md; with `java=True` the original runs. METEOR is a Java program in any
case. SPICE downloads a parser when it is called and is left out.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float

from mm_interleaved.errors import BackendError, DataError

ORDERS = 4
"""Longest n-grams of BLEU."""

REMOVED = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that COCO's evaluation drops after tokenizing."""

BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
"""How the PTB tokenizer writes brackets. In lower case they are none of `REMOVED`, so they stay, as in the original."""

SHORTENED = "mr mrs ms dr st jr sr vs no etc e.g i.e a.m p.m u.s u.k inc co corp ltd prof gen ave"

ABBREVIATIONS = frozenset(f"{word}." for word in SHORTENED.split())
"""Words that keep their full stop inside a sentence."""

SPLIT = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "gimme": "gim me",
    "lemme": "lem me",
    "dunno": "du n no",
    "'tis": "'t is",
    "'twas": "'t was",
}
"""Words that are cut without an apostrophe."""

_PATTERN = re.compile(
    r"""
    https?://[^\s]+ | www\.[^\s]+                     # addresses
  | \w[^\s@]*@[\w.]*\w
  | (?:[a-z]\.){2,}                                   # u.s., e.g.
  | \d+(?:[.,:/]\d+)+(?:-[a-z]+)* | \d+(?:st|nd|rd|th)\b   # 1,000  3.5  10:30  1/2  2nd
  | \w+(?:[-/&.]\w+)*(?:n't)(?![\w'])                      # don't
  | \w+(?:[-/&]\w+|\.\w+|'(?!s\b|d\b|m\b|ll\b|re\b|ve\b)\w+)*   # words, red-and-white, o'clock
  | '(?:s|d|m|ll|re|ve|tis|twas)\b | 'n' | -\d[\d.,]*
  | @\w+ | \.{2,} | --+ | [!?]{2,} | \*{2,} | [^\s]
    """,
    re.VERBOSE,
)


def scores(made: Mapping[str, str], true: Mapping[str, Sequence[str]], *, meteor: bool = False, java: bool = False) -> dict[str, Any]:
    """Corpus scores and those of every caption.

    Args:
        made: caption of each picture, by its id.
        true: reference captions of each picture.
        meteor: compute METEOR, too; needs Java.
        java: tokenize with the original Java program.

    Returns:
        For each metric (`BLEU-1` … `BLEU-4`, `CIDEr`, `ROUGE-L`, `METEOR`): `corpus`, and `each` in the order of `made`; where `corpus`
        is no mean of `each`, also `parts`, captions x counts, and `figure`, from sums of parts to the metric.

    Raises:
        BackendError: pycocoevalcap or Java is missing.
        DataError: a picture has no caption, or a caption no picture.
    """
    unmeasured()
    if set(made) != set(true) or not made:
        odd = sorted(set(made) ^ set(true))[:3]
        raise DataError(
            f"{len(made)} captions for {len(true)} pictures, different: {', '.join(odd) or 'none at all'}; every picture needs one."
        )
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    listed = {name: [caption] for name, caption in made.items()}
    cut = _with_java if java else _without_java
    found, wanted = cut(listed), cut({name: list(true[name]) for name in made})
    counted = BleuScorer(n=ORDERS)
    for name in found:
        counted += (found[name][0], wanted[name])
    bleu, each_bleu = counted.compute_score(option="closest", verbose=0)
    parts = np.array([_bleu_parts(caption) for caption in counted.ctest], np.float64)
    result: dict[str, Any] = {
        f"BLEU-{n + 1}": {
            "corpus": float(bleu[n]),
            "each": list(map(float, each_bleu[n])),
            "parts": parts,
            "figure": partial(bleu_of, n + 1),
        }
        for n in range(ORDERS)
    }
    for name, scorer in (("CIDEr", Cider()), ("ROUGE-L", Rouge())):
        corpus, each = scorer.compute_score(wanted, found)
        result[name] = {"corpus": float(corpus), "each": [float(value) for value in each]}
    if meteor:
        _needs_java("METEOR")
        from pycocoevalcap.meteor.meteor import Meteor

        scorer = Meteor()
        corpus, each = scorer.compute_score(wanted, found)
        parts = np.array([scorer._stat(found[name][0], wanted[name]).split() for name in found], np.float64)
        figure = partial(_meteor_of, scorer)
        result["METEOR"] = {"corpus": float(corpus), "each": [float(value) for value in each], "parts": parts, "figure": figure}
    return result


def bleu_of(order: int, sums: Float[np.ndarray, 2 + 2 * 4]) -> float:
    """BLEU of some captions, from their sums: words made and true, n-grams made and found, as pycocoevalcap computes it."""
    made, true, grams, right = sums[0], sums[1], sums[2 : 2 + ORDERS], sums[2 + ORDERS :]
    precision = float(np.prod((right[:order] + 1e-15) / (grams[:order] + 1e-9))) ** (1 / order)
    ratio = (made + 1e-15) / (true + 1e-9)
    return precision * math.exp(1 - 1 / ratio) if ratio < 1 else precision


def _bleu_parts(caption: Mapping[str, Any]) -> list[float]:
    length = caption["testlen"]
    closest = min((abs(other - length), other) for other in caption["reflen"])[1]
    return [length, closest, *caption["guess"], *caption["correct"]]


def _meteor_of(scorer: Any, sums: Float[np.ndarray, counts]) -> float:
    """METEOR of some captions: the program itself scores the sums of their counts; it answers for the one line and for all lines."""
    scorer.meteor_p.stdin.write(f"EVAL ||| {' '.join(map(str, sums))}\n".encode())
    scorer.meteor_p.stdin.flush()
    scorer.meteor_p.stdout.readline()
    return float(scorer.meteor_p.stdout.readline())


def tokens(text: str) -> list[str]:
    """Words of a caption as the PTB tokenizer cuts them, in lower case, without the punctuation that COCO drops."""
    spelled = re.sub(r"\s+", " ", text.replace("\u2019", "'").replace("\u2018", "'").replace("\u2026", "...")).strip().lower()
    spelled = re.sub("[\u201c\u201d]", '"', re.sub("[\u2013\u2014]", " -- ", spelled))
    pieces = [piece for word in spelled.split(" ") for piece in _pieces(word)]
    return [piece for piece in pieces if piece not in REMOVED]


def _pieces(word: str) -> list[str]:
    if word in ABBREVIATIONS:
        return [word]
    if word in SPLIT:
        return SPLIT[word].split()
    pieces: list[str] = []
    for match in _PATTERN.finditer(word):
        piece = match[0]
        if piece in BRACKETS:
            pieces.append(BRACKETS[piece])
        elif piece == '"':
            pieces.append("``")
        elif piece in SPLIT:
            pieces += SPLIT[piece].split()
        elif piece.endswith("n't") and len(piece) > 3:
            pieces += [piece[:-3], "n't"]
        else:
            pieces.append(piece)
    return pieces


def _without_java(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {name: [" ".join(tokens(caption)) for caption in several] for name, several in captions.items()}


def _with_java(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    _needs_java("COCO's own tokenizer")
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    return PTBTokenizer().tokenize({name: [{"caption": caption} for caption in several] for name, several in captions.items()})


def unmeasured() -> dict[str, str]:
    """Metrics that cannot be taken on this machine, and what they need.

    Raises:
        BackendError: none can, because pycocoevalcap is missing.
    """
    if find_spec("pycocoevalcap") is None:
        raise BackendError("caption metrics need pycocoevalcap, which is not installed: pip install 'mm-interleaved[evaluation]'.")
    return {} if has_java() else {"METEOR": "a Java runtime (`java`)"}


def has_java() -> bool:
    """Whether METEOR and the original tokenizer can run here."""
    return shutil.which("java") is not None


def _needs_java(what: str) -> None:
    if not has_java():
        raise BackendError(f"{what} is a Java program and no `java` is found; install a Java runtime, or leave it out.")
