"""The image decoder gives one error per picture, deterministic in its arguments, for any size."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from mm_interleaved.batch import NoiseDraw
from mm_interleaved.errors import ConfigError, ShapeError
from mm_interleaved.model import image_decoder
from mm_interleaved.model.configuration import ImageDecoderConfig
from mm_interleaved.model.image_decoder import ImageDecoder

CONTEXT_WIDTH = 7
FEATURE_WIDTH = 6
CONFIG = ImageDecoderConfig(
    unet={
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (8, 12),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 10,
        "attention_head_dim": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    vae={
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 3,
        "norm_num_groups": 2,
        "scaling_factor": 0.7,
    },
    resampler={"queries": 4, "width": 10, "layers": 1, "heads": 2, "feed_forward_width": 12, "head_norm": False, "dropout": 0.0},
    mmfs={"level_sides": (4, 2), "base_side": None, "heads": 2, "points": 2, "value_width": 8, "max_images": 5},
    noise={"kind": "flow"},
    image_side=16,
    drop_condition=0.5,
    feature_position_side=8,
)
CELLS = 4 * 4 + 2 * 2


def build(config=CONFIG, **keywords):
    torch.manual_seed(0)
    decoder = ImageDecoder(config, context_width=CONTEXT_WIDTH, feature_width=FEATURE_WIDTH, **keywords).eval()
    with torch.no_grad():
        for synchronizer in (*decoder.unet.skip_synchronizers, decoder.unet.middle_synchronizer):
            synchronizer.output_convolution.weight.normal_(std=0.3)
    return decoder


def arguments(images=3, earlier=2, side=8):
    torch.manual_seed(1)
    draw = NoiseDraw(
        noise=torch.randn(images, 3, side, side),
        timestep=torch.linspace(0.1, 0.9, images) if images else torch.zeros(0),
        posterior=torch.randn(images, 3, side, side),
        drop=torch.linspace(0.0, 0.9, images) if images else torch.zeros(0),
    )
    return {
        "target_pixels": torch.rand(images, 3, side * 2, side * 2),
        "context": torch.randn(images, 5, CONTEXT_WIDTH),
        "context_mask": torch.ones(images, 5, dtype=torch.bool),
        "maps": torch.randn(images, earlier, CELLS, FEATURE_WIDTH),
        "visible": torch.ones(images, earlier, dtype=torch.bool),
        "draw": draw,
    }


def test_error_is_that_of_the_prediction_against_the_velocity():
    decoder, given = build(), arguments()
    draw = given["draw"]
    with torch.no_grad():
        latents = decoder.encode(given["target_pixels"], draw.posterior)
        time = draw.timestep[:, None, None, None]
        condition = decoder.condition(given["context"], given["context_mask"])
        condition[draw.drop < 0.5] = decoder.negative_condition(1)[0]
        prediction = decoder.predict(
            (1 - time) * latents + time * draw.noise, draw.timestep, condition, decoder.project_features(given["maps"]), given["visible"]
        )
        expected = (prediction - (draw.noise - latents)).square().flatten(1).mean(1)
        torch.testing.assert_close(decoder(**given), expected)


def test_forward_is_deterministic_and_leaves_its_inputs_alone():
    decoder, given = build(), arguments()
    pixels = given["target_pixels"].clone()
    first = decoder(**given)
    assert torch.equal(first, decoder(**given))
    assert torch.equal(pixels, given["target_pixels"])
    assert first.shape == (3,) and first.dtype == torch.float32


def test_dropped_pictures_do_not_depend_on_their_context():
    decoder, given = build(), arguments()
    changed = given | {"context": torch.randn_like(given["context"])}
    same = decoder(**given) == decoder(**changed)
    assert same.tolist() == (given["draw"].drop < CONFIG.drop_condition).tolist()


def test_gradients_reach_context_maps_and_negative_condition_but_not_the_autoencoder():
    decoder, given = build(), arguments()
    given["context"].requires_grad_()
    given["maps"].requires_grad_()
    decoder(**given).sum().backward()
    kept = given["draw"].drop >= CONFIG.drop_condition
    assert (given["context"].grad.abs().sum(dim=(1, 2)) > 0).tolist() == kept.tolist()
    assert given["maps"].grad.abs().sum(dim=(2, 3)).min() > 0
    assert decoder.negative_tokens.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in decoder.vae.parameters())


def test_maps_projected_once_and_gathered_equal_maps_repeated_per_target():
    decoder, given = build(), arguments()
    pool = torch.randn(4, 1, CELLS, FEATURE_WIDTH)
    index = torch.tensor([[0, 1], [3, 3], [2, 0]])
    repeated = decoder(**given | {"maps": pool[:, 0][index]})
    torch.testing.assert_close(decoder(**given | {"maps": pool}, map_index=index), repeated)


def test_without_maps_the_error_equals_that_with_all_pictures_hidden():
    decoder, given = build(), arguments()
    hidden = given | {"visible": torch.zeros_like(given["visible"])}
    torch.testing.assert_close(decoder(**given | {"maps": None, "visible": None}), decoder(**hidden))
    published = build(constant_residual_without_image=True)
    torch.testing.assert_close(published(**given | {"maps": None, "visible": None}), published(**hidden))


def test_an_empty_batch_of_pictures_gives_an_empty_result():
    assert build()(**arguments(images=0)).shape == (0,)


def test_other_picture_sizes_than_the_configured_one_run():
    assert build()(**arguments(side=5)).isfinite().all()


@pytest.mark.parametrize("pooled", [False, True])
def test_pooled_context_reaches_the_time_embedding(pooled):
    decoder = build(replace(CONFIG, pooled_context=pooled))
    assert (decoder.unet.class_embedding is not None) is pooled
    if pooled:
        # Cross-attention alone sees tokens as a set; here all of its keys are silenced, so only the pooled vector, the last token, remains.
        with torch.no_grad():
            for name, parameter in decoder.unet.named_parameters():
                if "attn2.to_v" in name:
                    parameter.zero_()
            condition = torch.randn(1, 4, 10)
            latents, time = torch.randn(1, 3, 8, 8), torch.tensor([0.5])
            assert not torch.allclose(decoder.predict(latents, time, condition), decoder.predict(latents, time, condition + 1))
            others = torch.cat([condition[:, :-1] + 1, condition[:, -1:]], dim=1)
            torch.testing.assert_close(decoder.predict(latents, time, condition), decoder.predict(latents, time, others))


@pytest.mark.parametrize("statistics", [{}, {"latents_mean": [0.1, -2.0, 3.0], "latents_std": [0.5, 2.0, 4.0]}, {"shift_factor": 0.3}])
def test_unit_scale_is_undone_by_decoding(statistics):
    decoder = build(replace(CONFIG, vae=CONFIG.vae | statistics))
    pixels, zeros = torch.rand(2, 3, 16, 16), torch.zeros(2, 3, 8, 8)
    with torch.no_grad():
        reconstructed, mean, logvar = decoder.reconstruct(pixels, zeros)
        unit = decoder.encode(pixels, zeros)
        torch.testing.assert_close(decoder.decode(unit), reconstructed.clamp(0, 1))
        noise = torch.randn_like(zeros)
        scale = torch.tensor(statistics.get("latents_std", [1 / 0.7] * 3))[:, None, None]
        shift = torch.tensor(statistics.get("latents_mean", [statistics.get("shift_factor", 0.0)] * 3))[:, None, None]
        torch.testing.assert_close(decoder.encode(pixels, noise), (mean + (logvar / 2).exp() * noise - shift) / scale)


def test_training_the_autoencoder_needs_only_its_gradients_switched_on():
    decoder = build()
    pixels, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 3, 8, 8)
    assert not decoder.encode(pixels, noise).requires_grad
    decoder.vae.requires_grad_(True)
    reconstructed, mean, logvar = decoder.reconstruct(pixels, noise)
    ((reconstructed - pixels).square().mean() + 0.01 * (mean.square() + logvar.exp() - logvar).mean()).backward()
    assert all(parameter.grad is not None for parameter in decoder.vae.parameters())
    assert decoder.encode(pixels, noise).requires_grad


def test_the_whole_decoder_runs_in_float64():
    given = arguments()
    single = build()(**given)
    doubled = {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value for name, value in given.items()
    }
    draw = given["draw"]
    doubled["draw"] = NoiseDraw(
        noise=draw.noise.double(), timestep=draw.timestep.double(), posterior=draw.posterior.double(), drop=draw.drop
    )
    double = build().double()(**doubled)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def test_the_whole_decoder_runs_under_autocast_with_a_float32_error():
    with torch.autocast("cpu", torch.bfloat16):
        error = build()(**arguments())
    assert error.dtype == torch.float32
    torch.testing.assert_close(error, build()(**arguments()), rtol=0.1, atol=0.05)


def test_ddpm_runs_with_integer_timesteps():
    decoder, given = build(replace(CONFIG, noise={"kind": "ddpm"})), arguments()
    draw = replace(given["draw"], timestep=torch.tensor([0, 500, 999]))
    assert decoder(**given | {"draw": draw}).isfinite().all()


def test_attention_forms_differ_by_rounding_only(monkeypatch):
    monkeypatch.setattr(image_decoder, "is_intel", lambda: False)
    decoder, given = build(), arguments()
    results = []
    forms = {("cpu", True): AttnProcessor, ("cpu", False): AttnProcessor2_0, ("cuda", True): AttnProcessor2_0}
    for (device_type, backward), expected in forms.items():
        decoder.choose_attention(device_type, backward=backward)
        assert {type(processor) for processor in decoder.unet.attn_processors.values()} == {expected}
        results.append(decoder(**given))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("intel", "expected"), [(True, AttnProcessor2_0), (False, AttnProcessor)])
def test_attention_in_bfloat16_is_fused_on_processors_where_that_is_faster(monkeypatch, intel, expected):
    monkeypatch.setattr(image_decoder, "is_intel", lambda: intel)
    decoder = build()
    decoder.unet.to(torch.bfloat16)
    decoder.choose_attention("cpu", backward=False)
    assert {type(processor) for processor in decoder.unet.attn_processors.values()} == {expected}


@pytest.mark.parametrize("intel", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_attention_with_gradients_is_fused_where_that_is_faster(monkeypatch, intel, half):
    monkeypatch.setattr(image_decoder, "is_intel", lambda: intel)
    decoder = build()
    decoder.choose_attention("cpu", backward=True, half=half)
    expected = AttnProcessor2_0 if intel and not half else AttnProcessor
    assert {type(processor) for processor in decoder.unet.attn_processors.values()} == {expected}


def test_checkpointed_blocks_give_the_same_gradients():
    found = []
    for checkpointed in (False, True):
        decoder, given = build().train(), arguments()
        if checkpointed:
            decoder.unet.enable_gradient_checkpointing()
        given["maps"].requires_grad_()
        decoder(**given).sum().backward()
        found.append(given["maps"].grad)
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"resampler": CONFIG.resampler | {"width": 12}}, "cross_attention_dim"),
        ({"vae": CONFIG.vae | {"latent_channels": 4}}, "latent_channels"),
        ({"image_side": 15}, "multiple of 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        build(replace(CONFIG, **changed))


def test_noise_for_another_picture_size_is_refused():
    with pytest.raises(ShapeError, match="Posterior noise"):
        build().encode(torch.rand(1, 3, 16, 16), torch.randn(1, 3, 4, 4))


def test_entry_points_are_listed():
    for name in ImageDecoder.fsdp_forward_methods:
        assert callable(getattr(ImageDecoder, name))
