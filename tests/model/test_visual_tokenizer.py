"""A picture becomes the configured number of tokens and four maps with places added, in any number of pictures."""

import pytest
import torch

from mm_interleaved.errors import ShapeError
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.positions import resize_table
from mm_interleaved.model.visual_tokenizer import VisualTokenizer


def build(*, prior_side=32, dtype=torch.float32):
    torch.manual_seed(0)
    config = MMInterleavedConfig(
        vision_config={
            "image_size": 16, "patch_size": 4, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        },
        text_config={"hidden_size": 12, "num_attention_heads": 2},
        adapter={"prior_side": prior_side, "prior_width": 4, "heads": 2, "points": 2, "blocks": 2},
        resampler={"queries": 3, "width": 8, "layers": 2, "heads": 2, "feed_forward_width": 16},
    )  # fmt: skip
    return VisualTokenizer(config).eval().to(dtype)


def randomised(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module


@pytest.mark.parametrize("images", [0, 1, 3])
@pytest.mark.parametrize("prior_side", [32, 45])
def test_shapes_follow_the_configuration_for_any_number_of_pictures(images, prior_side):
    tokenizer = build(prior_side=prior_side)
    features = tokenizer(torch.rand(images, 3, 16, 16))
    assert features.tokens.shape == (images, 3, 12)
    assert [tuple(level.shape) for level in features.maps] == [(images, 8, side, side) for side in tokenizer.map_sides]


def test_pictures_do_not_influence_each_other():
    tokenizer = randomised(build())
    pixels = torch.rand(2, 3, 16, 16)
    together, alone = tokenizer(pixels), tokenizer(pixels[1:])
    torch.testing.assert_close(together.tokens[1:], alone.tokens, atol=1e-5, rtol=1e-5)
    for found, expected in zip(together.maps, alone.maps, strict=True):
        torch.testing.assert_close(found[1:], expected, atol=1e-5, rtol=1e-5)


def test_every_map_carries_the_resized_place_table():
    tokenizer = randomised(build())
    pixels = torch.rand(1, 3, 16, 16)
    encoded = tokenizer.encoder((pixels - tokenizer.clip_mean) / tokenizer.clip_std).maps
    for level, bare in zip(tokenizer(pixels).maps, encoded, strict=True):
        places = resize_table(tokenizer.position_table[1:], tuple(level.shape[2:])).permute(2, 0, 1)
        torch.testing.assert_close(level - bare, places[None], atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter():
    tokenizer = randomised(build())
    features = tokenizer(torch.rand(2, 3, 16, 16))
    loss = (features.tokens * torch.randn_like(features.tokens)).sum()
    for level in features.maps:
        loss = loss + (level * torch.randn_like(level)).sum()
    loss.backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        # Added to all scores of a query alike: no influence, so no gradient but rounding.
        invariant = name.endswith(("k_proj.bias", "key_norm.bias"))
        assert invariant or parameter.grad.abs().max() > 0, name


def test_empty_batch_still_gives_every_parameter_a_gradient():
    tokenizer = build()
    features = tokenizer(torch.zeros(0, 3, 16, 16))
    (features.tokens.sum() + sum(level.sum() for level in features.maps)).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_double_precision_agrees_with_single():
    tokenizer = randomised(build())
    pixels = torch.rand(1, 3, 16, 16)
    single, double = tokenizer(pixels), tokenizer.double()(pixels.double())
    assert double.tokens.dtype == double.maps[0].dtype == torch.float64
    # Float32 rounding; the tables are the float32 ones in both.
    torch.testing.assert_close(single.tokens.double(), double.tokens, atol=1e-4, rtol=1e-4)


def test_under_autocast_tokens_are_made_in_full_precision_from_what_the_encoder_saw():
    tokenizer, seen = randomised(build()), []
    tokenizer.encoder.register_forward_hook(lambda _module, _given, made: seen.append(made.last_hidden_state))
    with torch.autocast("cpu", torch.bfloat16):
        tokens = tokenizer(torch.rand(2, 3, 16, 16)).tokens
    exact = tokenizer.projection(tokenizer.resampler(tokenizer.resampler_input(seen[0].float())))
    assert tokens.dtype == torch.float32 and torch.equal(tokens, exact)


def test_new_tokens_start_near_zero():
    assert build()(torch.rand(1, 3, 16, 16)).tokens.abs().max() < 0.05


def test_no_state_is_left_out_of_checkpoints():
    tokenizer = build()
    assert {name for name, _ in tokenizer.named_buffers()} <= set(tokenizer.state_dict())


def test_resetting_repeats_the_fixed_tables():
    tokenizer = build()
    before = {name: value.clone() for name, value in tokenizer.named_buffers()}
    for name in ("clip_mean", "clip_std", "position_table"):
        getattr(tokenizer, name).fill_(float("nan"))
    tokenizer.reset_parameters()
    for name, value in tokenizer.named_buffers():
        assert torch.equal(value, before[name]), name


def test_another_picture_size_is_refused():
    with pytest.raises(ShapeError, match="16 x 16"):
        build()(torch.rand(1, 3, 17, 16))
