"""Two processes train what one process trains."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from mm_interleaved.errors import ConfigError
from mm_interleaved.training.ranks import Ranks

TIMEOUT = 240
"""Seconds; a hanging process group is killed, not waited for."""


def launch(*arguments: str, processes: int) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "mm_interleaved.cli.main", "train", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr[-2000:]


def rows(folder: Path) -> list[list[float]]:
    with (folder / "losses.csv").open() as file:
        return [[float(cell) if cell else 0.0 for cell in row] for row in list(csv.reader(file))[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["documents", "concepts"])
def test_two_processes_repeat_the_losses_of_one(recipe_file, tmp_path, objective):
    """Per-rank losses are divided by the mean counts of all ranks, so unequal shares of words and pictures do not matter.

    In float64: in float32 AdamW makes full steps of rounding where a gradient is nearly zero.
    """
    path = str(recipe_file(objective=objective, training={"steps": 4, "batch_size": 4, "save_every": 2, "mixed_precision": "float64"}))
    launch(path, "--set", f"output={tmp_path / 'one'}", processes=1)
    launch(path, "--set", f"output={tmp_path / 'two'}", processes=2)
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-9, abs=1e-12)
    assert (tmp_path / "two" / "final" / "model.safetensors").is_file()


def test_a_batch_that_cannot_be_divided_is_refused():
    accelerator = Accelerator(cpu=True)
    ranks = Ranks(accelerator, batch_size=3)
    assert ranks.share(range(3)) == range(3)

    class TwoProcesses:
        num_processes, process_index, is_main_process = 2, 0, True

    with pytest.raises(ConfigError, match="batch_size 3 is no multiple of the 2 processes"):
        Ranks(TwoProcesses(), batch_size=3)


def test_one_process_changes_nothing():
    ranks = Ranks(Accelerator(cpu=True), batch_size=2)
    values = torch.tensor([1.0, float("nan")])
    found = ranks.mean_of_present(values)
    assert found[0] == 1.0 and found[1].isnan()
