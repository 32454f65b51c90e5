"""Whole evaluations of the tiny model."""

import json

import pytest

from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.world import WorldConfig
from mm_interleaved.errors import ConfigError
from mm_interleaved.evaluation.making import GREY, Maker, blinded
from mm_interleaved.evaluation.playground import evaluate, world_of
from mm_interleaved.evaluation.reading import SCORERS
from tests.evaluation.conftest import WORLD

QUICK = {"steps": 1, "guidance": 1.0, "count": 2}


def test_all_tasks_are_measured(eager_model, tmp_path):
    report = evaluate(eager_model, WORLD, tmp_path, **QUICK)
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == report["results"]
    main = {row["task"]: row for row in report["results"] if row["metric"] == report["tasks"][row["task"]]["main"]}
    assert set(main) == {"caption", "question", "picture", "style", "story"}
    for row in report["results"]:
        assert 0 <= row["low"] <= row["score"] <= row["high"] <= 1
        assert row["n"] in (1, 2)
        assert row["split"] == "train"
    for task, row in main.items():
        assert row["blind"] is not None and row["chance"] is not None and row["ceiling"] == 1.0, task
        assert set(report["tasks"][task]["absent"]) == {name for name in ("copy",) if row[name] is None}
    # A copy of the picture that is given has its style and its thing, of which one is wanted.
    copied = {row["metric"]: row["copy"] for row in report["results"] if row["task"] == "style"}
    assert copied["style"] == 1.0 and copied["both"] == copied["thing"] == 0.0
    assert report["tasks"]["style"]["first prompt"].startswith("<image>")
    assert "no copy: the prompt holds nothing of the kind that is wanted" in (tmp_path / "report.html").read_text("utf-8")
    assert next(row for row in report["results"] if row["metric"] == "drawn")["score"] == 1.0
    page = (tmp_path / "sheet.html").read_text("utf-8")
    assert page.count('alt="generated"') >= 4
    assert "http" not in page


def test_true_answers_are_right_and_what_lacks_is_explained(model, tmp_path):
    report = evaluate(model, WorldConfig(split="test"), tmp_path, tasks=tuple(SCORERS), ablate=False, **QUICK)
    for row in report["results"]:
        if row["metric"] != report["tasks"][row["task"]]["main"]:
            continue
        assert row["ceiling"] == 1.0, row["task"]
        assert row["chance"] is not None or row["task"] == "logo"  # of an introduction no whole can be guessed
        absent = report["tasks"][row["task"]]["absent"]
        assert set(absent) == {name for name in ("chance", "blind", "copy", "ceiling", "ablation") if row[name] is None}
        assert absent["ablation"] == "not asked for (--no-ablation)"


def test_a_resumed_evaluation_gives_the_same_results(model, tmp_path):
    options = {**QUICK, "count": 3, "tasks": ("question", "caption")}
    whole = evaluate(model, WORLD, tmp_path / "whole", **options)
    lines = (tmp_path / "whole" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    half = tmp_path / "half" / "samples.jsonl"
    half.parent.mkdir()
    half.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed while it wrote its third sample
    told = []
    resumed = evaluate(model, WORLD, half.parent, told=lambda *event: told.append(event), **options)
    assert resumed["results"] == whole["results"]
    assert half.read_bytes().startswith(b"".join(lines[:3]))
    assert len(half.read_bytes().splitlines()) == len(lines)
    assert told[-1][1:] == (6, 6)


def test_finished_samples_are_not_made_again(model, tmp_path, monkeypatch):
    options = {**QUICK, "tasks": ("question",)}
    first = evaluate(model, WORLD, tmp_path, **options)
    monkeypatch.setattr(Maker, "make", None)
    assert evaluate(model, WORLD, tmp_path, **options) == first


def test_a_folder_with_other_settings_is_refused(model, tmp_path):
    options = {**QUICK, "tasks": ("question",), "count": 1}
    evaluate(model, WORLD, tmp_path, **options)
    with pytest.raises(ConfigError, match="different: seed"):
        evaluate(model, WORLD, tmp_path, seed=1, **options)


def test_an_unknown_task_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="caption"):
        evaluate(model, WORLD, tmp_path, tasks=("captions",))


def test_blind_prompts_keep_their_words_and_lose_their_pictures(world):
    prompt = sample("style", world, 0, 0, side=16).segments[:2]
    grey = blinded(prompt)
    assert grey[1] == prompt[1]
    assert (grey[0] == GREY).all()
    assert grey[0].shape == prompt[0].shape


def test_the_world_is_the_one_of_training(tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {world: {things: 7, chinese: 0.0}}\n", "utf-8")
    found = world_of(tmp_path, "test")
    assert (found.things, found.chinese, found.split) == (7, 0.0, "test")
    assert world_of(None, "train").split == "train"


def test_solved_examples_stand_before_the_prompt_and_are_never_asked(model, tmp_path, monkeypatch):
    documents = []
    made = Maker._continue

    def continued(maker, samples, prompts, *rest, **named):
        documents.extend(prompts)
        return made(maker, samples, prompts, *rest, **named)

    monkeypatch.setattr(Maker, "_continue", continued)
    plain = evaluate(model, WORLD, tmp_path / "plain", tasks=["question"], count=2, steps=1, ablate=False)
    asked, documents[:] = documents[:2], []
    shown = evaluate(model, WORLD, tmp_path / "shown", tasks=["question"], count=2, steps=1, ablate=False, shots=2)
    for before, after in zip(asked, documents[:2], strict=True):
        pictures = [[part for part in prompt if not isinstance(part, str)] for prompt in (before, after)]
        assert len(pictures[1]) == 3 * len(pictures[0]) and after[-1] == before[-1]
        assert (pictures[1][-1] == pictures[0][-1]).all() and not (pictures[1][0] == pictures[0][0]).all()
        assert [part for part in after if isinstance(part, str)].count("\n") == 2, "two answers"
    assert shown["shots"] == 2 and "shots" not in plain
    with pytest.raises(ConfigError, match="shots"):
        evaluate(model, WORLD, tmp_path / "shown", tasks=["question"], count=2, steps=1, ablate=False)


def test_a_world_of_another_version_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {world: {moons: 7}}\n", "utf-8")
    with pytest.raises(ConfigError, match="moons"):
        world_of(tmp_path, "test")
