"""Several processes through every engine train what one process trains, also when a rank has only words, or is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from mm_interleaved.errors import BackendError, ConfigError
from mm_interleaved.training.loop import train
from tests.data.sources.conftest import picture_bytes

ENGINES = ("average", "ddp", "fsdp2")

TIMEOUT = 400
"""Seconds; a hanging process group is killed, not waited for."""

PROGRAM = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
torch.set_num_threads(1)
from torch.distributed.tensor import DTensor
from mm_interleaved.training import loop
from mm_interleaved.training.recipe import read_recipe
from mm_interleaved.training.shards import whole_of
recipe = read_recipe(sys.argv[1], sys.argv[2:])
run = loop._Run(recipe, lambda event: None, None)
if recipe.training.engine == "fsdp2" and run.ranks.count > 1:
    assert all(isinstance(parameter, DTensor) for parameter in run.objective.parameters()), "FSDP2 silently ran something else"
    rows = sum(parameter.to_local().numel() for parameter in run.objective.parameters())
    assert rows < 0.6 * sum(parameter.numel() for parameter in run.objective.parameters()), "nothing was divided"
if recipe.training.steps == 1:
    clip = run.engine.clip
    def saving(objective, largest):
        found = {name: whole_of(p.grad).detach().clone() for name, p in objective.named_parameters() if p.grad is not None}
        if run.ranks.main:
            save_file(found, Path(recipe.output) / "gradients.safetensors")
        return clip(objective, largest)
    run.engine.clip = saving
run.go(lambda: False)
assert not torch.distributed.is_initialized(), "a process ended with its group's threads at work"
"""


