"""Conversion in both directions loses no bit, no name and no order, and refuses what is damaged by file and key."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mm_interleaved.checkpoint import convert as converting
from mm_interleaved.checkpoint import staging
from mm_interleaved.checkpoint.convert import convert_back, convert_published, empty_model
from mm_interleaved.checkpoint.native import load_model, save_model
from mm_interleaved.checkpoint.published import TABLE, config_from_published
from mm_interleaved.checkpoint.shards import open_shard, write_shard
from mm_interleaved.errors import CheckpointError, ConfigError, StorageError
from mm_interleaved.model.configuration import PUBLISHED
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.processing.tokenizer import SMALLEST_VOCABULARY, train_tokenizer
from mm_interleaved.testing import tiny_model
from tests.checkpoint.released import FILES, INDEX, layout, released_state, small_arguments, write_released

ARGUMENTS = small_arguments()


@pytest.fixture(scope="module", autouse=True)
def _model_built_once() -> Any:
    # Building the empty model takes seconds, and every test converts a model of the same shapes.
    with pytest.MonkeyPatch.context() as patch:
        empty: dict[str, Any] = {}

        def once(config: Any) -> Any:
            key = json.dumps({name: value for name, value in config.to_dict().items() if name not in LOADED_FIELDS}, default=str)
            if key not in empty:
                empty[key] = empty_model(config)
            return empty[key]

        patch.setattr(converting, "empty_model", once)
        yield


LOADED_FIELDS = ("architectures", "dtype", "transformers_version", "_name_or_path")
"""Fields of a configuration that only a saved one has."""


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return released_state(ARGUMENTS)


@pytest.fixture(scope="module")
def written(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_released(tmp_path_factory.mktemp("released") / "released", state)


@pytest.fixture(scope="module")
def native(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("native") / "native"
    convert_published(written, target, config=ARGUMENTS, shard_bytes=200_000)
    return target


@pytest.fixture
def released(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "released"))


def _change(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = dict(torch.load(file, weights_only=True))
    change(tensors)
    torch.save(tensors, file)


def _refused(source: Path, *words: str, error: type[Exception] = CheckpointError) -> None:
    """Conversion fails, the message holds the words, and nothing is left behind."""
    target = source.parent / "native"
    with pytest.raises(error) as caught:
        convert_published(source, target, config=ARGUMENTS)
    for word in words:
        assert word in str(caught.value)
    assert sorted(path.name for path in source.parent.iterdir()) == [source.name]


def test_the_stand_in_has_every_released_name(state: dict[str, Tensor]) -> None:
    assert list(state) == list(layout())


def test_the_released_size_has_exactly_the_released_layout() -> None:
    found = TABLE.rename(empty_model(config_from_published({"model": {}})).state_dict(), direction="to_published")
    assert {name: list(tensor.shape) for name, tensor in found.items()} == layout()


def test_there_and_back_gives_the_same_files_keys_order_and_bits(written: Path, native: Path, tmp_path: Path) -> None:
    report = convert_back(native, tmp_path / "back")
    assert report.source_checked
    assert (tmp_path / "back" / INDEX).read_text() == (written / INDEX).read_text()
    for name in FILES:
        before, after = open_shard(written / name), torch.load(tmp_path / "back" / name, weights_only=True)
        assert list(before) == list(after)
        for key, tensor in before.items():
            assert (after[key].dtype, after[key].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(after[key].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), key
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted([*FILES, INDEX, "SHA256SUMS"])


def test_a_converted_model_is_loaded_with_the_released_behaviour(native: Path, state: dict[str, Tensor]) -> None:
    model = load_model(native)
    assert model.config.behaviour_part == PUBLISHED
    loaded = TABLE.rename(model.state_dict(), direction="to_published")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_the_converted_folder_holds_shards_checksums_and_the_licences_of_the_parts(native: Path) -> None:
    names = {path.name for path in native.iterdir()}
    assert len([name for name in names if name.endswith(".safetensors")]) > 1
    assert not [name for name in names if name.startswith(".")]
    run = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=native, check=False)
    assert run.returncode == 0
    card = (native / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("LLaMA", "Vicuna", "CLIP", "OpenRAIL++-M".removeprefix("Open"), "MM-Interleaved"))


def test_half_precision_keeps_its_bits_both_ways(state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    source = write_released(tmp_path / "half", half)
    convert_published(source, tmp_path / "native", config=ARGUMENTS)
    convert_back(tmp_path / "native", tmp_path / "back")
    back = {key: tensor for name in FILES for key, tensor in open_shard(tmp_path / "back" / name).items()}
    assert all(back[key].dtype == tensor.dtype and torch.equal(back[key], tensor) for key, tensor in half.items())


def test_released_safetensors_are_converted_too(state: dict[str, Tensor], native: Path, tmp_path: Path) -> None:
    (tmp_path / "released").mkdir()
    save_file(state, tmp_path / "released" / "model.safetensors")
    report = convert_published(tmp_path / "released", tmp_path / "native", config=ARGUMENTS)
    assert report.files == ("model.safetensors",)
    one, many = load_file(tmp_path / "native" / "model.safetensors"), {}
    for file in native.glob("*.safetensors"):
        many.update(load_file(file))
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_a_tokenizer_folder_gives_a_processor(released: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a cat"], SMALLEST_VOCABULARY)
    tokenizer.save_pretrained(str(tmp_path / "tokenizer"))
    ids = {"soi_token_id": 3, "image_token_id": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    arguments = {**ARGUMENTS, "model": {**ARGUMENTS["model"], "special_token_dict": ids}}
    convert_published(released, tmp_path / "native", config=arguments, tokenizer=tmp_path / "tokenizer")
    processor = MMInterleavedProcessor.from_pretrained(str(tmp_path / "native"), local_files_only=True)
    assert (processor.tokens.begin_image, processor.tokens.image, processor.image_tokens) == (3, 4, 3)
    assert not processor.isolate_documents


def test_another_tokenizer_is_refused_before_anything_is_written(released: Path, tmp_path: Path) -> None:
    train_tokenizer(["a cat"], SMALLEST_VOCABULARY).save_pretrained(str(tmp_path / "tokenizer"))
    with pytest.raises(ConfigError, match="begin_image_token_id is 38"):
        convert_published(released, tmp_path / "native", config=ARGUMENTS, tokenizer=tmp_path / "tokenizer")
    assert not (tmp_path / "native").exists()


def test_a_surplus_key_is_refused_by_file_and_nearest_name(released: Path) -> None:
    _change(released / FILES[0], lambda tensors: tensors.update(soi_tokens=tensors.pop("soi_token")))
    (released / INDEX).write_text((released / INDEX).read_text().replace('"soi_token"', '"soi_tokens"'), encoding="utf-8")
    _refused(released, FILES[0], "'soi_tokens'", "'soi_token'")


def test_a_missing_key_is_refused_by_the_file_that_should_have_it(released: Path) -> None:
    _change(released / FILES[1], lambda tensors: tensors.popitem())
    _refused(released, FILES[1], "expects the key")


def test_a_missing_key_without_an_index_is_refused_by_name(released: Path) -> None:
    (released / INDEX).unlink()
    _change(released / FILES[0], lambda tensors: tensors.pop("soi_token"))
    _refused(released, FILES[0], "1 keys are missing: 'soi_token'")


def test_another_shape_is_refused_by_file_key_and_both_shapes(released: Path) -> None:
    _change(released / FILES[0], lambda tensors: tensors.update(soi_token=torch.zeros(1, 7)))
    _refused(released, FILES[0], "'soi_token' is (1, 7), the model has (1, 16)")


def test_a_truncated_file_is_refused_by_name(released: Path) -> None:
    with (released / FILES[1]).open("r+b") as stream:
        stream.truncate((released / FILES[1]).stat().st_size // 2)
    _refused(released, FILES[1], "cut off")


def test_a_truncated_safetensors_file_is_refused_by_name(state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "released").mkdir()
    file = tmp_path / "released" / "model.safetensors"
    write_shard(file, state)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1)
    _refused(tmp_path / "released", "model.safetensors", "cut off")


def test_files_of_several_sets_are_refused(released: Path) -> None:
    shutil.copy(released / FILES[0], released / "pytorch_model-00001-of-00003.bin")
    _refused(released, "pytorch_model-00001-of-00003.bin", "several sets")
    (released / INDEX).unlink()
    _refused(released, "several sets")


def test_a_missing_file_of_the_set_is_refused(released: Path) -> None:
    (released / FILES[1]).unlink()
    _refused(released, FILES[1], "is missing")
    (released / INDEX).unlink()
    _refused(released, "shard 2 of 2")


def test_a_key_in_two_files_is_refused(released: Path) -> None:
    _change(released / FILES[1], lambda tensors: tensors.update(soi_token=torch.zeros(1, 16)))
    _refused(released, FILES[1], "'soi_token' is also in", FILES[0])


def test_an_index_cannot_name_files_outside_its_folder(released: Path) -> None:
    (released / INDEX).write_text(json.dumps({"weight_map": {"soi_token": "../other.bin"}}), encoding="utf-8")
    _refused(released, "outside the folder")


class Trap:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(released: Path, tmp_path: Path) -> None:
    _change(released / FILES[0], lambda tensors: tensors.update(soi_token=Trap(tmp_path / "run")))
    _refused(released, FILES[0], "could run code")


def test_something_else_than_a_tensor_is_refused_by_key(released: Path) -> None:
    _change(released / FILES[0], lambda tensors: tensors.update(soi_token=3))
    _refused(released, FILES[0], "'soi_token' is a int")


def test_changed_weights_do_not_fit_their_checksums(native: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(native, tmp_path / "native"))
    file = sorted(copy.glob("*.safetensors"))[0]
    with file.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x77")
    with pytest.raises(CheckpointError, match=f"{file.name} is not the file"):
        convert_back(copy, tmp_path / "back")


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    _refused(released, "disk is full", error=StorageError)


FULL = Path("/dev/full")
"""A device that takes no byte: the system's own answer of a full disk."""

