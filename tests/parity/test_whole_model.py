"""The whole model in training: losses, what lies between, and gradients, against tensors recorded from the published code."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mm_interleaved.batch import IGNORED_TARGET, NO_DOCUMENT, NO_IMAGE, Batch, ModelOutput, NoiseDraw
from mm_interleaved.checkpoint.published import TABLE, config_from_published, export_published, load_published
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from tests.parity.conftest import (
    GRADIENT_TOLERANCE,
    TOLERANCE,
    case_name,
    cases,
    check_files,
    published_record,
    published_weights,
    record,
    relative_error,
    tensors,
)
from tests.parity.image_decoder import check_training_forward

pytestmark = pytest.mark.parity

CASES = cases("whole_model")


@cache
def _model() -> MMInterleavedForConditionalGeneration:
    model = MMInterleavedForConditionalGeneration(config_from_published(published_record()["config"])).eval()
    load_published(model, published_weights())
    for _, tensor in _differentiable(model):
        tensor.requires_grad_(True)
    return model


def _differentiable(model: MMInterleavedForConditionalGeneration) -> list[tuple[str, Tensor]]:
    # The fixed position tables are buffers here and frozen parameters in released code; their gradients were recorded too.
    tables = [(name, buffer) for name, buffer in model.named_buffers() if name.endswith("position_table")]
    return [*model.named_parameters(), *tables]


def _batch(case: dict[str, Tensor]) -> Batch:
    """Lays the recorded inputs out as the records of this package."""
    tokens: dict[str, int] = published_record()["config"]["model"]["special_token_dict"]
    ids, real = case["in.text_ids"], case["in.attention_mask"] > 0
    rows, length = ids.shape
    document = ((ids == tokens["bos_token_id"]).cumsum(1) - 1).clamp(min=0)
    image_row, image_begin = ((ids == tokens["soi_token_id"]) & real).nonzero(as_tuple=True)
    counts = case["in.num_image_per_seq"].flatten()
    slots = torch.arange(int(counts.max())).expand(rows, -1)
    row_images = torch.where(slots < counts[:, None], (counts.cumsum(0) - counts)[:, None] + slots, NO_IMAGE)
    images = image_row.shape[0]
    return Batch(
        token_ids=ids,
        document_index=torch.where(real, document, NO_DOCUMENT),
        position_ids=torch.arange(length).expand(rows, -1),
        targets=torch.cat([case["mid.gt_text_ids"], torch.full((rows, 1), IGNORED_TARGET)], dim=1),
        pixels=case["in.image_tensors_u8"].float() / 255,
        target_pixels=case["in.image_tensors_dec_u8"].float() / 255,
        target_image=torch.arange(images),
        target_weight=case.get("in.image_loss_mask", torch.ones(images)),
        image_row=image_row,
        image_begin=image_begin,
        row_images=row_images,
    ).check()


def _draw(case: dict[str, Tensor]) -> NoiseDraw:
    return NoiseDraw(
        noise=case["rng.diffusion_noise"],
        timestep=case["rng.timesteps"],
        posterior=case["rng.vae_posterior_noise"],
        drop=case["rng.uncond_uniform"].flatten(),
    )


@cache
def _run(path: Path) -> tuple[ModelOutput, dict[str, Tensor]]:
    """One forward and backward pass; gradients by released names."""
    case, weights = tensors(path), record(path)["loss_weights"]
    model = _model()
    for _, tensor in _differentiable(model):
        tensor.grad = None
    model.config.text_loss_weight, model.config.image_loss_weight = weights["txt"], weights["img"]
    output = model.forward_batch(_batch(case), _draw(case))
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in _differentiable(model) if parameter.grad is not None}
    return output, TABLE.rename(gradients, direction="to_published")


def test_the_released_weights_fill_the_model_and_come_back_unchanged() -> None:
    published = published_weights()
    exported = export_published(_model())
    missing = set(published) - set(exported)
    assert set(exported) <= set(published)
    assert all(TABLE.to_ours(name) is None for name in missing), "only keys listed as dropped may be lost"
    assert all(torch.equal(exported[name], published[name]) for name in exported)


def test_a_packed_case_is_recorded() -> None:
    assert any("in.nearest_bos_idxs" in tensors(path) for path in CASES)


@pytest.mark.parametrize("path", CASES, ids=case_name)
def test_case(path: Path) -> None:
    check_files(path)
    _what_images_and_words_may_see_equals_the_published_masks(path)
    check_training_forward(tensors(path))
    _losses_and_logits_equal_the_published_ones(path)
    _recorded_gradients_equal_ours(path)
    _gradient_norms_of_all_parameters_equal_the_published_ones(path)


def _what_images_and_words_may_see_equals_the_published_masks(path: Path) -> None:
    case = tensors(path)
    batch = _batch(case)
    if "mid.cross_attention_mask" in case:
        real = batch.token_mask
        assert torch.equal(batch.visible()[real], case["mid.cross_attention_mask"][real] > 0)
    earlier = batch.earlier_images(previous_only=True)
    assert torch.equal(earlier.any(1), case["mid.mmfs_mask"].flatten() > 0)
    if "in.nearest_bos_idxs" in case:
        assert torch.equal(batch.context_start(), case["in.nearest_bos_idxs"].flatten())
    length = batch.image_begin - batch.context_start() + 1
    assert torch.equal(length, case["mid.context_attention_mask"].sum(1))


def _losses_and_logits_equal_the_published_ones(path: Path) -> None:
    case = tensors(path)
    output, _ = _run(path)
    real = case["in.attention_mask"] > 0
    assert relative_error(output.logits[real], case["out.logits"][real]) < TOLERANCE
    if "mid.last_hidden_state" in case:
        assert relative_error(output.last_hidden_state[real], case["mid.last_hidden_state"][real]) < TOLERANCE
    assert relative_error(output.text_loss, case["out.loss_txt"]) < TOLERANCE
    assert relative_error(output.image_loss, case["out.loss_img"]) < TOLERANCE
    assert relative_error(output.loss, case["out.loss"]) < TOLERANCE


def _recorded_gradients_equal_ours(path: Path) -> None:
    _, gradients = _run(path)
    recorded = {name.removeprefix("grad."): tensor for name, tensor in tensors(path).items() if name.startswith("grad.")}
    assert recorded
    wrong: dict[str, float | str] = {}
    for name, expected in recorded.items():
        if name not in gradients:
            wrong[name] = "no gradient"
        elif (error := relative_error(gradients[name], expected, kind="gradients")) > GRADIENT_TOLERANCE:
            wrong[name] = error
    assert not wrong


def _gradient_norms_of_all_parameters_equal_the_published_ones(path: Path) -> None:
    _, gradients = _run(path)
    recorded: dict[str, float] = record(path)["param_grad_norms"]
    largest = max(recorded.values())
    wrong = {}
    for name, expected in recorded.items():
        if name not in gradients:
            wrong[name] = (expected, None)
            continue
        found = float(gradients[name].double().norm())
        # Below a millionth of the largest, a norm is rounding noise.
        if abs(found - expected) > GRADIENT_TOLERANCE * expected + 1e-6 * largest:
            wrong[name] = (expected, found)
    assert not wrong
