"""`mmi evaluate`."""

import json

import pytest
from typer.testing import CliRunner

from mm_interleaved.cli.main import app


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    saved = model.save(tmp_path_factory.mktemp("model") / "tiny")
    (saved / "recipe.yaml").write_text("data: {world: {things: 10, styles: 2}}\n", "utf-8")
    return saved


def evaluate(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_the_command_prints_a_table_and_writes_the_results(folder, tmp_path):
    options = ("--model", folder, "-o", tmp_path, "--n", "2", "--tasks", "question", "--split", "train")
    run = evaluate(*options)
    assert run.exit_code == 0, run.stderr
    assert "exact" in run.stdout
    again = evaluate(*options, "--json")
    report = json.loads(again.stdout)
    assert report["results"] == json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert report["world"]["things"] == 10
    assert (tmp_path / "results.csv").read_text("utf-8").splitlines()[0].split(",") == list(report["results"][0])


def test_an_unknown_suite_is_the_users_error(folder, tmp_path):
    run = evaluate("--suite", "moon", "--model", folder, "-o", tmp_path)
    assert run.exit_code == 2
    assert "playground" in run.stderr


def test_two_folders_are_compared(folder, tmp_path):
    for name, steps in (("a", 1), ("b", 2)):
        options = ("--model", folder, "-o", tmp_path / name, "--n", "2", "--tasks", "question", "--split", "train", "--no-ablation")
        assert evaluate(*options, "--steps", steps).exit_code == 0
    run = evaluate("compare", tmp_path / "a", tmp_path / "b")
    assert run.exit_code == 0, run.stderr
    assert "exact" in run.stdout
    assert evaluate("compare", tmp_path / "a").exit_code == 2


def test_a_part_is_a_place_among_parts(folder, tmp_path):
    assert evaluate("--model", folder, "-o", tmp_path, "--part", "2/2").exit_code == 2