needs_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")


def _on_a_full_disk(file: Path, tensors: dict[str, Tensor]) -> None:
    file.symlink_to(FULL)
    write_shard(file, tensors)


@needs_full
def test_a_disk_that_becomes_full_leaves_nothing_and_names_file_and_key(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "write_shard", _on_a_full_disk)
    _refused(
        released,
        "native: model-00001-of-00002.safetensors cannot be written at '",
        "the disk is full",
        "Nothing was left",
        error=StorageError,
    )


@needs_full
def test_the_way_back_onto_a_full_disk_leaves_nothing_and_names_file_and_key(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "write_shard", _on_a_full_disk)
    with pytest.raises(StorageError, match=f"back: {FILES[0]} cannot be written at '.+'.*the disk is full.*Nothing was left"):
        convert_back(native, tmp_path / "back")
    assert not list(tmp_path.iterdir())


def test_the_tensor_at_which_the_disk_became_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(values: dict[str, Tensor], file: Path) -> None:
        file.write_bytes(bytes(250_000))
        raise RuntimeError("file write failed")  # torch's words, from which alone a full disk can be told

    monkeypatch.setattr(torch, "save", half)
    tensors = {name: torch.zeros(50_000) for name in ("first", "second", "third")}
    with pytest.raises(StorageError, match=r"model\.bin cannot be written at 'second'"):
        write_shard(tmp_path / "model.bin", tensors)


