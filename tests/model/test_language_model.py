"""The language model with pictures between attention and MLP."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel
from transformers.cache_utils import DynamicCache

from mm_interleaved.errors import ConfigError, ShapeError
from mm_interleaved.model.configuration import Behaviour, MMFSConfig, MMInterleavedConfig
from mm_interleaved.model.language_model import LAYER_FAMILIES, FusedNorm, MMFSInputs, MMFSLlamaModel, TextHead, fuse_norms

FEATURES = 6
CELLS = 4 * 4 + 2 * 2
SMALL_MMFS = MMFSConfig(level_sides=(4, 2), base_side=4, heads=2, points=2, value_width=8, max_images=5, every=2)


def _text_config(**changes: object) -> LlamaConfig:
    fields = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": 20,
        "max_position_embeddings": 64,
    }
    return LlamaConfig(**{**fields, **changes})


def _model(*, gate: float = 0.7, attention: str = "sdpa") -> MMFSLlamaModel:
    torch.manual_seed(1)
    model = MMFSLlamaModel(_text_config(), SMALL_MMFS, feature_width=FEATURES).eval()
    model.set_attn_implementation(attention)
    for layer in model.mmfs_layers:
        torch.nn.init.constant_(model.layers[layer].synchronizer.gate, gate)
        torch.nn.init.normal_(model.layers[layer].synchronizer.mmfs.null_value)
    return model


def _tokens(*shape: int) -> Tensor:
    return torch.randint(0, 20, shape, generator=torch.Generator().manual_seed(2))


def _features(rows: int, images: int) -> Tensor:
    return torch.randn(rows, images, CELLS, FEATURES, generator=torch.Generator().manual_seed(3))


def _all_visible(model: MMFSLlamaModel, features: Tensor, tokens: int) -> MMFSInputs:
    visible = torch.ones(features.shape[0], tokens, features.shape[1], dtype=torch.bool)
    return MMFSInputs(visible=visible, values=model.project_features(features))


def test_synchronizers_stand_in_every_kth_layer() -> None:
    model = _model()
    assert model.mmfs_layers == (0, 2)
    assert [hasattr(layer, "synchronizer") for layer in model.layers] == [True, False, True]


@torch.no_grad()
def test_closed_gate_equals_the_upstream_model_exactly() -> None:
    model = _model(gate=0.0)
    upstream = LlamaModel(_text_config()).eval()
    upstream.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if ".synchronizer." not in name})
    ids = _tokens(2, 7)
    expected = upstream(input_ids=ids).last_hidden_state
    assert torch.equal(model(input_ids=ids, mmfs=_all_visible(model, _features(2, 3), 7)).last_hidden_state, expected)
    assert torch.equal(model(input_ids=ids).last_hidden_state, expected)


@torch.no_grad()
def test_pictures_change_the_output_only_where_they_are_visible() -> None:
    model = _model()
    features = _features(1, 2)
    inputs = _all_visible(model, features, 6)
    inputs.visible[:, :3, 1] = False
    changed = features.clone()
    changed[:, 1] += 1.0
    other = MMFSInputs(visible=inputs.visible, values=model.project_features(changed))
    ids = _tokens(1, 6)
    first, second = (model(input_ids=ids, mmfs=mmfs).last_hidden_state for mmfs in (inputs, other))
    assert torch.equal(first[:, :3], second[:, :3])
    assert (first[:, 3:] - second[:, 3:]).abs().amax(-1).min() > 1e-5


@torch.no_grad()
def test_a_document_without_pictures_is_the_same_alone_and_beside_one_with_pictures() -> None:
    model = _model()
    ids = _tokens(2, 5)
    together = _all_visible(model, _features(2, 2), 5)
    together.visible[1] = False
    alone = _all_visible(model, _features(1, 0), 5)
    beside = model(input_ids=ids, mmfs=together).last_hidden_state[1:]
    torch.testing.assert_close(model(input_ids=ids[1:], mmfs=alone).last_hidden_state, beside, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_mask_of_four_axes_keeps_packed_documents_apart(attention: str) -> None:
    model = _model(attention=attention)
    length, first = 9, 4
    document = torch.tensor([0] * first + [1] * (length - first))
    allowed = (document[:, None] == document[None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(1, 1, length, length).masked_fill(~allowed, torch.finfo(torch.float32).min)
    positions = torch.cat([torch.arange(first), torch.arange(length - first)])[None]
    mmfs = _all_visible(model, _features(1, 2), length)
    mmfs.visible[0, :first, 1] = False
    mmfs.visible[0, first:, 0] = False
    ids = _tokens(1, length)
    changed_ids = ids.clone()
    changed_ids[:, :first] = (changed_ids[:, :first] + 1) % 20

    def run(token_ids: Tensor) -> Tensor:
        return model(input_ids=token_ids, attention_mask=mask, position_ids=positions, mmfs=mmfs, use_cache=False).last_hidden_state

    packed, changed = run(ids), run(changed_ids)
    assert not torch.equal(packed[:, :first], changed[:, :first])
    assert torch.equal(packed[:, first:], changed[:, first:])

    own = MMFSInputs(visible=mmfs.visible[:, first:], values=mmfs.values)
    alone = model(input_ids=ids[:, first:], mmfs=own, use_cache=False).last_hidden_state
    torch.testing.assert_close(packed[:, first:], alone, atol=1e-5, rtol=0)  # other shapes, other order of sums


@torch.no_grad()
def test_decoding_with_cache_equals_decoding_without() -> None:
    model = _model()
    ids, length = _tokens(2, 8), 8
    mmfs = _all_visible(model, _features(2, 3), length)
    mmfs.visible[:, :4, 2] = False
    whole = model(input_ids=ids, mmfs=mmfs).last_hidden_state
    cache = DynamicCache(config=model.config)
    pieces = []
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 8)):
        part = MMFSInputs(visible=mmfs.visible[:, start:end], values=mmfs.values)
        pieces.append(model(input_ids=ids[:, start:end], past_key_values=cache, use_cache=True, mmfs=part).last_hidden_state)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=0)


def test_gradient_checkpointing_leaves_outputs_and_gradients_equal() -> None:
    results = []
    for checkpointing in (False, True):
        model = _model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        features = _features(2, 2).requires_grad_()
        out = model(input_ids=_tokens(2, 5), mmfs=_all_visible(model, features, 5), use_cache=False).last_hidden_state
        out.square().sum().backward()
        results.append((out, features.grad, model.layers[2].synchronizer.gate.grad))
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_bfloat16_layers_work_with_float32_synchronizers() -> None:
    model = _model().to(torch.bfloat16)
    for layer in model.mmfs_layers:
        model.layers[layer].synchronizer.float()
    out = model(input_ids=_tokens(1, 4), mmfs=_all_visible(model, _features(1, 1).bfloat16(), 4)).last_hidden_state
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert model.layers[0].synchronizer.gate.grad is not None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_fused_norms_equal_upstreams_but_for_rounding_and_keep_weights_and_names(dtype: torch.dtype, tolerance: float) -> None:
    model = _model().to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    hidden = (100 * torch.randn(2, 5, 16)).to(dtype)
    plain, before = model.norm(hidden), {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    fuse_norms(model)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == before
    norms = [module for module in model.modules() if isinstance(module, FusedNorm)]
    assert len(norms) == 2 * 3 + 1 + 2 * 2  # of three layers, the last one, of two synchronizers
    torch.testing.assert_close(model.norm(hidden), plain, rtol=tolerance, atol=0)  # one rounding to 8 bits more or less
    assert model.norm(hidden.double()).dtype == torch.float64  # another dtype than the weight's goes upstream's way


def test_synchronizers_keep_their_own_start_after_upstream_initialisation() -> None:
    model = MMFSLlamaModel(_text_config(), SMALL_MMFS, feature_width=FEATURES)
    for layer in model.mmfs_layers:
        synchronizer = model.layers[layer].synchronizer
        assert not synchronizer.gate.any()
        assert not synchronizer.mmfs.offsets.weight.any()
        assert synchronizer.mmfs.offsets.bias.abs().max() > 0.5
        assert 0.01 < float(synchronizer.mmfs.query_projection.weight.detach().std()) < 0.03
        assert (synchronizer.feature_norm.weight == 1).all()


def test_features_of_another_width_are_refused_with_both_widths() -> None:
    with pytest.raises(ShapeError, match=f"{FEATURES + 1} wide.* reads {FEATURES}"):
        _model().project_features(torch.zeros(1, 1, CELLS, FEATURES + 1))


def test_unknown_layer_family_is_refused() -> None:
    config = _text_config()
    config.model_type = "gemma3"
    with pytest.raises(ConfigError, match=f"gemma3.*{', '.join(LAYER_FAMILIES)}"):
        MMFSLlamaModel(config, SMALL_MMFS, feature_width=FEATURES)


def _head(*, separate: bool, tied: bool) -> TextHead:
    config = MMInterleavedConfig(
        text_config=_text_config(tie_word_embeddings=tied),
        behaviour=Behaviour(separate_control_head=separate),
        begin_image_token_id=17,
        image_token_id=19,
    )
    torch.manual_seed(4)
    return TextHead(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_control_tokens_of_a_separate_head_start_at_minus_five(tied: bool) -> None:
    head = _head(separate=True, tied=tied)
    embedding = torch.randn(20, 16)
    logits = head(torch.randn(2, 3, 16), embedding if tied else None)
    assert logits.shape == (2, 3, 20)
    assert torch.equal(logits[..., [17, 19]], torch.full((2, 3, 2), -5.0))
    assert logits[..., :17].std() > 0.01


@torch.no_grad()
def test_separate_control_head_touches_only_its_columns() -> None:
    head = _head(separate=True, tied=False)
    hidden = torch.randn(1, 2, 16)
    before = head(hidden)
    head.control_head.bias += torch.tensor([1.0, 2.0])
    change = head(hidden) - before
    assert change[..., 17].eq(1.0).all()
    assert change[..., 19].eq(2.0).all()
    assert not change[..., [*range(17), 18]].any()


@torch.no_grad()
def test_tied_head_reads_the_embedding_and_has_no_weights() -> None:
    head = _head(separate=False, tied=True)
    embedding, hidden = torch.randn(20, 16), torch.randn(1, 2, 16)
    assert list(head.parameters()) == []
    assert torch.equal(head(hidden, embedding), hidden @ embedding.T)
    with pytest.raises(ShapeError, match="embed_tokens"):
        head(hidden)


def test_gradients_reach_both_heads() -> None:
    head = _head(separate=True, tied=False)
    head(torch.randn(1, 2, 16)).logsumexp(-1).sum().backward()
    assert head.head.weight.grad.abs().sum() > 0
    assert head.control_head.weight.grad is not None


@pytest.mark.parametrize("tied", [False, True])
def test_the_control_head_has_the_gradients_of_columns_that_are_put_in_one_by_one(tied: bool) -> None:
    head = _head(separate=True, tied=tied)
    embedding, hidden = torch.randn(20, 16, requires_grad=True), torch.randn(2, 3, 16, requires_grad=True)
    table = (embedding, None) if tied else (head.head.weight, head.head.bias)
    weights = [hidden, *head.parameters(), *([embedding] if tied else [])]
    columns = list(functional.linear(hidden, *table).unbind(-1))
    for place, column in zip((17, 19), head.control_head(hidden).unbind(-1), strict=True):
        columns[place] = column if tied else columns[place] + column
    logits, expected = head(hidden, embedding), torch.stack(columns, -1)
    torch.testing.assert_close(logits, expected)
    found, wanted = (torch.autograd.grad(result.logsumexp(-1).sum(), weights) for result in (logits, expected))
    torch.testing.assert_close(found, wanted)


def test_control_tokens_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(ConfigError, match="vocabulary of 20"):
        TextHead(MMInterleavedConfig(text_config=_text_config(), behaviour={"separate_control_head": True}))
