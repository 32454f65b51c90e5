"""The released checkpoint: its layout at full size, its configuration, its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mm_interleaved.checkpoint.published import TABLE, config_from_published, read_published
from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.model.configuration import PUBLISHED
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration

RELEASED_KEYS = 2659
"""Tensors of the release (spec §9); checked there against the size of its files to the byte."""

RELEASED_ELEMENTS = 14_912_865_824
"""Numbers in them."""


def test_the_released_size_has_every_released_name_and_number() -> None:
    with torch.device("meta"):
        model = MMInterleavedForConditionalGeneration(config_from_published({"model": {}}))
    own = model.state_dict()
    released = TABLE.rename(own, direction="to_published")
    elements = sum(tensor.numel() for tensor in released.values())
    assert all(TABLE.to_ours(name) == ours for name, ours in zip(released, own, strict=True))
    assert (len(released), elements) == (RELEASED_KEYS, RELEASED_ELEMENTS)


def test_released_configuration_behaves_as_published() -> None:
    config = config_from_published({"model": {}})
    assert config.behaviour_part == PUBLISHED
    assert (config.text_config.hidden_size, config.text_config.vocab_size, config.image_tokens) == (5120, 32002, 64)
    # The release holds no scheduler; its numbers are those of spec §4.2.
    noise = {"kind": "ddpm", "train_steps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    assert config.image_decoder_part.noise == noise


def test_a_path_instead_of_fields_is_refused() -> None:
    with pytest.raises(ConfigError, match="'llm_model_path' is 'vicuna'"):
        config_from_published({"model": {"llm_model_path": "vicuna"}})


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "model.safetensors"])
def test_released_files_are_read(tmp_path: Path, name: str) -> None:
    state = {"soi_token": torch.randn(1, 4)}
    if name.endswith(".bin"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    assert torch.equal(read_published(tmp_path)["soi_token"], state["soi_token"])


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"soi_token": Path}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin cannot be read"):
        read_published(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither"):
        read_published(tmp_path)


def test_a_key_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"soi_token": torch.zeros(1, 4)}, tmp_path / name)
    with pytest.raises(CheckpointError, match="also in another file"):
        read_published(tmp_path)