def test_an_existing_folder_is_not_overwritten(released: Path, tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(StorageError, match="exists already"):
        convert_published(released, tmp_path / "native", config=ARGUMENTS)
    assert (tmp_path / "native" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def _interrupt_after(files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def killed(file: Path, tensors: dict[str, Tensor]) -> None:
        nonlocal count
        if count == files:
            file.write_bytes(b"half")
            raise KeyboardInterrupt
        count += 1
        write_shard(file, tensors)

    monkeypatch.setattr(converting, "write_shard", killed)


def test_an_interrupted_conversion_goes_on_behind_its_last_file(
    released: Path, native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "native"
    _interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        convert_published(released, target, config=ARGUMENTS, shard_bytes=200_000)
    assert not target.exists()
    monkeypatch.undo()
    report = convert_published(released, target, config=ARGUMENTS, shard_bytes=200_000)
    assert len(report.kept) == 2
    for file in native.iterdir():
        assert (target / file.name).read_bytes() == file.read_bytes(), file.name
    assert not (tmp_path / ".native.unfinished").exists()


def test_an_interrupted_conversion_of_another_source_starts_again(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        convert_published(released, tmp_path / "native", config=ARGUMENTS, shard_bytes=200_000)
    monkeypatch.undo()
    _change(released / FILES[0], lambda tensors: tensors["soi_token"].add_(1))
    assert convert_published(released, tmp_path / "native", config=ARGUMENTS, shard_bytes=200_000).kept == ()


def test_a_model_with_weights_that_the_release_has_no_name_for_is_refused(tmp_path: Path) -> None:
    save_model(tiny_model(), None, tmp_path / "tiny")
    with pytest.raises(CheckpointError, match="no rule for the key"):
        convert_back(tmp_path / "tiny", tmp_path / "back")


def test_a_model_that_was_never_released_gets_the_usual_file_names(native: Path, tmp_path: Path, state: dict[str, Tensor]) -> None:
    copy = Path(shutil.copytree(native, tmp_path / "native"))
    (copy / "published_files.json").unlink()
    report = convert_back(copy, tmp_path / "back")
    assert report.files == ("pytorch_model.bin",)
    back = open_shard(tmp_path / "back" / "pytorch_model.bin")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
