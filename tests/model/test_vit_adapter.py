"""The adapted transformer starts as CLIP itself, exchanges what the formulas say, and takes any size."""

import math
from itertools import pairwise

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from mm_interleaved.errors import ConfigError, ShapeError
from mm_interleaved.model.configuration import AdapterConfig
from mm_interleaved.model.vit_adapter import AdapterVisionModel, DeformableAttention, cell_centres, map_sides, prior_side


def vision_config(**changes):
    fields = {
        "image_size": 16,
        "patch_size": 4,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
    }
    return CLIPVisionConfig(**{**fields, **changes})


def adapter_config(**changes):
    return AdapterConfig(**{"prior_side": 32, "prior_width": 4, "heads": 2, "points": 2, "blocks": 4, **changes})


def build(*, vision=None, randomised=True, **adapter):
    torch.manual_seed(0)
    model = AdapterVisionModel(vision_config(**(vision or {})), adapter_config(**adapter)).eval()
    if randomised:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
    return model


def test_new_adapter_leaves_the_transformer_as_it_is():
    model = build(randomised=False)
    plain = CLIPVisionModel(model.config).eval()
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("adapter_")}
    missing, surplus = plain.load_state_dict(own, strict=False)
    assert set(missing) == {"post_layernorm.weight", "post_layernorm.bias"}
    assert surplus == ["embeddings.position_ids"]
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(pixels).last_hidden_state, plain(pixels).last_hidden_state)


def test_injected_prior_changes_the_transformer():
    model = build()
    pixels = torch.randn(1, 3, 16, 16)
    before = model(pixels).last_hidden_state
    with torch.no_grad():
        for block in model.adapter_blocks:
            block.injector.gamma.zero_()
    assert not torch.allclose(before, model(pixels).last_hidden_state)


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5, 7])
def test_every_layer_runs_once_in_order_for_any_number_of_blocks(blocks):
    model = build(vision={"num_hidden_layers": 7}, blocks=blocks)
    assert [index for group in model.groups for index in group] == list(range(7))
    assert max(map(len, model.groups)) - min(map(len, model.groups)) <= 1
    assert [len(block.extra_extractors) for block in model.adapter_blocks] == [0] * (blocks - 1) + [2]
    assert len(model(torch.randn(1, 3, 16, 16)).maps) == 4


@pytest.mark.parametrize("side", [32, 36, 40, 50, 51, 64])
def test_maps_have_the_announced_sides_for_any_prior_side(side):
    model = build(prior_side=side)
    maps = model(torch.randn(1, 3, 16, 16)).maps
    assert tuple(level.shape[2] for level in maps) == tuple(level.shape[3] for level in maps) == map_sides(side)


def test_default_prior_side_is_sixteen_pixels_per_patch():
    vision, adapter = vision_config(image_size=224, patch_size=14), AdapterConfig()
    assert prior_side(vision, adapter) == 256
    assert map_sides(prior_side(vision, adapter)) == (64, 32, 16, 8)


def test_level_tokens_are_mixed_only_within_their_level():
    feed_forward = build().adapter_blocks[0].extractor.feed_forward
    shapes = [(4, 4), (2, 2), (1, 1)]
    cells = torch.randn(1, 21, 8)
    changed = cells.clone()
    changed[:, 16:20] += 1
    different = (feed_forward(cells, shapes) != feed_forward(changed, shapes)).any(dim=-1)[0]
    assert not different[:16].any() and not different[20:].any() and different[16:20].all()


def test_new_offsets_point_into_as_many_directions_as_there_are_heads():
    attention = DeformableAttention(AdapterConfig(heads=4, points=3, value_ratio=1.0), width=8, levels=2)
    offsets = attention.offsets(torch.randn(1, 5, 8)).view(5, 4, 2, 3, 2)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    expected = directions[:, None, None, :] * torch.tensor([1.0, 2.0, 3.0])[:, None]
    torch.testing.assert_close(offsets, expected.expand(5, 4, 2, 3, 2))


