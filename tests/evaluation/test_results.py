"""Figures from finished samples."""

import pytest

from mm_interleaved.evaluation.results import FIELDS, interval, results


def question(index, text, blind, form="where", answers=5):
    truth = {"language": "en", "form": form, "answer": "left", "answers": answers}
    return {
        "task": "question",
        "index": index,
        "truth": truth,
        "outcome": {"made": {"text": text}, "blind": {"text": blind}},
        "seconds": 0.1,
    }


def drawn(index, thing, judged):
    truth = {"language": "en", "thing": thing, "style": "3d"}
    outcome = {"made": {"judged": judged}, "ceiling": {"judged": [thing, "3d"]}}
    return {"task": "picture", "index": index, "truth": truth, "outcome": outcome, "seconds": 0.1}


def row(rows, metric):
    return next(found for found in rows if found["metric"] == metric)


def test_questions_are_scored_together_and_per_form(world):
    records = [question(0, "left.", "left."), question(1, "left.", "no."), question(2, "top.", "no.", form="is_there", answers=2)]
    rows = results(records, world, 0)
    assert [found["metric"] for found in rows] == ["exact", "exact/is_there", "exact/where"]
    whole = rows[0]
    assert (whole["score"], whole["blind"], whole["n"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3), 3)
    assert whole["chance"] == pytest.approx((0.2 + 0.2 + 0.5) / 3)
    assert whole["low"] <= whole["score"] <= whole["high"]
    assert row(rows, "exact/where")["score"] == 1.0


def test_the_blind_score_of_a_drawing_is_that_of_the_next_samples_words(world):
    records = [drawn(0, "dog", ["cat", "3d"]), drawn(1, "cat", ["cat", "3d"]), drawn(2, "dog", None)]
    thing = row(results(records, world, 0), "thing")
    assert thing["score"] == pytest.approx(1 / 3)
    # The pictures of 1, 2 and 0 against the truths of 0, 1 and 2: a cat for a dog, nothing for a cat, a cat for a dog.
    assert thing["blind"] == 0.0
    assert thing["ceiling"] == 1.0


def test_a_single_drawing_has_no_blind_score(world):
    assert row(results([drawn(0, "dog", None)], world, 0), "both")["blind"] is None


def test_the_chance_of_both_is_that_of_a_guesser_who_knows_the_pairs(world):
    assert row(results([drawn(0, "dog", None)], world, 0), "both")["chance"] == pytest.approx(1 / len(world.pairs))


def test_a_prompt_that_the_model_cannot_take_has_nothing_right(world):
    refused = {**question(0, "", "no.", answers=2), "outcome": {"made": {"text": "left.", "reason": "too long"}, "blind": {"text": ""}}}
    rows = results([refused, question(1, "left.", "no.")], world, 0)
    assert (rows[0]["score"], rows[0]["n"]) == (0.5, 2)


def test_every_row_has_exactly_the_named_fields(world):
    for found in results([question(0, "left.", "left."), drawn(0, "dog", ["dog", "3d"])], world, 0):
        assert tuple(found) == FIELDS


def test_a_larger_task_is_right_in_a_share_of_its_aspects(world):
    outcome = {
        "made": {"scores": {"thing 0": 1.0, "style": 0.5, "text": 0.0}},
        "chance": {"scores": {"thing 0": 0.1, "style": 0.2}},
        "ceiling": {"scores": {"thing 0": 1.0, "style": 1.0, "text": 1.0}},
        "copy": None,
    }
    rows = results([{"task": "two_roles", "index": 0, "truth": {"language": "en"}, "outcome": outcome}], world, 0)
    assert row(rows, "right")["score"] == pytest.approx(0.5)
    assert row(rows, "right")["chance"] == pytest.approx(0.1)  # words cannot be guessed
    assert (row(rows, "all")["score"], row(rows, "all")["ceiling"]) == (0.0, 1.0)
    assert (row(rows, "style")["chance"], row(rows, "style")["copy"], row(rows, "style")["blind"]) == (0.2, None, None)


def test_a_missing_sample_is_never_scored(world):
    assert results([], world, 0) == []
    assert results([question(7, "left.", "no.")], world, 0)[0]["n"] == 1


def test_an_interval_is_a_function_of_values_and_seed():
    values = [1.0] * 12 + [0.0] * 8
    assert interval(values, 3) == interval(values, 3)
    low, high = interval(values, 3)
    assert 0.3 < low < 0.6 < high < 0.9
    assert interval([1.0] * 5, 0) == (1.0, 1.0)