def command(processes: int, *arguments: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [sys.executable, *launcher, *arguments]


@pytest.fixture
def launch(tmp_path):
    """Trains a recipe with a number of processes; returns the rows of its losses."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def run(path: Path, output: str, *changes: str, processes: int = 2) -> list[list[float]]:
        changes = (*changes, f"output={tmp_path / output}")
        done = subprocess.run(
            command(processes, str(program), str(path), *changes), env=environment(), capture_output=True, timeout=TIMEOUT
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return rows(tmp_path / output)

    return run


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def rows(folder: Path) -> list[list[float]]:
    with (folder / "losses.csv").open() as file:
        return [[float(cell) if cell else 0.0 for cell in row] for row in list(csv.reader(file))[1:]]


@pytest.fixture
def words_and_pictures(tmp_path) -> dict[str, object]:
    """Even samples are words alone, odd ones are painted pictures: of two processes one never has a picture."""
    (tmp_path / "a.png").write_bytes(picture_bytes(1))
    for lane, lines in enumerate(
        (
            [{"texts": [f"a cat {number}"], "images": [None]} for number in range(8)],
            [{"texts": [f"a dog {number}", None], "images": [None, "a.png"]} for number in range(8)],
        )
    ):
        (tmp_path / f"lane-{lane}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "sources": [
            {
                "name": "pages",
                "kind": "obelics",
                "files": [str(tmp_path / "lane-{0..1}.jsonl")],
                "images": str(tmp_path),
                "options": {"need_image": False},
            }
        ],
        "tasks": {"caption": 0, "picture": 0, "style": 0},
        "lanes": 2,
    }


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_equal_one_over_fifty_steps(recipe_file, launch, engine):
    """Float64, no dropout: sums in another order leave 1e-15, which AdamW's epsilon keeps small where a gradient is nearly zero.

    Some of the fifty steps paint nothing or read nothing: a part that is left out must be left alone by every engine.
    """
    path = recipe_file(training={"steps": 50, "batch_size": 4, "save_every": 50, "mixed_precision": "float64"})
    one = launch(path, "one", processes=1)
    assert any(row[3] == 0 for row in one), "no step without a painted picture"
    for two, single in zip(launch(path, "two", f"training.engine={engine}"), one, strict=True):
        assert two == pytest.approx(single, rel=1e-9, abs=1e-12)


@pytest.mark.slow
def test_the_gradients_of_the_first_step_agree_in_single_precision(recipe_file, launch, tmp_path):
    """To 1e-5 of the largest of each parameter; rounding in another order makes 1e-6. A share of a rank left out would make 0.5.

    Where the true gradient is zero (a bias of keys before a softmax) only rounding is left: 1e-8 of the largest gradient of all.
    """
    path = recipe_file(training={"steps": 1, "batch_size": 4})
    launch(path, "one", processes=1)
    single = load_file(tmp_path / "one" / "gradients.safetensors")
    most = max(value.abs().max().item() for value in single.values())
    for engine in ENGINES:
        launch(path, engine, f"training.engine={engine}")
        found = load_file(tmp_path / engine / "gradients.safetensors")
        assert found.keys() == single.keys()
        for name, value in single.items():
            difference = (found[name] - value).abs().max().item()
            assert difference <= 1e-5 * value.abs().max().item() + 1e-8 * most, (engine, name)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["average", "ddp", "fsdp2"])
def test_a_rank_of_words_and_a_rank_of_pictures_equal_one_process(recipe_file, launch, words_and_pictures, engine):
    """Also with two micro-batches each: no rank waits for ever, no loss is divided by the wrong count."""
    training = {"steps": 4, "batch_size": 4, "save_every": 2, "mixed_precision": "float64", "accumulation": 2}
    path = recipe_file(data=words_and_pictures, training=training)
    one = launch(path, "one", "training.accumulation=1", processes=1)
    assert all(row[2] > 0 and row[3] > 0 for row in one)
    for two, single in zip(launch(path, "two", f"training.engine={engine}"), one, strict=True):
        assert two == pytest.approx(single, rel=1e-9, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_run_whose_rank_is_killed_goes_on_identically(recipe_file, launch, tmp_path, engine):
    path = recipe_file(training={"steps": 16, "batch_size": 4, "save_every": 2})
    whole = launch(path, "whole", f"training.engine={engine}")
    random = np.random.default_rng()
    for rank, first in ((0, 2), (1, 7)):
        step = int(random.integers(first, first + 5))
        arguments = (str(tmp_path / "program.py"), str(path), f"output={tmp_path / 'killed'}", f"training.engine={engine}")
        started = subprocess.Popen(command(2, *arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        table, deadline = tmp_path / "killed" / "losses.csv", time.monotonic() + TIMEOUT
        while started.poll() is None and time.monotonic() < deadline and not (table.exists() and table.read_text().count("\n") > step):
            time.sleep(0.02)
        ranks = {child.environ()["RANK"]: child for child in psutil.Process(started.pid).children() if "RANK" in child.environ()}
        ranks[str(rank)].send_signal(signal.SIGKILL)
        assert started.wait(timeout=TIMEOUT) != 0, f"rank {rank} was killed after step {step}, and nobody noticed"
    assert launch(path, "killed", f"training.engine={engine}") == whole


@pytest.mark.slow
def test_a_divided_checkpoint_goes_on_with_one_process_and_the_other_way_round(recipe_file, launch, tmp_path):
    path = recipe_file(training={"steps": 4, "batch_size": 4, "save_every": 2, "mixed_precision": "float64"})
    launch(path, "divided", "training.engine=fsdp2", "training.steps=2", processes=2)
    launch(path, "whole", "training.steps=2", processes=1)
    parts = sorted(file.name for file in (tmp_path / "divided" / "checkpoints" / "step-000002").glob("model*"))
    assert parts == ["model-rank-00-of-02.safetensors", "model-rank-01-of-02.safetensors"]
    alone = launch(path, "divided", processes=1)
    together = launch(path, "whole", "training.engine=fsdp2", processes=2)
    for first, second in zip(alone, together, strict=True):
        assert first == pytest.approx(second, rel=1e-9, abs=1e-12)


def test_lanes_have_to_be_shared_by_the_processes_and_engines_know_their_limits(recipe, monkeypatch):
    from mm_interleaved.training import engines

    class Two:
        count = 2

    with pytest.raises(ConfigError, match="objective 'vision' is trained with engine average only"):
        engines.make_engine(recipe(objective="vision", trainable=["*"], training={"engine": "ddp"}), None, Two())
    with pytest.raises(ConfigError, match="does not scale losses"):
        engines.make_engine(recipe(training={"engine": "fsdp2", "mixed_precision": "fp16"}), None, Two())
    with pytest.raises(ConfigError, match="no whole model for live sample pages"):
        engines.make_engine(recipe(training={"engine": "fsdp2", "sample_every": 2}), None, Two())
    assert type(engines.make_engine(recipe(training={"engine": "fsdp2"}), None, type("One", (), {"count": 1})())) is engines.Engine


def test_one_process_may_name_any_engine(recipe):
    assert train(recipe(training={"engine": "fsdp2", "steps": 1})).completed


DEEPSPEED = {"engine": "deepspeed", "zero_stage": 2, "batch_size": 8, "accumulation": 2, "clip": 0.5}


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_configuration_of_deepspeed_is_that_of_the_recipe(recipe, stage, precision):
    from mm_interleaved.training.engines import deepspeed_configuration

    chosen = recipe(training=DEEPSPEED | {"zero_stage": stage, "mixed_precision": precision})
    built = deepspeed_configuration(chosen, processes=2, device=torch.device("cpu"))
    assert built["zero_optimization"]["stage"] == stage
    sizes = [built[name] for name in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")]
    assert sizes == [8, 2, 2] and sizes[0] == sizes[1] * sizes[2] * 2
    assert built["gradient_clipping"] == 0.5
    assert built["torch_autocast"]["enabled"] == (precision == "bf16")
    assert "auto" not in json.dumps(built).replace("torch_autocast", ""), "a value was left to guess"
    assert "optimizer" not in built, "the recipe's AdamW is the optimizer"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed_equals_one_process_and_goes_on_identically(recipe_file, launch, words_and_pictures, stage):
    """Two gloo processes, one of which never has a picture, two micro-batches each, in single precision.

    The first step agrees to rounding; a share of a rank left out would halve its gradient. Afterwards AdamW makes whole steps out of the
    rounding of gradients that are truly zero: 1e-3 of the gradient norm was seen after four steps.
    """
    training = {"steps": 4, "batch_size": 4, "save_every": 2, "accumulation": 2, "engine": "deepspeed", "zero_stage": stage}
    path = recipe_file(data=words_and_pictures, training=training)
    one = launch(path, "one", "training.accumulation=1", processes=1)
    two = launch(path, "two")
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    for row, single in zip(two, one, strict=True):
        assert row == pytest.approx(single, rel=5e-3)
    assert launch(path, "parts", "training.steps=2") == two[:2]
    assert launch(path, "parts") == two


def test_deepspeed_refuses_what_it_cannot_do_and_says_what_to_install(recipe, monkeypatch):
    from mm_interleaved.training import engines

    two = type("Two", (), {"count": 2})()
    accelerator = type("Here", (), {"device": torch.device("cpu")})()
    for precision in ("fp16", "float64"):
        with pytest.raises(ConfigError, match=f"not in {precision}"):
            engines.make_engine(recipe(training=DEEPSPEED | {"mixed_precision": precision}), accelerator, two)
    with pytest.raises(ConfigError, match="batch_size 6 is no multiple of 2 processes × 2 micro-batches"):
        engines.make_engine(recipe(training=DEEPSPEED | {"batch_size": 6}), accelerator, two)
    with pytest.raises(ConfigError, match="zero_stage"):
        recipe(training=DEEPSPEED | {"zero_stage": 3})
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(BackendError, match=r"pip install 'mm-interleaved\[deepspeed\]'"):
        engines.make_engine(recipe(training=DEEPSPEED), accelerator, two)
