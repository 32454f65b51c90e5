"""Paired comparison of two evaluations."""

import json

import pytest

from mm_interleaved.errors import ConfigError, DataError
from mm_interleaved.evaluation.compare import compare, sign_flip, table


def folder(path, answers, *, seed=0):
    path.mkdir()
    lines = [{"protocol": {"format": 2, "seed": seed, "material_hash": "x", "world": {}}}]
    for index, text in enumerate(answers):
        truth = {"language": "en", "form": "where", "answer": "left", "answers": 4}
        lines.append({"task": "question", "index": index, "truth": truth, "outcome": {"made": {"text": text}}, "seconds": 1.0})
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_only_differing_samples_decide(tmp_path):
    a = folder(tmp_path / "a", ["left."] * 4 + ["no."] * 6)
    b = folder(tmp_path / "b", ["left."] * 9 + ["no."])
    (row,) = compare(a, b)
    assert (row["a"], row["b"], row["n"], row["main"]) == (0.4, 0.9, 10, True)
    assert row["difference"] == pytest.approx(0.5)
    assert row["p"] == pytest.approx(2 / 2**5)  # five samples differ, all for B: two of 32 flips are as far
    assert row["low"] > 0
    assert "question" in table([row])[1]


def test_equal_results_have_probability_one():
    assert sign_flip([0.0, 0.0], 0) == 1.0
    assert sign_flip([1.0, -1.0], 0) == 1.0


def test_many_differences_are_flipped_at_random_and_never_impossible():
    assert sign_flip([1.0] * 40, 0) == pytest.approx(1 / 10_001)
    assert sign_flip([1.0, -1.0] * 20, 0) == 1.0


def test_other_samples_cannot_be_compared(tmp_path):
    a, b = folder(tmp_path / "a", ["left."]), folder(tmp_path / "b", ["left."], seed=1)
    with pytest.raises(ConfigError, match=r"different samples \(seed\)"):
        compare(a, b)
    with pytest.raises(DataError, match="no samples of an evaluation"):
        compare(a, tmp_path / "nothing")
