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
    assert report["results"] == json.loads((tmp_path / "results.json").read_text("utf-8"))["results"]
    assert report["settings"]["world"]["things"] == 10


def test_an_unknown_suite_is_the_users_error(folder, tmp_path):
    run = evaluate("--suite", "moon", "--model", folder, "-o", tmp_path)
    assert run.exit_code == 2
    assert "playground" in run.stderr
