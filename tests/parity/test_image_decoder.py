"""The image decoder computes what the published code computed, with its weights and its recorded random numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mm_interleaved.model.image_decoder import ImageDecoder
from tests.parity.conftest import (
    GRADIENT_TOLERANCE,
    case_name,
    cases,
    check_files,
    numbered,
    published_weights,
    record,
    relative_error,
    tensors,
)
from tests.parity.image_decoder import NAMES, PREFIX, assert_close, decoder_of_the_set, published_decoder

pytestmark = pytest.mark.parity

LevelShapes = tuple[tuple[int, int], ...]


def flat_maps(case: dict[str, Tensor]) -> Tensor:
    return torch.cat([level.flatten(3).transpose(2, 3) for level in numbered(case, "in.mmfs_features")], dim=2)


def level_shapes(case: dict[str, Tensor]) -> LevelShapes:
    return tuple(tuple(level.shape[-2:]) for level in numbered(case, "in.mmfs_features"))


def run_unet(decoder: ImageDecoder, case: dict[str, Tensor], values: list[Tensor] | None, visible: Tensor | None) -> Tensor:
    return decoder.predict(case["in.sample"], case["in.timesteps"], case["in.encoder_hidden_states"], values, visible, level_shapes(case))


def test_every_name_goes_to_ours_and_back() -> None:
    for name in published_weights():
        if name.startswith(PREFIX):
            assert NAMES.to_published(NAMES.to_ours(name)) == name


def test_predictions_and_an_autoencoder_are_recorded() -> None:
    recorded = [tensors(path) for path in cases("sd_unet_mmfs")]
    assert any("in.sample" in case for case in recorded)
    assert any("in.image" in case for case in recorded)


@pytest.mark.parametrize("path", cases("sd_unet_mmfs"), ids=case_name)
def test_case(path: Path) -> None:
    check_files(path)
    decoder, case = decoder_of_the_set(), tensors(path)
    if "in.image" in case:
        _autoencoder(decoder, case)
        return
    _prediction_with_earlier_pictures(decoder, case)
    if "out.sample_without_mmfs" in case:
        _prediction_of_the_unet_alone(decoder, case)
    if "mid.mmfs_net.in_mid" in case:
        _residuals_of_every_skip_and_the_middle(decoder, case)
    if "in.grad_weight" in case:
        _gradients(case, record(path)["param_grad_norms"])


def _prediction_with_earlier_pictures(decoder: ImageDecoder, case: dict[str, Tensor]) -> None:
    with torch.no_grad():
        values = decoder.project_features(flat_maps(case))
        found = run_unet(decoder, case, values, case["in.mmfs_mask"].bool())
    assert_close(found, case["out.sample"], "out.sample")


def _prediction_of_the_unet_alone(decoder: ImageDecoder, case: dict[str, Tensor]) -> None:
    decoder.unet.constant_residual_without_image = False
    try:
        with torch.no_grad():
            found = run_unet(decoder, case, None, None)
    finally:
        decoder.unet.constant_residual_without_image = True
    assert_close(found, case["out.sample_without_mmfs"], "out.sample_without_mmfs")


def _residuals_of_every_skip_and_the_middle(decoder: ImageDecoder, case: dict[str, Tensor]) -> None:
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


def _gradients(case: dict[str, Tensor], norms: dict[str, float]) -> None:
    decoder = published_decoder().requires_grad_(True)
    inputs = {name: tensor.requires_grad_() for name, tensor in case.items() if name.startswith("in.") and tensor.is_floating_point()}
    values = decoder.project_features(flat_maps(case))
    found = run_unet(decoder, case, values, case["in.mmfs_mask"].bool())
    (found * case["in.grad_weight"]).sum().backward()
    for name, expected in case.items():
        if name.startswith("grad.") and (source := "in." + name.removeprefix("grad.")) in inputs:
            assert relative_error(inputs[source].grad, expected, kind="gradients") <= GRADIENT_TOLERANCE, name
    parameters = {PREFIX + name: parameter for name, parameter in decoder.named_parameters()}
    largest = max(norms.values())
    for name, norm in norms.items():
        gradient = parameters[NAMES.to_ours(name)].grad
        # Below a thousandth of the largest, a norm is held to that: it is a sum of rounding errors more than of terms.
        assert gradient is not None and abs(float(gradient.norm()) - norm) <= GRADIENT_TOLERANCE * max(norm, 1e-3 * largest), name


def _autoencoder(decoder: ImageDecoder, case: dict[str, Tensor]) -> None:
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
