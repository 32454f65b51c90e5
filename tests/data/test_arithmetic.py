"""Arithmetic with fruit: every value follows from the equations, the wanted sum is not shown, answers are balanced."""

from collections import Counter
from itertools import product

import pytest

from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.tasks.arithmetic import ANSWERS, FRUITS, LARGEST


def _equations(truth: dict) -> list[tuple[Counter, int]]:
    return [(Counter(scene["fruits"]), scene["total"]) for scene in truth["scenes"][:-1]]


def test_the_answer_follows_from_the_equations_and_from_no_single_one(train) -> None:
    for index in range(60):
        truth = sample("arithmetic", train, 0, index, 1).truth
        equations, asked = _equations(truth), Counter(truth["scenes"][-1]["fruits"])
        fruits = sorted(truth["values"])
        # Every assignment of whole numbers that makes all equations true gives the same sum.
        solutions = [
            dict(zip(fruits, values, strict=True))
            for values in product(range(1, LARGEST + 1), repeat=len(fruits))
            if all(
                sum(dict(zip(fruits, values, strict=True))[fruit] * count for fruit, count in terms.items()) == total
                for terms, total in equations
            )
        ]
        assert {sum(solution[fruit] * count for fruit, count in asked.items()) for solution in solutions} == {int(truth["answer"])}
        assert asked not in [terms for terms, _ in equations]
        assert len(equations) in (2, 3) and len(truth["scenes"]) == len(equations) + 1


def test_sums_are_balanced_and_copying_a_total_does_not_help(train) -> None:
    # 1600 samples, 16 sums: 100 each, four standard deviations are 39.
    answers: Counter = Counter()
    copied = shown = 0
    for index in range(1600):
        truth = sample("arithmetic", train, 1, index, 1).truth
        answers[int(truth["answer"])] += 1
        copied += sum(str(total) == truth["answer"] for total in truth["totals"])
        shown += len(truth["totals"])
    assert set(answers) == set(ANSWERS)
    assert max(answers.values()) < 140 and min(answers.values()) > 60
    assert copied / shown < 0.1


def test_fruits_of_the_test_split_are_never_shown_in_training(train, test) -> None:
    seen, unseen = (
        {name for index in range(150) for name in sample("arithmetic", world, 2, index, 1).truth["values"]} for world in (train, test)
    )
    assert not seen & unseen and seen | unseen == set(FRUITS)
    assert len(unseen) >= 5


@pytest.mark.parametrize("index", range(4))
def test_pictures_show_their_fruits(train, index: int) -> None:
    document = sample("arithmetic", train, 3, index)
    for picture in document.segments[:-2]:
        ground = picture[0, 0]
        assert (abs(picture.astype(int) - ground).max(2) > 24).mean() > 0.02  # type: ignore[union-attr]
