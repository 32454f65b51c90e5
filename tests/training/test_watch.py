from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from mm_interleaved.errors import ConfigError
from mm_interleaved.training.loop import train
from mm_interleaved.training.report import StepDone


def table(output, name):
    with (Path(output) / name).open() as file:
        return list(csv.DictReader(file))


def test_norms_of_parts_add_up_gates_open_and_tasks_are_told_apart(recipe):
    run = recipe(training={"watch": True, "steps": 4, "batch_size": 4})
    plain = recipe("plain", training={"steps": 4, "batch_size": 4})
    train(run)
    train(plain)
    assert (Path(run.output) / "losses.csv").read_bytes() == (Path(plain.output) / "losses.csv").read_bytes()
    rows, losses = table(run.output, "parts.csv"), table(run.output, "losses.csv")
    for row, loss in zip(rows, losses, strict=True):
        norm = math.sqrt(sum(float(value) ** 2 for name, value in row.items() if name.startswith("norm ")))
        assert norm == pytest.approx(float(loss["gradient_norm"]), rel=1e-5)
    assert float(rows[0]["gate language_model"]) == 0 < float(rows[3]["gate language_model"])
    tasks = {name.removeprefix("text_loss ") for name in rows[0] if name.startswith("text_loss ")}
    assert tasks == {"caption", "picture", "style"}
    told = [float(row[name]) for row in rows for name in row if name.startswith("text_loss ") and row[name]]
    assert len(told) >= 4 and all(3 < value < 8 for value in told)


def test_a_watched_run_goes_on_with_its_table(recipe):
    whole, parts = (recipe(name, training={"watch": True}) for name in ("whole", "parts"))
    train(whole)
    steps = []
    train(parts, on_event=steps.append, should_stop=lambda: len([event for event in steps if isinstance(event, StepDone)]) == 3)
    train(parts)
    assert (Path(parts.output) / "parts.csv").read_bytes() == (Path(whole.output) / "parts.csv").read_bytes()


def test_an_unknown_or_missing_tracker_is_refused(recipe, monkeypatch):
    with pytest.raises(ConfigError, match="accelerate has no 'paper'"):
        train(recipe("a", training={"trackers": ["paper"]}))
    monkeypatch.setattr("accelerate.tracking.filter_trackers", lambda names, folder: [])
    with pytest.raises(ConfigError, match="'tensorboard' is not installed"):
        train(recipe("b", training={"trackers": ["tensorboard"]}))


def test_trackers_get_every_row(recipe, monkeypatch):
    from accelerate import Accelerator

    told = []
    monkeypatch.setattr("accelerate.tracking.filter_trackers", lambda names, folder: names)
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, name: told.append(name))
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: told.append((step, values["loss"])))
    monkeypatch.setattr(Accelerator, "end_training", lambda self: told.append("end"))
    run = recipe(training={"trackers": ["tensorboard"], "steps": 2})
    train(run)
    losses = [float(row["loss"]) for row in table(run.output, "losses.csv")]
    assert told == ["tiny", (1, losses[0]), (2, losses[1]), "end"]
