"""The image decoder with the recorded weights, and what cases of the whole model and of generation hold of it alone."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from mm_interleaved.checkpoint.published import config_from_published
from mm_interleaved.checkpoint.published_image import IMAGE_DECODER_RULES
from mm_interleaved.checkpoint.rename import NameTable
from mm_interleaved.model.image_decoder import ImageDecoder
from tests.parity.conftest import TOLERANCE, padded, published_record, published_weights, relative_error

NAMES = NameTable(IMAGE_DECODER_RULES)
PREFIX = "image_decoder."


def published_decoder() -> ImageDecoder:
    """The image decoder with the weights of the set."""
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


@cache
def decoder_of_the_set() -> ImageDecoder:
    """One decoder for all cases that compute no gradients."""
    return published_decoder()


def assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    """Holds a tensor to the recorded one."""
    error = relative_error(found, expected)
    assert error <= TOLERANCE, f"{what}: {error:.2e}"


def check_training_forward(case: dict[str, Tensor]) -> None:
    """Conditions, noisy latents and predictions of the pictures that have no earlier one."""
    decoder = decoder_of_the_set()
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


def check_sampling_steps(case: dict[str, Tensor]) -> None:
    """Each denoising step from the recorded prediction, and the decoded picture."""
    decoder = decoder_of_the_set()
    steps = case["mid.timesteps"].shape[0]
    instants = decoder.schedule.inference_timesteps(steps)
    assert instants[:-1].tolist() == case["mid.timesteps"].tolist()
    latents, noise = case["rng.initial_latents"], padded(case["rng.step_noise"], steps)
    for index in range(steps):
        latents = decoder.schedule.step(case["mid.guided_noise_pred"][index], instants[index], instants[index + 1], latents, noise[index])
        assert_close(latents, case["mid.latents_after_step"][index], f"mid.latents_after_step {index}")
    with torch.no_grad():
        assert_close(decoder.decode(case["out.latents"]), case["out.image"], "out.image")
