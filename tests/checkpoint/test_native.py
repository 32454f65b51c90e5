"""Our own checkpoints are written whole and read exactly, or an error says which file and key is wrong."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mm_interleaved.checkpoint.native import FORMAT_VERSION, load_model, load_parts, model_hash, save_model, weight_files
from mm_interleaved.errors import CheckpointError, StorageError
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.testing import tiny_model


@pytest.fixture(scope="module")
def model() -> MMInterleavedForConditionalGeneration:
    return tiny_model(seed=3)


@pytest.fixture
def folder(tmp_path: Path, model: MMInterleavedForConditionalGeneration) -> Path:
    return save_model(model, None, tmp_path / "checkpoint")


def _change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    (file,) = weight_files(folder)
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def _change_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def _same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_saved_model_comes_back_bit_for_bit(folder: Path, model: MMInterleavedForConditionalGeneration) -> None:
    loaded = load_model(folder)
    assert _same(loaded, model)
    for part in ("adapter_part", "resampler_part", "mmfs_part", "behaviour_part"):
        assert getattr(loaded.config, part) == getattr(model.config, part)
    buffers = dict(model.named_buffers())  # those that are not stored, too
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in loaded.named_buffers())
    assert not loaded.training


def test_shards_come_back_bit_for_bit(tmp_path: Path, model: MMInterleavedForConditionalGeneration) -> None:
    model.save_pretrained(tmp_path / "shards", max_shard_size="200KB", save_original_format=False)
    assert len(weight_files(tmp_path / "shards")) > 1
    assert _same(load_model(tmp_path / "shards"), model)


def test_a_checkpoint_can_be_loaded_in_another_dtype(folder: Path) -> None:
    assert load_model(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_saving_again_replaces_the_checkpoint_and_leaves_nothing_beside_it(folder: Path) -> None:
    other = tiny_model(seed=4)
    before = model_hash(folder)
    save_model(other, None, folder)
    assert model_hash(folder) != before
    assert _same(load_model(folder), other)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_processor_is_saved_beside_the_weights(tmp_path: Path, model: MMInterleavedForConditionalGeneration) -> None:
    class Notes:
        def save_pretrained(self, save_directory: str) -> None:
            (Path(save_directory) / "notes.json").write_text("{}", encoding="utf-8")

    assert (save_model(model, Notes(), tmp_path / "both") / "notes.json").is_file()


def test_missing_key_is_refused_by_name(folder: Path) -> None:
    _change_weights(folder, lambda weights: weights.pop("begin_image_embedding"))
    with pytest.raises(CheckpointError, match=r"checkpoint: .*1 missing: 'begin_image_embedding'"):
        load_model(folder)


def test_surplus_key_is_refused_with_the_nearest_known_one(folder: Path) -> None:
    _change_weights(folder, lambda weights: weights.update({"begin_image_embeding": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"1 not wanted: 'begin_image_embeding' \(nearest: 'begin_image_embedding'\)"):
        load_model(folder)


def test_other_shape_is_refused_with_both_shapes(folder: Path) -> None:
    _change_weights(folder, lambda weights: weights.update({"begin_image_embedding": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"'begin_image_embedding' is \(2,\), the model has"):
        load_model(folder)


def test_truncated_weights_are_refused_by_file(folder: Path) -> None:
    (file,) = weight_files(folder)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=rf"{file.name} is damaged or cut off"):
        load_model(folder)


def test_missing_shard_is_refused_by_file(tmp_path: Path, model: MMInterleavedForConditionalGeneration) -> None:
    model.save_pretrained(tmp_path, max_shard_size="200KB", save_original_format=False)
    gone = weight_files(tmp_path)[0]
    gone.unlink()
    with pytest.raises(CheckpointError, match=f"{gone.name} is missing"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(folder)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_model(tmp_path / "nowhere")


def test_newer_layout_is_refused_with_both_versions(folder: Path) -> None:
    _change_config(folder, format_version=FORMAT_VERSION + 1)
    with pytest.raises(CheckpointError, match=rf"format_version is {FORMAT_VERSION + 1}, this installation reads up to {FORMAT_VERSION}"):
        load_model(folder)


def test_other_kind_of_model_is_refused(folder: Path) -> None:
    _change_config(folder, model_type="llama")
    with pytest.raises(CheckpointError, match="model_type is 'llama'"):
        load_model(folder)


def test_unknown_field_of_the_configuration_is_refused_by_file(folder: Path) -> None:
    _change_config(folder, adapter={"bloks": 2})
    with pytest.raises(CheckpointError, match=r"config.json.*'bloks'.*'blocks'"):
        load_model(folder)


def test_broken_configuration_is_refused_by_file(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        load_model(folder)


def test_a_full_disk_leaves_the_former_checkpoint_and_no_pieces(folder: Path, model: MMInterleavedForConditionalGeneration) -> None:
    before = model_hash(folder)

    class Full:
        def save_pretrained(self, save_directory: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="disk is full"):
        save_model(model, Full(), folder)
    assert model_hash(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failed_exchange_leaves_the_former_checkpoint(
    folder: Path, model: MMInterleavedForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model_hash(folder)
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if Path(target) == folder and ".partial-" in self.name and not self.name.endswith(".old"):
            raise PermissionError(errno.EACCES, "denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(StorageError, match="can be written"):
        save_model(model, None, folder)
    assert model_hash(folder) == before


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path, model: MMInterleavedForConditionalGeneration) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(StorageError, match="is no checkpoint"):
        save_model(model, None, tmp_path)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_the_hash_names_the_weights_and_nothing_else(folder: Path, model: MMInterleavedForConditionalGeneration, tmp_path: Path) -> None:
    first = model_hash(folder)
    assert len(first) == 12
    assert model_hash(save_model(model, None, tmp_path / "copy")) == first
    _change_config(folder, image_loss_weight=3.0)
    assert model_hash(folder) == first
    _change_weights(folder, lambda weights: weights["begin_image_embedding"].add_(1))
    os.utime(weight_files(folder)[0], ns=(1, 1))
    assert model_hash(folder) != first


def test_parts_are_taken_from_another_checkpoint_and_the_rest_is_left(folder: Path, model: MMInterleavedForConditionalGeneration) -> None:
    target = tiny_model(seed=5)
    untouched = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    names = load_parts(target, folder, ["visual_tokenizer", "image_decoder.vae"])
    assert names
    assert all(name.startswith(("visual_tokenizer.", "image_decoder.vae.")) for name in names)
    own, other = target.state_dict(), model.state_dict()
    for name, tensor in own.items():
        assert torch.equal(tensor, other[name] if name in names else untouched[name])


def test_a_pattern_leaves_names_out_though_the_checkpoint_has_them_in_another_shape_or_not_at_all(
    folder: Path, model: MMInterleavedForConditionalGeneration
) -> None:
    _change_weights(folder, lambda weights: weights.update({"visual_tokenizer.resampler.queries": torch.zeros(1)}))
    names = load_parts(
        tiny_model(seed=5), folder, ["visual_tokenizer", "language_model", "!*synchronizer*", "!visual_tokenizer.resampler.queries"]
    )
    below = [name for name in model.state_dict() if name.startswith(("visual_tokenizer.", "language_model."))]
    left_out = [name for name in below if "synchronizer" in name or name == "visual_tokenizer.resampler.queries"]
    assert len(left_out) > 1
    assert sorted(names) == sorted(set(below) - set(left_out))


def test_a_pattern_that_leaves_nothing_out_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'!\*synchroniser\*' leaves nothing out"):
        load_parts(tiny_model(seed=5), folder, ["language_model", "!*synchroniser*"])


def test_parts_of_another_shape_are_refused_before_anything_is_copied(folder: Path) -> None:
    target = tiny_model(seed=5)
    untouched = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    _change_weights(folder, lambda weights: weights.update({"visual_tokenizer.projection.bias": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"below visual_tokenizer.*'visual_tokenizer.projection.bias' is \(1,\)"):
        load_parts(target, folder, ["visual_tokenizer"])
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in target.state_dict().items())


def test_a_part_the_model_does_not_have_is_refused_with_its_parts(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"below 'visual'; its parts are: .*visual_tokenizer"):
        load_parts(tiny_model(seed=5), folder, ["visual"])
