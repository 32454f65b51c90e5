"""The same held-out samples in English and in Chinese."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mm_interleaved.cli.main import app
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import TASKS, sample
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.errors import ConfigError
from mm_interleaved.evaluation.languages import CHINESE, OTHER_SAMPLES, check, evaluate_languages, table
from tests.evaluation.conftest import WORLD

LABELLED = ("screens",)
"""Tasks whose pictures show the same things with labels in the language."""


@pytest.mark.parametrize("task", TASKS)
def test_a_samples_pictures_and_things_do_not_depend_on_its_language(task):
    english, chinese = (
        sample(task, World(Pack.load(), WorldConfig(split="test", chinese=share)), 0, 3, side=32) for share in CHINESE.values()
    )
    assert (english.truth["language"], chinese.truth["language"]) == ("en", "zh")
    one, other = ([part for part in each.segments if not isinstance(part, str)] for each in (english, chinese))
    same = len(one) == len(other) and all(np.array_equal(left, right) for left, right in zip(one, other, strict=True))
    assert same == (task not in OTHER_SAMPLES + LABELLED)
    if task in LABELLED:
        assert english.truth["box"] == chinese.truth["box"]


def test_both_languages_are_measured_on_the_same_samples_and_paired(model, tmp_path):
    report = evaluate_languages(model, WORLD, tmp_path, tasks=("question", "handwriting"), count=3, steps=1, guidance=1.0, ablate=False)
    rows = json.loads((tmp_path / "languages.json").read_text("utf-8"))
    assert rows == report["languages"] and {row["task"] for row in rows} == {"question", "handwriting"}
    for language in CHINESE:
        records = [json.loads(line) for line in (tmp_path / language / "samples.jsonl").read_text("utf-8").splitlines()[1:]]
        assert {record["truth"]["language"] for record in records} == {language} and len(records) == 6
        main = {row["task"]: row["score"] for row in report[language]["results"] if row["metric"] == "exact"}
        assert {row["task"]: row[language] for row in rows if row["main"]} == main
    assert all(row["difference"] == row["zh"] - row["en"] and row["n"] == 3 for row in rows)
    assert {row["task"]: row["same_samples"] for row in rows} == {"question": True, "handwriting": False}
    assert (tmp_path / "languages.csv").read_text("utf-8").splitlines()[0].split(",") == list(rows[0])
    lines = table(rows)
    assert len(lines) == 3 and lines[2].endswith("other samples") and not lines[1].endswith("other samples")


def test_only_samples_of_this_call_are_paired(model, tmp_path):
    options = {"tasks": ("question",), "steps": 1, "guidance": 1.0, "ablate": False}
    evaluate_languages(model, WORLD, tmp_path, count=3, **options)
    rows = evaluate_languages(model, WORLD, tmp_path, count=2, **options)["languages"]
    assert {row["n"] for row in rows} == {2}


def test_another_language_and_a_benchmark_are_refused():
    check("zh, en", "playground", ("playground",))
    with pytest.raises(ConfigError, match="expected en,zh"):
        check("en,fr", "playground", ("playground",))
    with pytest.raises(ConfigError, match="vqav2 is in one language"):
        check("en,zh", "vqav2", ("playground", "demonstrations"))


def test_the_command_prints_both_languages(model, tmp_path):
    saved = model.save(tmp_path / "tiny")
    (saved / "recipe.yaml").write_text("data: {world: {things: 10, styles: 2}}\n", "utf-8")
    options = ["--model", saved, "--n", "2", "--tasks", "question", "--split", "train", "--no-ablation", "--languages", "en,zh"]
    run = CliRunner().invoke(app, ["evaluate", "-o", str(tmp_path / "out"), *map(str, options)])
    assert run.exit_code == 0, run.stderr
    assert "zh - en" in run.stdout and "question" in run.stdout and str(tmp_path / "out" / "languages.json") in run.stdout
    wrong = CliRunner().invoke(app, ["evaluate", "--suite", "vqav2", "--languages", "en,zh"])
    assert wrong.exit_code == 2 and "one language" in wrong.stderr