def test_deformable_attention_reads_the_mean_where_the_map_is_constant():
    attention = DeformableAttention(AdapterConfig(heads=2, points=2, value_ratio=1.0), width=8, levels=1)
    with torch.no_grad():
        attention.offsets.bias.zero_()
    source = torch.randn(1, 1, 8).expand(1, 9, 8)
    query = torch.randn(1, 1, 8)
    read = attention(query, torch.tensor([[0.5, 0.5]]), source, [(3, 3)])
    torch.testing.assert_close(read, attention.output_projection(attention.value_projection(source[:, :1])))


def test_cell_centres_are_x_before_y_and_row_major():
    centres = cell_centres([(2, 1), (1, 2)], torch.zeros(1))
    torch.testing.assert_close(centres, torch.tensor([[0.5, 0.25], [0.5, 0.75], [0.25, 0.5], [0.75, 0.5]]))


def test_gradients_reach_every_parameter():
    model = build()
    output = model(torch.randn(2, 3, 16, 16))
    loss = (output.last_hidden_state * torch.randn_like(output.last_hidden_state)).sum()
    for level in output.maps:
        loss = loss + (level * torch.randn_like(level)).sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        # A bias on CLIP's keys shifts all scores of a query alike.
        assert parameter.grad is not None and (parameter.grad.abs().max() > 0 or name.endswith("k_proj.bias")), name


def test_double_precision_stays_double_and_agrees():
    model = build()
    pixels = torch.randn(1, 3, 16, 16)
    single = model(pixels)
    double = model.double()(pixels.double())
    for found, expected in zip((single[0], *single[1]), (double[0], *double[1]), strict=True):
        assert expected.dtype == torch.float64
        # Float32 rounding through four layers of width 8; states are of order 1.
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_training_under_autocast_gives_finite_gradients_near_full_precision():
    model = build(randomised=False)
    pixels = torch.randn(2, 3, 16, 16)
    weights = [torch.randn_like(level) for level in model(pixels).maps]

    def gradient(autocast):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(pixels)
        sum((level.float() * weight).sum() for level, weight in zip(output.maps, weights, strict=True)).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])

    full, low = gradient(False), gradient(True)
    assert low.isfinite().all()
    # bfloat16 keeps 8 bits: directions agree to about a percent.
    assert torch.cosine_similarity(full, low, dim=0) > 0.98


def test_state_survives_saving_and_loading_with_nothing_left_over(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    loaded, report = AdapterVisionModel.from_pretrained(tmp_path, adapter_config(), output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for (name, found), expected in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name


def test_plain_clip_weights_load_with_a_freshly_initialised_adapter(tmp_path):
    plain = CLIPVisionModel(vision_config()).eval()
    plain.save_pretrained(tmp_path)
    model = AdapterVisionModel.from_pretrained(tmp_path, adapter_config()).eval()
    pixels = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(model(pixels).last_hidden_state, plain(pixels).last_hidden_state)
    block = model.adapter_blocks[0]
    assert torch.equal(model.embeddings.position_ids, torch.arange(17)[None])
    assert not block.injector.gamma.any() and not model.adapter_prior.level_embedding.any()
    assert block.injector.attention.offsets.bias.any() and not block.injector.attention.offsets.weight.any()
    fan_out_std = math.sqrt(2 / (4 * 8))
    assert abs(model.adapter_upsample.weight.std().item() - fan_out_std) < fan_out_std / 2


def test_all_state_is_persistent_and_carries_the_prefix_of_the_adapter():
    model = build()
    persistent = set(model.state_dict())
    assert {name for name, _ in model.named_buffers()} <= persistent
    upstream = set(CLIPVisionModel(model.config).state_dict()) | {"embeddings.position_ids"}
    assert all(name.startswith("adapter_") for name in persistent - upstream)


def test_prior_levels_halve_and_unfit_sizes_are_refused():
    assert all(math.ceil(fine / 2) == coarse for fine, coarse in pairwise(map_sides(100)))
    with pytest.raises(ShapeError, match="16 x 16"):
        build()(torch.zeros(1, 3, 20, 20))
    with pytest.raises(ConfigError, match="blocks 5"):
        build(blocks=5)
    with pytest.raises(ConfigError, match="patch_size"):
        build(vision={"image_size": 18})
    with pytest.raises(ConfigError, match=r"adapter\.heads"):
        build(heads=3)
