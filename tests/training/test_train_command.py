from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mm_interleaved.cli.main import app
from mm_interleaved.cli.watching import duration


def mmi(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_trains_then_resumes_and_says_so(recipe_file, tmp_path):
    changes = ("--set", "training.save_every=1", "--set", f"output={tmp_path / 'run'}")
    first = mmi("train", recipe_file(), "--set", "training.steps=2", *changes)
    assert first.exit_code == 0, first.output
    assert "resumed_from" not in first.output
    rows = (tmp_path / "run" / "losses.csv").read_text()
    assert rows.startswith("step,loss,")
    second = mmi("train", recipe_file(), "--set", "training.steps=3", "--set", "training.sample_every=3", *changes, "--json")
    assert second.exit_code == 0, second.output
    result = json.loads(second.stdout)
    assert result["first_step"] == 2
    assert result["resumed_from"].endswith("step-000002")
    assert result["completed"]
    assert (tmp_path / "run" / "samples" / "step-000003.html").stat().st_size > 10_000
    assert (tmp_path / "run" / "losses.csv").read_text().startswith(rows)


def test_an_unknown_key_is_one_line_and_status_2(recipe_file):
    result = mmi("train", recipe_file(), "--set", "training.stpes=3")
    assert result.exit_code == 2
    assert "the nearest is 'steps'" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("seconds", "text"), [(5, "0 min 05 s"), (125.4, "2 min 05 s"), (3780, "1 h 03 min")])
def test_time_left_is_readable(seconds, text):
    assert duration(seconds) == text
