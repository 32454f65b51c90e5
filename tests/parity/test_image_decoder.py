"""The image decoder computes what the published code computed, with its weights and its recorded random numbers."""

import pytest
import torch

from mm_interleaved.checkpoint.published import config_from_published
from mm_interleaved.checkpoint.published_image import IMAGE_DECODER_RULES
from mm_interleaved.checkpoint.rename import NameTable
from mm_interleaved.model.image_decoder import ImageDecoder
from tests.parity.conftest import (
    GRADIENT_TOLERANCE,
    TOLERANCE,
    case_name,
    cases,
    numbered,
    padded,
    published_record,
    published_weights,
    record,
    relative_error,
    tensors,
)

NAMES = NameTable(IMAGE_DECODER_RULES)
PREFIX = "image_decoder."

UNET_CASES = [path for path in cases("sd_unet_mmfs") if "in.sample" in tensors(path)]
AUTOENCODER_CASES = [path for path in cases("sd_unet_mmfs") if "in.image" in tensors(path)]
GRADIENT_CASES = [path for path in UNET_CASES if "in.grad_weight" in tensors(path)]


def published_decoder() -> ImageDecoder:
    weights = published_weights()
    config = config_from_published(published_record()["config"])
    decoder = ImageDecoder(
        config.image_decoder_part,
        context_width=config.text_config.hidden_size,
        feature_width=config.mmfs_part.value_width,
        constant_residual_without_image=config.behaviour_part.constant_residual_without_image,
    )
    ours = {PREFIX + name: tensor for name, tensor in decoder.state_dict().items()}
    renamed = NAMES.rename({name: tensor for name, tensor in weights.items() if name.startswith(PREFIX)})
    assert set(renamed) == set(ours)
    fitted = {name.removeprefix(PREFIX): tensor.reshape(ours[name].shape) for name, tensor in renamed.items()}
    decoder.load_state_dict(fitted, strict=True)
    return decoder.eval()


@pytest.fixture(scope="module")
def decoder() -> ImageDecoder:
    return published_decoder()


def flat_maps(case):
    return torch.cat([level.flatten(3).transpose(2, 3) for level in numbered(case, "in.mmfs_features")], dim=2)


def level_shapes(case):
    return tuple(tuple(level.shape[-2:]) for level in numbered(case, "in.mmfs_features"))


def run_unet(decoder, case, values, visible):
    return decoder.predict(case["in.sample"], case["in.timesteps"], case["in.encoder_hidden_states"], values, visible, level_shapes(case))


def assert_close(found, expected, what):
    error = relative_error(found, expected)
    assert error <= TOLERANCE, f"{what}: {error:.2e}"


def test_every_name_goes_to_ours_and_back():
    for name in published_weights():
        if name.startswith(PREFIX):
            assert NAMES.to_published(NAMES.to_ours(name)) == name


@pytest.mark.parametrize("path", UNET_CASES, ids=case_name)
def test_prediction_with_earlier_pictures(decoder, path):
    case = tensors(path)
    with torch.no_grad():
        values = decoder.project_features(flat_maps(case))
        found = run_unet(decoder, case, values, case["in.mmfs_mask"].bool())
    assert_close(found, case["out.sample"], "out.sample")


@pytest.mark.parametrize("path", [path for path in UNET_CASES if "out.sample_without_mmfs" in tensors(path)], ids=case_name)
def test_prediction_of_the_unet_alone(decoder, path):
    case = tensors(path)
    decoder.unet.constant_residual_without_image = False
    try:
        with torch.no_grad():
            found = run_unet(decoder, case, None, None)
    finally:
        decoder.unet.constant_residual_without_image = True
    assert_close(found, case["out.sample_without_mmfs"], "out.sample_without_mmfs")


@pytest.mark.parametrize("path", [path for path in UNET_CASES if "mid.mmfs_net.in_mid" in tensors(path)], ids=case_name)
def test_residuals_of_every_skip_and_the_middle(decoder, path):
    case = tensors(path)
    before = [*numbered(case, "mid.mmfs_net.in_down"), case["mid.mmfs_net.in_mid"]]
    after = [*numbered(case, "mid.mmfs_net.out_down"), case["mid.mmfs_net.out_mid"]]
    synchronizers = [*decoder.unet.skip_synchronizers, decoder.unet.middle_synchronizer]
    with torch.no_grad():
        values = decoder.project_features(flat_maps(case))
        visible = case["in.mmfs_mask"].bool()
        hidden = ~visible.any(dim=1)
        for index, synchronizer in enumerate(synchronizers):
            residual = synchronizer(before[index], values[index], visible, level_shapes(case))
            assert_close(residual, after[index] - before[index], f"residual {index}")
            # Without any picture the published residual is one constant per channel, the same as from a picture that is masked.
            constant = synchronizer(before[index], None, None)
            assert_close(constant[hidden], (after[index] - before[index])[hidden], f"constant residual {index}")


