"""Scores of the tasks that end in words or in a box: the truth scores 1, wrong answers and chance less."""

from itertools import pairwise

import pytest

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.evaluation import reading
from mm_interleaved.evaluation.results import results

WORLD = World(Pack.load(), WorldConfig(split="test"))


@pytest.mark.parametrize("task", reading.SCORERS)
def test_the_true_text_scores_one_and_another_samples_text_less(task: str) -> None:
    documents = [sample(task, WORLD, 0, index, 1) for index in range(40)]
    main = reading.MAIN[task]
    own = [reading.SCORERS[task](document.segments[-1], document.truth)[main] for document in documents]
    assert own == [1.0] * 40
    others = [reading.SCORERS[task](other.segments[-1], document.truth)[main] for document, other in pairwise(documents)]
    assert sum(others) / len(others) < 0.35
    assert reading.SCORERS[task]("", documents[0].truth)[main] in (0.0, 1.0)


@pytest.mark.parametrize("task", reading.SCORERS)
def test_chance_and_copies_are_shares_below_one(task: str) -> None:
    for index in range(40):
        truth = sample(task, WORLD, 1, index, 1).truth
        found = [*reading.chance(task, truth).values(), *reading.copied(task, truth).values()]
        assert found and all(0 <= share <= 0.5 for share in found)


def test_a_tap_is_right_only_with_its_box() -> None:
    truth = {"words": "tap display", "box": [0.1, 0.2, 0.9, 0.3]}
    assert reading.tap(" tap display (100,200)(900,300).", truth) == {"both": 1.0, "words": 1.0, "box": 1.0}
    assert reading.tap(" tap display (100,300)(900,400).", truth) == {"both": 0.0, "words": 1.0, "box": 0.0}
    assert reading.tap(" tap sound (100,200)(900,300).", truth)["both"] == 0.0
    done = {"words": "done: grayscale is on", "box": None}
    assert reading.tap(" done: grayscale is on.", done)["both"] == 1.0
    assert reading.tap(" done: grayscale is on (1,1)(2,2).", done)["both"] == 0.0


def test_a_box_on_a_look_alike_is_counted_as_such() -> None:
    truth = {"box": [0.1, 0.1, 0.3, 0.3], "others": [[0.6, 0.6, 0.8, 0.8]]}
    assert reading.box("(600,600)(800,800)", truth) == {"found": 0.0, "overlap": 0.0, "other": 1.0}
    assert reading.box("(100,100)(300,280)", truth)["found"] == 1.0
    assert reading.box("somewhere", truth) == {"found": 0.0, "overlap": 0.0, "other": 0.0}


def test_facts_are_counted_one_by_one() -> None:
    truth = {"slots": ["japan", "asia", "tokyo"]}
    found = reading.facts("this is the flag of japan. its capital is seoul.", truth)
    assert found["facts"] == pytest.approx(1 / 3) and found["all"] == 0.0 and found["name"] == 1.0


def test_results_have_rows_for_these_tasks_with_chance_blind_and_copy() -> None:
    records = []
    for task in reading.SCORERS:
        for index in range(6):
            document = sample(task, WORLD, 2, index, 1)
            outcome = {"made": {"text": document.segments[-1]}, "blind": {"text": ""}}
            records.append({"task": task, "index": index, "truth": document.truth, "outcome": outcome, "seconds": 0.0})
    rows = [row for row in results(records, WORLD, 0) if row["metric"] == reading.MAIN[row["task"]]]
    assert {row["task"] for row in rows} == set(reading.SCORERS)
    for row in rows:
        assert row["score"] == 1.0 and row["blind"] < 1.0
        assert (row["copy"] is not None) == (row["task"] in ("arithmetic", "handwriting", "referring"))
