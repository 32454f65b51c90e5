"""Phone settings: menu trees that hold together, held-out phones, boxes on the row that is named, three to five screens."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from mm_interleaved.data.playground.material.lettering import faces
from mm_interleaved.data.playground.tasks import boxes, menus, sample


def test_every_path_leads_over_rows_that_are_there() -> None:
    for number in range(0, menus.PHONES, 7):
        phone = menus.phone(number)
        assert phone.paths
        for path in phone.paths:
            here = phone.screens[menus.TITLE["en"]]
            for key in path[:-1]:
                assert key in here.rows and len(here.rows) <= menus.ROWS
                here = phone.screens[key]
            assert path[-1] in here.rows and menus.entries()[path[-1]].toggle
            assert 3 <= len(path) + 1 <= 5


def test_names_are_unique_fit_a_row_and_both_languages_have_as_many() -> None:
    keys = menus.entries()
    assert len(keys) > 80
    for language in ("en", "zh"):
        names = [name for entry in keys.values() for name in entry.names[language]]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        assert not repeated
    assert all(len(name) <= 20 for entry in keys.values() for name in entry.names["en"])
    assert menus.characters() <= faces("screen", "zh")[0].characters


def test_phones_differ_and_a_fifth_is_held_out(train, test) -> None:
    trees = {tuple((key, screen.rows) for key, screen in menus.phone(number).screens.items()) for number in range(100)}
    assert len(trees) == 100
    assert 0.14 < len(menus.phones(True)) / menus.PHONES < 0.26
    for world, held_out in ((train, False), (test, True)):
        assert all(menus.phone(sample("screens", world, 0, index, 1).truth["phone"]).held_out == held_out for index in range(100))


def test_the_box_is_the_row_that_the_words_name(train) -> None:
    for index in range(200):
        document = sample("screens", train, 1, index, 1)
        truth = document.truth
        found = boxes.read(document.segments[-1])
        if truth["done"]:
            assert found is None and truth["box"] is None
            continue
        assert boxes.overlap(found, tuple(truth["box"])) > 0.95  # type: ignore[arg-type]
        key = truth["path"][truth["step"]]
        row = truth["scenes"][-1]["rows"].index(key)
        assert truth["box"][1] == pytest.approx((28 + 52 + 50 * row) / 448, abs=1e-3)
        assert menus.phone(truth["phone"]).name(key, truth["language"]) in document.segments[-1]


def test_steps_and_states_are_balanced(train) -> None:
    truths = [sample("screens", train, 2, index, 1).truth for index in range(600)]
    assert abs(np.mean([truth["wanted"] for truth in truths]) - 0.5) < 0.09
    done = np.mean([truth["done"] for truth in truths])
    assert 0.17 < done < 0.37
    rows = Counter(truth["scenes"][-1]["rows"].index(truth["path"][truth["step"]]) for truth in truths if truth["step"] == 0)
    assert max(rows.values()) < 0.3 * rows.total()


def test_the_last_screen_shows_the_switch_as_wished(train) -> None:
    for index in range(100):
        truth = sample("screens", train, 3, index, 1).truth
        last = truth["scenes"][-1]
        if truth["done"] or truth["step"] == len(truth["path"]) - 1:
            state = last["on"][last["rows"].index(truth["path"][-1])]
            assert state == (truth["wanted"] if truth["done"] else not truth["wanted"])


def test_a_tap_changes_the_picture(train) -> None:
    for index in range(12):
        document = sample("screens", train, 4, index)
        pictures = [segment for segment in document.segments if not isinstance(segment, str)]
        assert 1 <= len(pictures) <= 5
        for one, other in pairwise(pictures):
            assert np.abs(one.astype(int) - other.astype(int)).max() > 60
