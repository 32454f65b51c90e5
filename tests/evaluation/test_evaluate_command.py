"""`mmi evaluate`."""

import json

import pytest
from typer.testing import CliRunner

from mm_interleaved.cli.main import app
from tests.evaluation.material import paint, write


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


def test_an_extractor_of_another_width_than_inceptions_is_refused(folder, tmp_path, extractor):
    run = evaluate("--suite", "coco_images", "--annotations", tmp_path / "a.json", "--extractor", extractor, "--model", folder)
    assert run.exit_code == 2
    assert "expected features of width 2048, got 3" in run.stderr


def test_a_benchmark_is_measured_and_two_of_it_are_compared(folder, tmp_path):
    data = [{"question_id": number, "image_id": f"{number}", "question": "what?", "answers": ["stop"] * 10} for number in range(2)]
    official = ("--annotations", write(tmp_path / "t.json", {"data": data}), "--images", paint(tmp_path / "images", "0.jpg", "1.jpg"))
    for protocol in ("ours", "published"):
        options = ("--suite", "textvqa", "--model", folder, "-o", tmp_path / protocol, "--protocol", protocol)
        run = evaluate(*options, *official)
        assert run.exit_code == 0 and "accuracy" in run.stdout, run.stderr
    run = evaluate("compare", tmp_path / "ours", tmp_path / "published")
    assert run.exit_code == 0 and "textvqa" in run.stdout, run.stderr


def test_a_part_is_a_place_among_parts(folder, tmp_path):
    assert evaluate("--model", folder, "-o", tmp_path, "--part", "2/2").exit_code == 2
