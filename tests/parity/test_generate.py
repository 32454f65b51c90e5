"""Words and pictures against what the published code wrote and painted from the same weights and the same noise."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mm_interleaved.checkpoint.published import config_from_published, load_published
from mm_interleaved.generation.published import DenoisingStep, generate_images, generate_texts
from mm_interleaved.generation.published_options import PublishedImageOptions, PublishedTextOptions
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from tests.parity.conftest import (
    TOLERANCE,
    case_name,
    cases,
    check_files,
    padded,
    published_record,
    published_weights,
    record,
    relative_error,
    tensors,
)
from tests.parity.image_decoder import check_sampling_steps

pytestmark = pytest.mark.parity

CASES = cases("generate")


@cache
def _model() -> MMInterleavedForConditionalGeneration:
    model = MMInterleavedForConditionalGeneration(config_from_published(published_record()["config"])).eval()
    load_published(model, published_weights())
    return model


@cache
def _write(path: Path) -> tuple[Tensor, list[Tensor]]:
    """New tokens, and the scores of every step."""
    scores: list[Tensor] = []
    options = PublishedTextOptions.read(record(path)["generate_kwargs"])
    return generate_texts(_model(), *_rows(tensors(path)), options, watch=scores.append), scores


@cache
def _paint(path: Path) -> tuple[Tensor, list[DenoisingStep]]:
    """Pictures, and what happened in every step."""
    case, settings = tensors(path), dict(record(path)["generate_kwargs"])
    named = settings.pop("target_image_idxs", None)
    targets = case["in.target_image_idxs"].tolist() if "in.target_image_idxs" in case else named
    options = PublishedImageOptions.read(settings)
    steps: list[DenoisingStep] = []
    pictures = generate_images(
        _model(),
        *_rows(case),
        initial_latents=case["rng.initial_latents"],
        step_noise=padded(case["rng.step_noise"], options.steps),
        targets=targets,
        guidance=options.guidance,
        watch=steps.append,
    )
    return pictures, steps


def _rows(case: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return case["in.text_ids"], case["in.attention_mask"], case["in.image_tensors_u8"].float() / 255


def test_greedy_search_beam_search_and_pictures_are_recorded() -> None:
    written = [path for path in CASES if "out.text_ids" in tensors(path)]
    beams = [PublishedTextOptions.read(record(path)["generate_kwargs"]).beams for path in written]
    assert 1 in beams
    assert max(beams) > 1
    assert len(written) < len(CASES)


@pytest.mark.parametrize("path", CASES, ids=case_name)
def test_case(path: Path) -> None:
    check_files(path)
    case = tensors(path)
    if "out.text_ids" in case:
        _the_written_tokens_are_the_published_ones(path)
        if "out.step_logits" in case:
            _the_scores_of_every_step_equal_the_published_ones(path)
    else:
        check_sampling_steps(case)
        _pictures_are_painted_from_what_the_published_ones_are_painted_from(path)
        _every_denoising_step_equals_the_published_one(path)
        _the_painted_pictures_equal_the_published_ones(path)


def _the_written_tokens_are_the_published_ones(path: Path) -> None:
    found, _ = _write(path)
    assert found.tolist() == tensors(path)["out.text_ids"].tolist()


def _the_scores_of_every_step_equal_the_published_ones(path: Path) -> None:
    # Published processors write into the logits that were recorded: forbidden stop tokens are -inf, repetitions are punished.
    expected = tensors(path)["out.step_logits"]
    _, scores = _write(path)
    found = torch.stack(scores)
    assert found.shape == expected.shape
    allowed = expected.isfinite()
    assert torch.equal(found.isfinite(), allowed)
    errors = [relative_error(*pair) for pair in zip(_each(found, allowed), _each(expected, allowed), strict=True)]
    assert max(errors) < TOLERANCE, errors


def _each(steps: Tensor, allowed: Tensor) -> list[Tensor]:
    return [step[mask] for step, mask in zip(steps, allowed, strict=True)]


def _pictures_are_painted_from_what_the_published_ones_are_painted_from(path: Path) -> None:
    case, (_, steps) = tensors(path), _paint(path)
    first = steps[0]
    if "mid.unet_context_first_call" in case:
        assert relative_error(first.condition, case["mid.unet_context_first_call"]) < TOLERANCE
    if "mid.perceiver_out" in case:
        conditioned = first.condition[-case["mid.perceiver_out"].shape[0] :]
        assert relative_error(conditioned, case["mid.perceiver_out"]) < TOLERANCE
    if "mid.mmfs_mask_first_call" in case:
        assert torch.equal(first.visible, case["mid.mmfs_mask_first_call"] > 0)


def _every_denoising_step_equals_the_published_one(path: Path) -> None:
    case, (_, steps) = tensors(path), _paint(path)
    if "mid.timesteps" in case:
        assert [int(step.timestep) for step in steps] == case["mid.timesteps"].tolist()
    for name in ("prediction", "latents"):
        recorded = {"prediction": "mid.guided_noise_pred", "latents": "mid.latents_after_step"}[name]
        if recorded in case:
            errors = [relative_error(getattr(step, name), theirs) for step, theirs in zip(steps, case[recorded], strict=True)]
            assert max(errors) < TOLERANCE, (name, errors)


def _the_painted_pictures_equal_the_published_ones(path: Path) -> None:
    case, (pictures, steps) = tensors(path), _paint(path)
    assert relative_error(steps[-1].latents, case["out.latents"]) < TOLERANCE
    assert relative_error(pictures, case["out.image"]) < TOLERANCE
