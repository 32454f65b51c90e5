"""Handwriting: held-out hands and words, one circle around the right word, a second question with one right answer."""

from collections import Counter

import numpy as np
import pytest

from mm_interleaved.data.playground.material.lettering import faces
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.tasks.handwriting import RED, hands, vocabulary
from mm_interleaved.errors import DataError


@pytest.mark.parametrize("language", ["en", "zh"])
def test_hands_of_the_test_split_are_never_shown_in_training(train, test, language: str) -> None:
    seen, unseen = (
        {truth["hand"] for index in range(150) if (truth := sample("handwriting", world, 0, index, 1).truth)["language"] == language}
        for world in (train, test)
    )
    assert seen == {face.name for face in hands(language, False)} and unseen <= {face.name for face in hands(language, True)}  # type: ignore[arg-type]
    assert unseen and not seen & unseen


def test_held_out_words_are_never_written_in_training(train, test) -> None:
    unseen = {word for language in ("en", "zh") for word in vocabulary(train.pack, language)[1]}  # type: ignore[arg-type]
    for index in range(400):
        assert not set(sample("handwriting", train, 1, index, 1).truth["words"]) & unseen
    circled = [sample("handwriting", test, 1, index, 1).truth for index in range(200)]
    assert 0.1 < np.mean([truth["circled"] in unseen for truth in circled]) < 0.4


def test_pages_have_six_to_ten_words_and_the_circled_one_is_anywhere(train) -> None:
    places: Counter = Counter()
    for index in range(600):
        truth = sample("handwriting", train, 2, index, 1).truth
        assert 6 <= len(truth["words"]) == len(set(truth["words"])) <= 10
        places[truth["words"].index(truth["circled"])] += 1
    assert max(places.values()) < 0.2 * 600


def test_the_ring_is_around_the_word(train) -> None:
    for index in range(12):
        document = sample("handwriting", train, 3, index)
        picture = document.segments[0].astype(int)  # type: ignore[union-attr]
        red = np.abs(picture - np.array(RED)).max(2) < 40
        rows, columns = np.nonzero(red)
        assert len(rows) > 60
        x, y = document.truth["scenes"][0]["circle"]
        assert columns.min() < x * 224 < columns.max() and rows.min() < y * 224 < rows.max()


def test_the_second_question_has_the_answer_that_stands_there(train) -> None:
    forms: Counter = Counter()
    for index in range(300):
        truth = sample("handwriting", train, 4, index, 1).truth
        forms[truth["form"]] += 1
        words, place = truth["words"], truth["words"].index(truth["circled"])
        wanted = {"circled": place, "left": place - 1, "right": place + 1, "first": 0, "last": -1}[truth["form"]]
        assert truth["answer"] == words[wanted]
    assert set(forms) == {"circled", "left", "right", "first", "last"} and 0.4 < forms["circled"] / 300 < 0.6


def test_a_font_without_the_glyph_is_named() -> None:
    face = faces("hand", "en")[0]
    with pytest.raises(DataError, match=rf"font {face.name} has no glyph for 好.*--part fonts"):
        face.check("好 day")