@pytest.mark.parametrize("path", GRADIENT_CASES, ids=case_name)
def test_gradients(path):
    decoder = published_decoder().requires_grad_(True)
    case = tensors(path)
    inputs = {name: tensor.requires_grad_() for name, tensor in case.items() if name.startswith("in.") and tensor.is_floating_point()}
    values = decoder.project_features(flat_maps(case))
    found = run_unet(decoder, case, values, case["in.mmfs_mask"].bool())
    (found * case["in.grad_weight"]).sum().backward()
    for name, expected in case.items():
        if name.startswith("grad.") and (source := "in." + name.removeprefix("grad.")) in inputs:
            assert relative_error(inputs[source].grad, expected, kind="gradients") <= GRADIENT_TOLERANCE, name
    parameters = {PREFIX + name: parameter for name, parameter in decoder.named_parameters()}
    largest = max(record(path)["param_grad_norms"].values())
    for name, norm in record(path)["param_grad_norms"].items():
        gradient = parameters[NAMES.to_ours(name)].grad
        assert gradient is not None and abs(float(gradient.norm()) - norm) <= GRADIENT_TOLERANCE * max(norm, 1e-3 * largest), name


@pytest.mark.parametrize("path", AUTOENCODER_CASES, ids=case_name)
def test_autoencoder(decoder, path):
    case = tensors(path)
    pixels = (case["in.image"] + 1) / 2
    with torch.no_grad():
        _, mean, logvar = decoder.reconstruct(pixels, torch.zeros_like(case["out.posterior_mean"]))
        scaling = decoder.vae.config["scaling_factor"]
        unit = decoder.encode(pixels, torch.zeros_like(mean))
        decoded = decoder.decode(case["in.latents"] * scaling)
    assert_close(mean, case["out.posterior_mean"], "out.posterior_mean")
    assert_close(logvar, case["out.posterior_logvar"], "out.posterior_logvar")
    assert_close(unit, case["out.posterior_mean"] * scaling, "latents on unit scale")
    assert_close(decoded, (case["out.decoded"] / 2 + 0.5).clamp(0, 1), "out.decoded")


@pytest.mark.parametrize("path", cases("whole_model"), ids=case_name)
def test_training_forward_up_to_the_prediction(decoder, path):
    case = tensors(path)
    with torch.no_grad():
        condition = decoder.condition(case["mid.context_features"], case["mid.context_attention_mask"].bool())
        assert_close(condition, case["mid.perceiver_out"], "mid.perceiver_out")
        dropped = case["rng.uncond_uniform"] < decoder.config.drop_condition
        condition = torch.where(dropped, decoder.negative_condition(condition.shape[0]), condition)
        assert_close(condition, case["mid.unet_context"], "mid.unet_context")
        latents = decoder.encode(case["in.image_tensors_dec_u8"].float() / 255, case["rng.vae_posterior_noise"])
        noisy = decoder.schedule.add_noise(latents, case["rng.diffusion_noise"], case["rng.timesteps"])
        assert_close(noisy, case["mid.noisy_latents"], "mid.noisy_latents")
        prediction = decoder.predict(noisy, case["rng.timesteps"], condition, None, None)
    # Pictures without an earlier one need no maps: theirs is the constant residual.
    first = ~case["mid.mmfs_mask"].bool().any(dim=1)
    assert first.any()
    assert_close(prediction[first], case["mid.unet_pred"][first], "mid.unet_pred")
    target = decoder.schedule.target(latents, case["rng.diffusion_noise"], case["rng.timesteps"])
    error = (prediction - target).square()
    assert_close(error[first], case["mid.unweighted_loss"][first], "mid.unweighted_loss")


@pytest.mark.parametrize("path", [path for path in cases("generate") if "rng.step_noise" in tensors(path)], ids=case_name)
def test_sampling_steps_and_decoding(decoder, path):
    case = tensors(path)
    steps = case["mid.timesteps"].shape[0]
    instants = decoder.schedule.inference_timesteps(steps)
    assert instants[:-1].tolist() == case["mid.timesteps"].tolist()
    latents, noise = case["rng.initial_latents"], padded(case["rng.step_noise"], steps)
    for index in range(steps):
        latents = decoder.schedule.step(case["mid.guided_noise_pred"][index], instants[index], instants[index + 1], latents, noise[index])
        assert_close(latents, case["mid.latents_after_step"][index], f"mid.latents_after_step {index}")
    with torch.no_grad():
        assert_close(decoder.decode(case["out.latents"]), case["out.image"], "out.image")
