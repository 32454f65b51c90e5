"""The judge that reads: what it says when it is not installed, where it sees a ring, and that it reads true pages."""

import numpy as np
import pytest

from mm_interleaved.data.playground.judge_text import TextJudge, ring
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.errors import DataError


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rapidocr", None)
    with pytest.raises(DataError, match=r"pip install 'mm-interleaved\[judge\]'"):
        TextJudge()


def test_the_ring_is_found_on_pages_and_nowhere_else(train) -> None:
    for index in range(8):
        document = sample("handwriting", train, 5, index)
        red = ring(document.segments[0])  # type: ignore[arg-type]
        assert red is not None
        x, y = document.truth["scenes"][0]["circle"]
        rows, columns = np.nonzero(red)
        assert columns.min() <= x * 224 <= columns.max() and rows.min() <= y * 224 <= rows.max()
        assert len(rows) < 0.05 * 224**2
    assert ring(np.full((64, 64, 3), 250, np.uint8)) is None


def test_it_reads_true_pages_and_falls_to_chance_on_swapped_labels(train) -> None:
    # Measured 27 of 30 English words by held-out hands; here any hands and both languages.
    pytest.importorskip("rapidocr")
    judge = TextJudge()
    documents = [sample("handwriting", train, 6, index, 448) for index in range(10)]
    read = [(judge.circled(document.segments[0]) or "").lower() for document in documents]  # type: ignore[arg-type]
    words = [document.truth["circled"] for document in documents]
    assert sum(found == word for found, word in zip(read, words, strict=True)) >= 6
    assert sum(found == word for found, word in zip(read, words[1:] + words[:1], strict=True)) <= 1
