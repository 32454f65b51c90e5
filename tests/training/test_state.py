from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from torch import nn

from mm_interleaved.errors import CheckpointError, StorageError
from mm_interleaved.training.report import Table
from mm_interleaved.training.state import load_optimizer, load_weights, newest_checkpoint, optimizer_tensors, save_checkpoint


def save(folder, step, value=1.0):
    return save_checkpoint(folder, step=step, tensors={"model": {"weight": torch.full((3,), value)}}, config="{}", state={"note": "x"})


def test_a_checkpoint_comes_back_and_only_the_newest_two_stay(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, float(step))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 3
    assert newest.state["note"] == "x"
    assert torch.equal(newest.tensors("model")["weight"], torch.full((3,), 3.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000002", "step-000003"]
    assert (tmp_path / "latest").resolve() == newest.folder.resolve()


@pytest.mark.parametrize("damage", ["manifest missing", "bytes changed", "file missing"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    if damage == "manifest missing":
        (folder / "manifest.json").unlink()
    elif damage == "bytes changed":
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "model.safetensors").write_bytes(content)
    else:
        (folder / "state.json").unlink()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 1


def test_a_folder_with_damaged_checkpoints_only_is_an_error_not_a_fresh_start(tmp_path):
    (save(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints is complete"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_failed_write_leaves_the_earlier_checkpoint_and_no_rubbish(tmp_path, monkeypatch, failing):
    save(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, full)
        with pytest.raises(StorageError, match="the disk is full"):
            save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000001"]
    assert newest_checkpoint(tmp_path).step == 1  # type: ignore[union-attr]


def test_what_a_killed_process_left_behind_is_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".writing-step-000002-77").mkdir()
    assert newest_checkpoint(tmp_path).step == 1  # type: ignore[union-attr]
    assert not list(tmp_path.glob(".writing-step*"))


def test_moments_come_back_exactly_and_surplus_ones_are_refused():
    def make():
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        group = {"params": list(layer.parameters()), "names": ["weight", "bias"], "lr": 0.1}
        return layer, torch.optim.AdamW([group], fused=True)

    def step(layer, optimizer, seed):
        optimizer.zero_grad()
        layer(torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        optimizer.step()

    first, first_optimizer = make()
    step(first, first_optimizer, 1)
    second, second_optimizer = make()
    load_weights(second, first.state_dict(), where="here")
    load_optimizer(second_optimizer, optimizer_tensors(first_optimizer))
    step(first, first_optimizer, 2)
    step(second, second_optimizer, 2)
    assert torch.equal(first.weight, second.weight)
    with pytest.raises(CheckpointError, match="unknown parameters"):
        load_optimizer(second_optimizer, {"exp_avg/other": torch.zeros(1)})


def test_weights_with_other_names_or_shapes_are_refused():
    layer = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match="bias"):
        load_weights(layer, {"weight": torch.zeros(2, 3)}, where="there")
    with pytest.raises(CheckpointError, match="weight"):
        load_weights(layer, {"weight": torch.zeros(3, 3), "bias": torch.zeros(2)}, where="there")


def test_a_table_continues_after_a_step_byte_by_byte_and_drops_later_and_torn_rows(tmp_path):
    path = tmp_path / "losses.csv"
    with Table(path, ("loss",), after_step=0) as table:
        for step in (1, 2, 3):
            table.add(step, {"loss": 1 / 3 * step})
    before = path.read_bytes()
    path.write_bytes(before + b"4,0.1")
    with Table(path, ("loss",), after_step=2) as table:
        table.add(3, {"loss": 1.0})
        table.add(4, {"loss": float("nan")})
    assert path.read_bytes() == before.splitlines(keepends=True)[0] + b"1,0.3333333333333333\n2,0.6666666666666666\n3,1.0\n4,\n"
    with pytest.raises(CheckpointError, match="no row of step 9"):
        Table(path, ("loss",), after_step=9)
    with pytest.raises(CheckpointError, match="has the columns"):
        Table(path, ("loss", "other"), after_step=2)


def test_the_manifest_names_every_other_file(tmp_path):
    folder = save(tmp_path, 1)
    entries = json.loads((folder / "manifest.json").read_text())
    assert set(entries) == {path.name for path in folder.iterdir()} - {"manifest.json"}
