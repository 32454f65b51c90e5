"""Every row of the mission, measured on a tiny model: all tasks, killed and resumed, in one process and in two."""

import json
from pathlib import Path

import pytest

from mm_interleaved.data.playground.judges.scores import scores
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import TASKS, larger, sample
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.errors import LayoutError
from mm_interleaved.evaluation.ablation import closed_synchronizers
from mm_interleaved.evaluation.making import Maker
from mm_interleaved.evaluation.playground import ROWS, evaluate
from mm_interleaved.evaluation.results import FIELDS
from tests.evaluation.conftest import WORLD

QUICK = {"steps": 1, "guidance": 1.0}
SOME = ("context_style", "referring")


def read(folder: Path) -> bytes:
    return (folder / "results.json").read_bytes()


def test_every_task_of_the_playground_is_a_row_of_the_report():
    assert list(ROWS) and set(ROWS) == set(TASKS)
    rows = {row.split(",")[0] for row in ROWS.values()}
    assert rows == {"–", *map(str, range(1, 19)), "11b"}


FEW = ("blocks", "two_roles", "context_style", "layout_map", "conversation")
"""Larger tasks of every kind that are judged quickly: words and pictures, pictures alone, a map, words alone."""


@pytest.mark.parametrize("tasks", [FEW, pytest.param(tuple(larger.TASKS), marks=pytest.mark.slow)], ids=["few", "all"])
def test_demonstrations_are_measured_with_all_their_baselines(eager_model, tmp_path, tasks):
    report = evaluate(eager_model, WorldConfig(split="test"), tmp_path, tasks=tasks, count=2, **QUICK)
    rows = json.loads(read(tmp_path))
    assert {row["task"] for row in rows} == set(tasks)
    main = {row["task"]: row for row in rows if row["metric"] == report["tasks"][row["task"]]["main"]}
    for row in rows:
        assert tuple(row) == FIELDS
        assert 0 <= row["low"] <= row["score"] <= row["high"] <= 1
    for task, row in main.items():
        assert row["n"] == 2
        assert row["blind"] is not None and row["ablation"] is not None
        # The segmenter, a network, errs; all other judges read true pictures without a mistake.
        assert row["ceiling"] == 1.0 or task == "layout_map", task
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count('alt="made"') > 3 and "http" not in page
    assert all(f"<h2>{task} " in page for task in tasks)


@pytest.mark.parametrize("killed_after", [1, 9, 11])
def test_a_kill_at_any_sample_and_a_resume_give_the_same_file(eager_model, tmp_path, killed_after, whole):
    lines = (whole / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "samples.jsonl").write_bytes(b"".join(lines[: killed_after + 1]) + lines[killed_after + 1][:30])
    evaluate(eager_model, WORLD, tmp_path, tasks=SOME, count=10, **QUICK)
    assert read(tmp_path) == read(whole)


def test_two_parts_give_what_one_process_gives_and_no_sample_twice(eager_model, tmp_path, whole):
    for place in range(2):
        assert evaluate(eager_model, WORLD, tmp_path, tasks=SOME, count=10, part=(place, 2), **QUICK) == {}
    parts = [(tmp_path / f"samples-{place}-of-2.jsonl").read_text("utf-8").splitlines()[1:] for place in range(2)]
    made = [(record["task"], record["index"]) for lines in parts for record in map(json.loads, lines)]
    assert sorted(made) == sorted((task, index) for task in SOME for index in range(10))
    assert min(map(len, parts)) > 0
    evaluate(eager_model, WORLD, tmp_path, tasks=SOME, count=10, **QUICK)
    assert (tmp_path / "samples.jsonl").read_text("utf-8").count("\n") == 1  # nothing was left to make
    assert read(tmp_path) == read(whole)


@pytest.fixture
def whole(eager_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    evaluate(eager_model, WORLD, folder, tasks=SOME, count=10, **QUICK)
    return folder


def test_a_prompt_that_the_model_cannot_take_is_wrong_and_says_why(model, tmp_path, monkeypatch):
    def refuse(self, name, document, **options):
        raise LayoutError("the document has more pictures than the model takes")

    monkeypatch.setattr("mm_interleaved.generation.scheduler.Scheduler.add", refuse)
    report = evaluate(model, WORLD, tmp_path, tasks=("screens", "blocks", "picture"), count=2, **QUICK)
    assert {row["score"] for row in report["results"]} == {0.0}
    assert report["tasks"]["screens"]["reasons"] == {"the document has more pictures than the model takes": 2}
    assert "cannot" not in (tmp_path / "results.json").read_text("utf-8")
    assert "count as wrong" in (tmp_path / "report.html").read_text("utf-8")


def test_closed_synchronizers_change_what_is_read_and_are_opened_again(model, world):
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    with closed_synchronizers(model.network):
        during = model.network.state_dict()
        changed = {name for name, tensor in before.items() if not tensor.equal(during[name])}
        assert changed and all(name.endswith(".gate") or ".output_convolution." in name for name in changed)
    assert all(tensor.equal(before[name]) for name, tensor in model.network.state_dict().items())


@pytest.mark.parametrize("side", [32, 64, 224])
def test_true_episodes_are_read_without_a_mistake_at_every_side(side):
    """At 32 pixels a face is four pixels: candidates of another side took a worried one for a laughing one."""
    world = World(Pack.load(), WorldConfig(split="test"))
    for index in range(2):
        asked = sample("episode", world, 0, index, side=side)
        found = scores(world, asked, asked.segments[asked.prompt :])
        assert set(found.values()) == {1.0} and "feeling 0" in found


def test_our_own_faults_are_not_scored(model, tmp_path, monkeypatch):
    def broken(self, *arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Maker, "_production", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        evaluate(model, WORLD, tmp_path, tasks=("question",), count=1, **QUICK)
