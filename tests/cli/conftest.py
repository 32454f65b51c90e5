"""A saved tiny model, prompts, and the command line in this process."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow
from typer.testing import CliRunner

from mm_interleaved.cli.main import app
from mm_interleaved.generation import load as loading
from mm_interleaved.generation.load import Model
from mm_interleaved.testing import tiny_model, tiny_processor
from tests.single_thread import one_thread as one_thread

QUICK = ("--steps", "2", "--max-tokens", "6", "--temperature", "1", "--force-image")


@pytest.fixture(scope="package", autouse=True)
def loaded_once():
    # Each folder is loaded once per test run; folders do not change, and failures are not kept.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", cache(loading.load))
        yield


@pytest.fixture(scope="package")
def model(tmp_path_factory):
    return Model(tiny_model(), tiny_processor()).save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "prompts" / "camel.md"
    path.parent.mkdir()
    path.write_text("draw a 3D camel on a white ground.\n", encoding="utf-8")
    return path


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    pillow.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def mmi():
    """Runs the command in this process: result with `exit_code`, `stdout`, `stderr`."""

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def result_of(run):
    assert run.exit_code == 0, run.stderr
    return json.loads(run.stdout)


def assert_user_error(run, *words):
    """Exit status 2, one line that holds the words, no traceback."""
    assert run.exit_code == 2, (run.exit_code, run.stderr)
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, run.stderr
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in lines[0], lines[0]


def names(folder: Path):
    return sorted(path.name for path in folder.iterdir())
