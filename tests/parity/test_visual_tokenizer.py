"""The visual tokenizer gives the numbers of the published code, and its names translate both ways without a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mm_interleaved.checkpoint.published_visual import RULES
from mm_interleaved.checkpoint.rename import NameTable
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.positions import resize_table
from mm_interleaved.model.visual_tokenizer import VisualTokenizer
from tests.parity.conftest import (
    TOLERANCE,
    case_name,
    cases,
    check_files,
    numbered,
    published_record,
    published_weights,
    record,
    relative_error,
    tensors,
)

pytestmark = pytest.mark.parity

PREFIX = "visual_tokenizer."


def _weights_and_settings(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any], int]:
    """Published state dict (full names), constructor arguments of the tokenizer, overrides, width of the language model."""
    own = {PREFIX + name.removeprefix("param."): value for name, value in tensors(path).items() if name.startswith("param.")}
    if own:
        about = record(path)
        return own, about["config"], about["overrides"], about["config"]["llm_hidden_size"]
    about = published_record()["config"]
    weights = {name: value for name, value in published_weights().items() if name.startswith(PREFIX)}
    return weights, about["model"]["visual_tokenizer_config"], about["overrides"], about["model"]["llm_model_path"]["hidden_size"]


def _tokenizer(path: Path) -> VisualTokenizer:
    weights, settings, overrides, language_width = _weights_and_settings(path)
    perceiver = settings["perceiver_config"]
    config = MMInterleavedConfig(
        vision_config=settings["encoder_model_path"],
        text_config={"hidden_size": language_width, "num_attention_heads": 1},
        adapter={
            "prior_width": overrides["adapter_conv_inplane"],
            "points": overrides["adapter_points"],
            "heads": settings["encoder_model_path"]["num_attention_heads"],
        },
        resampler={
            "queries": perceiver["num_queries"],
            "width": perceiver["hidden_size"],
            "layers": perceiver["num_hidden_layers"],
            "heads": perceiver["num_attention_heads"],
            "feed_forward_width": perceiver["intermediate_size"],
            "cross_attention_every": perceiver["cross_attention_frequency"],
            "head_norm": perceiver["qk_normalization"],
        },
    )
    tokenizer = VisualTokenizer(config).eval()
    target = {PREFIX + name: tuple(value.shape) for name, value in tokenizer.state_dict().items()}
    renamed = NameTable(RULES).rename(weights, target, where=path.name)
    tokenizer.load_state_dict({name.removeprefix(PREFIX): value for name, value in renamed.items()}, strict=True)
    return tokenizer


@pytest.mark.parametrize("path", cases("visual_tokenizer"), ids=case_name)
def test_case(path: Path) -> None:
    check_files(path)
    case, tokenizer = tensors(path), _tokenizer(path)
    weights, *_ = _weights_and_settings(path)
    _every_rule_is_used_and_exactly_one_fits_a_key(weights)
    _renaming_there_and_back_gives_the_same_bytes(tokenizer, weights)
    _transformer_output_equals_the_published_one(tokenizer, case)
    _tokens_and_maps_equal_the_published_ones(tokenizer, case)
    _fixed_tables_equal_the_published_ones_without_loading(tokenizer, weights)  # last: it resets the tokenizer


def _tokens_and_maps_equal_the_published_ones(tokenizer: VisualTokenizer, case: dict[str, Tensor]) -> None:
    with torch.no_grad():
        features = tokenizer(case["in.image_u8"].float() / 255)
    assert relative_error(features.tokens, case["out.vis_embed"]) <= TOLERANCE
    expected_maps = numbered(case, "out.multiscale_features")
    assert len(expected_maps) == len(features.maps)
    for found, expected in zip(features.maps, expected_maps, strict=True):
        assert relative_error(found, expected) <= TOLERANCE


def _transformer_output_equals_the_published_one(tokenizer: VisualTokenizer, case: dict[str, Tensor]) -> None:
    with torch.no_grad():
        hidden = tokenizer.encoder((case["in.image_u8"].float() / 255 - tokenizer.clip_mean) / tokenizer.clip_std).last_hidden_state
    places = resize_table(tokenizer.position_table[1:], tokenizer.grid).flatten(0, 1)
    assert relative_error(hidden[:, 1:] + places, case["out.image_embeds"]) <= TOLERANCE
    if "mid.encoder_last_hidden_state" in case:  # recorded for some cases only
        assert relative_error(hidden, case["mid.encoder_last_hidden_state"]) <= TOLERANCE


def _fixed_tables_equal_the_published_ones_without_loading(tokenizer: VisualTokenizer, weights: dict[str, Tensor]) -> None:
    tokenizer.position_table.zero_()
    tokenizer.reset_parameters()
    # Sines of another library may differ in the last bit of a number up to 1.
    torch.testing.assert_close(tokenizer.position_table, weights[PREFIX + "pos_embed"], atol=2e-7, rtol=0)
    assert torch.equal(tokenizer.clip_mean, weights[PREFIX + "clip_mean"])
    assert torch.equal(tokenizer.clip_std, weights[PREFIX + "clip_std"])


def _renaming_there_and_back_gives_the_same_bytes(tokenizer: VisualTokenizer, weights: dict[str, Tensor]) -> None:
    ours = {PREFIX + name: value for name, value in tokenizer.state_dict().items()}
    back = NameTable(RULES).rename(ours, {name: tuple(value.shape) for name, value in weights.items()}, direction="to_published")
    for name, value in weights.items():
        assert torch.equal(back[name], value) and back[name].dtype == value.dtype, name


def _every_rule_is_used_and_exactly_one_fits_a_key(weights: dict[str, Tensor]) -> None:
    table = NameTable(RULES)
    for rule in table.rules:
        assert any(rule.forward.fullmatch(name) for name in weights), f"no published key for {rule.published}"
    for name in weights:
        assert sum(rule.forward.fullmatch(name) is not None for rule in table.rules) == 1, name
