"""The language model against tensors recorded from the published code."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mm_interleaved.checkpoint.published import TABLE, config_from_published
from mm_interleaved.model.language_model import MMFSInputs, MMFSLlamaModel, TextHead
from tests.parity.conftest import (
    TOLERANCE,
    case_name,
    cases,
    check_files,
    numbered,
    published_record,
    published_weights,
    relative_error,
    tensors,
)

pytestmark = pytest.mark.parity


@cache
def _language() -> tuple[MMFSLlamaModel, TextHead]:
    config = config_from_published(published_record()["config"])
    model = MMFSLlamaModel(config.text_config, config.mmfs_part, feature_width=config.vision_config.hidden_size).eval()
    head = TextHead(config).eval()
    renamed = TABLE.rename(
        {name: tensor for name, tensor in published_weights().items() if name.startswith(("mm_decoder.", "text_decoder."))}
    )
    for prefix, module in (("language_model.", model), ("text_head.", head)):
        module.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in renamed.items() if name.startswith(prefix)})
    return model, head


def _inputs(model: MMFSLlamaModel, case: dict[str, Tensor]) -> MMFSInputs:
    sides = model.layers[model.mmfs_layers[0]].synchronizer.mmfs.config.level_sides
    return MMFSInputs(
        visible=case["in.cross_attention_mask"] > 0,
        values=model.project_features(case["in.vision_hidden_states"]),
        level_shapes=tuple((side, side) for side in sides),
    )


def _real(found: Tensor, expected: Tensor, mask: Tensor) -> float:
    return relative_error(found[mask > 0], expected[mask > 0])


def test_packed_documents_and_cached_decoding_are_recorded() -> None:
    begin = published_record()["config"]["model"]["special_token_dict"]["bos_token_id"]
    recorded = [tensors(path) for path in cases("llama_mmfs")]
    assert any((case["in.text_ids"] == begin).sum(1).max() > 1 for case in recorded if "out.logits" in case)
    assert any("out.prefill_logits" in case for case in recorded)


@torch.no_grad()
@pytest.mark.parametrize("path", cases("llama_mmfs"), ids=case_name)
def test_case(path: Path) -> None:
    check_files(path)
    case = tensors(path)
    for attention in ("eager", "sdpa"):
        _language()[0].set_attn_implementation(attention)
        if "out.logits" in case:
            _hidden_states_and_logits_equal_the_published_ones(case)
        if "out.prefill_logits" in case:
            _left_padded_cached_decoding_equals_the_published_one(case)


def _hidden_states_and_logits_equal_the_published_ones(case: dict[str, Tensor]) -> None:
    model, head = _language()
    embeds, mask = case["in.inputs_embeds"], case["in.attention_mask"]
    found = model(inputs_embeds=embeds, attention_mask=mask, mmfs=_inputs(model, case), output_hidden_states=True, use_cache=False)

    assert _real(found.last_hidden_state, case["out.last_hidden_state"], mask) < TOLERANCE
    assert _real(head(found.last_hidden_state), case["out.logits"], mask) < TOLERANCE
    for layer, expected in enumerate(numbered(case, "mid.hidden_states")):
        assert _real(found.hidden_states[layer], expected, mask) < TOLERANCE, f"first difference behind layer {layer - 1}"

    blind = model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
    assert _real(head(blind), case["out.logits_no_images"], mask) < TOLERANCE


def _left_padded_cached_decoding_equals_the_published_one(case: dict[str, Tensor]) -> None:
    model, head = _language()
    mask, mmfs = case["in.attention_mask"], _inputs(model, case)
    cache = DynamicCache(config=model.config)
    hidden = model(
        inputs_embeds=case["in.inputs_embeds"],
        attention_mask=mask,
        position_ids=case["in.position_ids"],
        past_key_values=cache,
        use_cache=True,
        mmfs=mmfs,
    ).last_hidden_state
    assert _real(hidden, case["out.prefill_last_hidden_state"], mask) < TOLERANCE
    assert _real(head(hidden), case["out.prefill_logits"], mask) < TOLERANCE

    last_row = MMFSInputs(visible=mmfs.visible[:, -1:], values=mmfs.values, level_shapes=mmfs.level_shapes)
    step = 0
    while f"in.step{step}.input_ids" in case:
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
        hidden = model(
            input_ids=case[f"in.step{step}.input_ids"],
            attention_mask=mask,
            position_ids=case[f"in.step{step}.position_ids"],
            past_key_values=cache,
            use_cache=True,
            mmfs=last_row,
        ).last_hidden_state
        assert relative_error(hidden, case[f"out.step{step}.last_hidden_state"]) < TOLERANCE
        assert relative_error(head(hidden), case[f"out.step{step}.logits"]) < TOLERANCE
        step += 1
    assert step > 0, "the case records no decoding step"
