"""A checkpoint is fetched from a hub file by file: one lies here at a time, each is held to its checksum, nothing is fetched twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from mm_interleaved.checkpoint import convert as converting
from mm_interleaved.checkpoint.convert import convert_back, convert_published, empty_model
from mm_interleaved.checkpoint.hub import find_hub_shards
from mm_interleaved.errors import CheckpointError, ConfigError, DownloadError
from tests.checkpoint.hub import Hub, serve
from tests.checkpoint.released import FILES, INDEX, released_state, small_arguments, write_released

ARGUMENTS = small_arguments()
REPOSITORY = "someone/pictures-and-words"
FOLDER = "pretrained"
SHARD_BYTES = 200_000


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_released(tmp_path_factory.mktemp("released") / "released", released_state(ARGUMENTS))


@pytest.fixture(scope="module", autouse=True)
def _model_built_once() -> Iterator[None]:
    empty = empty_model(converting.config_from_published(ARGUMENTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "empty_model", lambda config: empty)
        yield


@pytest.fixture
def hub(released: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {f"{FOLDER}/{name}": (released / name).read_bytes() for name in (*FILES, INDEX)}
    with serve(Hub(REPOSITORY, {"README.md": b"a model", **files})) as served:
        # What HF_ENDPOINT and HF_HUB_OFFLINE set when a process starts; the last test starts one.
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield served


def _convert(target: Path, hub_id: str = REPOSITORY) -> Any:
    return convert_published(find_hub_shards(hub_id), target, config=ARGUMENTS, shard_bytes=SHARD_BYTES)


def _weights_fetched(hub: Hub) -> list[str]:
    return [path.removeprefix(f"{FOLDER}/") for path in hub.fetched if path.endswith(".bin")]


def _same_files(first: Path, second: Path) -> bool:
    names = sorted(path.name for path in first.iterdir())
    return names == sorted(path.name for path in second.iterdir()) and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names
    )


def test_what_is_fetched_becomes_what_a_folder_becomes_and_one_file_lies_here_at_a_time(hub: Hub, released: Path, tmp_path: Path) -> None:
    lying: list[list[str]] = []
    hub.watch = lambda path: lying.append(sorted(file.name for file in tmp_path.rglob("*.bin")))
    done = _convert(tmp_path / "fetched")
    assert done.source_checked
    assert _weights_fetched(hub) == list(FILES)
    assert lying[1:] == [[], []]  # the index was first; no earlier file is there when the next one begins
    convert_published(released, tmp_path / "local", config=ARGUMENTS, shard_bytes=SHARD_BYTES)
    assert _same_files(tmp_path / "fetched", tmp_path / "local")
    convert_back(tmp_path / "fetched", tmp_path / "back")
    assert (tmp_path / "back" / INDEX).read_bytes() == (released / INDEX).read_bytes()


def test_a_hub_that_stops_answering_keeps_what_was_finished_and_the_next_run_goes_on(hub: Hub, released: Path, tmp_path: Path) -> None:
    hub.broken.add(f"{FOLDER}/{FILES[1]}")
    with pytest.raises(DownloadError, match=f"{FILES[1]} cannot be fetched.*again.*kept"):
        _convert(tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    hub.broken.clear()
    hub.fetched.clear()
    done = _convert(tmp_path / "fetched")
    assert _weights_fetched(hub) == [FILES[1]]
    assert done.kept
    convert_published(released, tmp_path / "local", config=ARGUMENTS, shard_bytes=SHARD_BYTES)
    assert _same_files(tmp_path / "fetched", tmp_path / "local")


def test_other_bytes_than_the_hub_names_are_refused_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    path = f"{FOLDER}/{FILES[0]}"
    content = hub.files[path]
    hub.sent[path] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(DownloadError, match=f"{FILES[0]}: the hub names the checksum"):
        _convert(tmp_path / "fetched")
    assert not list(tmp_path.rglob("*.bin"))
    hub.sent.clear()
    assert _convert(tmp_path / "fetched").tensors == 2659


def test_a_changed_index_is_refused_by_its_git_checksum(hub: Hub) -> None:
    hub.sent[f"{FOLDER}/{INDEX}"] = hub.files[f"{FOLDER}/{INDEX}"].replace(b"00001", b"00002", 1)
    with pytest.raises(DownloadError, match=f"{INDEX}: the hub names the checksum"):
        find_hub_shards(REPOSITORY)


def test_a_renamed_key_is_seen_in_the_index_before_any_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    path = f"{FOLDER}/{INDEX}"
    hub.files[path] = hub.files[path].replace(b'"soi_token"', b'"soi_tokens"')
    with pytest.raises(CheckpointError, match=rf"{FILES[0]}: 1 keys that the model does not have: 'soi_tokens' .*'soi_token'"):
        _convert(tmp_path / "fetched")
    assert _weights_fetched(hub) == []


def test_another_shape_in_a_fetched_file_leaves_nothing_behind(hub: Hub, released: Path, tmp_path: Path) -> None:
    tensors = torch.load(released / FILES[0], weights_only=True)
    torch.save({**tensors, "soi_token": torch.zeros(1, 7)}, tmp_path / "other.bin")
    hub.files[f"{FOLDER}/{FILES[0]}"] = (tmp_path / "other.bin").read_bytes()
    with pytest.raises(CheckpointError, match=rf"{FOLDER}/{FILES[0]}: 1 keys of another shape: 'soi_token' is \(1, 7\)"):
        _convert(tmp_path / "new" / "fetched")
    assert not list((tmp_path / "new").iterdir())


def test_one_file_without_an_index_is_held_to_the_model_when_it_is_there(hub: Hub, tmp_path: Path) -> None:
    state = released_state(ARGUMENTS)
    torch.save(state, tmp_path / "all.bin")
    hub.files = {"pytorch_model.bin": (tmp_path / "all.bin").read_bytes()}
    assert _convert(tmp_path / "fetched").tensors == 2659
    del state["soi_token"]
    torch.save(state, tmp_path / "all.bin")
    hub.files = {"pytorch_model.bin": (tmp_path / "all.bin").read_bytes()}
    with pytest.raises(CheckpointError, match="1 keys are missing: 'soi_token'"):
        _convert(tmp_path / "again")


def test_several_files_without_an_index_are_refused(hub: Hub) -> None:
    del hub.files[f"{FOLDER}/{INDEX}"]
    with pytest.raises(CheckpointError, match="2 weight files and no index"):
        find_hub_shards(REPOSITORY)


def test_where_several_folders_hold_weights_one_has_to_be_named(hub: Hub) -> None:
    hub.files["other/model.safetensors"] = b""
    with pytest.raises(CheckpointError, match=f"2 folders; name one of its folders behind the id: other, {FOLDER}"):
        find_hub_shards(REPOSITORY)
    assert find_hub_shards(f"{REPOSITORY}/{FOLDER}").files == FILES
    with pytest.raises(CheckpointError, match=f"holds no .*folders with weights: other, {FOLDER}"):
        find_hub_shards(f"{REPOSITORY}/third")


def test_unknown_repositories_and_ids_are_named(hub: Hub) -> None:
    with pytest.raises(DownloadError, match=r"someone/else cannot be fetched"):
        find_hub_shards("someone/else")
    for wrong in ("someone", "a/../b", "https://example.org/a/b", ""):
        with pytest.raises(ConfigError, match="OWNER/NAME"):
            find_hub_shards(wrong)


def test_the_command_fetches_from_the_hub_that_the_environment_names(hub: Hub, released: Path, tmp_path: Path) -> None:
    (tmp_path / "arguments.json").write_text(json.dumps(ARGUMENTS), encoding="utf-8")
    words = ["convert", "published", "--from", REPOSITORY, tmp_path / "fetched", "--config", tmp_path / "arguments.json", "--json"]
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    run = subprocess.run(
        [sys.executable, "-m", "mm_interleaved.cli.main", *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["source_checked"]
    assert f"{REPOSITORY}/{FOLDER} at 0123456789ab: 2 files" in run.stderr
    convert_back(tmp_path / "fetched", tmp_path / "back")
    assert (tmp_path / "back" / INDEX).read_bytes() == (released / INDEX).read_bytes()
