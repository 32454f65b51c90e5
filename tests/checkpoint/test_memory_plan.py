"""The memory plan counts what is really there."""

from __future__ import annotations

import pytest
import torch

from mm_interleaved.checkpoint.memory_plan import FORMATS, TRAINED, is_trained, plan_memory, plan_of
from mm_interleaved.checkpoint.published import config_from_published
from mm_interleaved.errors import ConfigError
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.testing import tiny_config, tiny_model
from mm_interleaved.training.optim import freeze
from tests.checkpoint.released import layout

TOLERANCE = 0.10
"""The plan may leave out what is not stored (tables of rotary angles), never more than this share."""

PUBLISHED_TRAINED = 1465e6
"""Numbers that the publication trains (spec §1.5), known to its four digits."""


def _elements(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


@pytest.fixture(scope="module")
def full() -> MMInterleavedForConditionalGeneration:
    with torch.device("meta"):
        return MMInterleavedForConditionalGeneration(config_from_published({"model": {}}))


def test_the_released_model_has_as_many_numbers_as_its_layout(full: MMInterleavedForConditionalGeneration) -> None:
    assert plan_of(full).elements == sum(map(_elements, layout().values())) == 14_912_865_824


def test_the_published_split_trains_what_the_publication_trained(full: MMInterleavedForConditionalGeneration) -> None:
    assert plan_of(full).trained == pytest.approx(PUBLISHED_TRAINED, rel=5e-4)
    assert all(any(is_trained(name) for name, _ in part.named_parameters(prefix)) for prefix, part in full.named_children())


def test_the_split_is_what_a_recipe_would_freeze(full: MMInterleavedForConditionalGeneration) -> None:
    named = [name for name, _ in full.named_parameters() if is_trained(name)]
    assert freeze(full, TRAINED) == named


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_plan_of_the_tiny_model_agrees_with_its_memory(dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    tensors = [*model.parameters(), *model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    planned = plan_memory(tiny_config()).total("fp32" if dtype == torch.float32 else "bf16")
    assert planned == pytest.approx(sum(storages.values()), rel=TOLERANCE)


def test_trained_bytes_agree_with_a_training_step() -> None:
    model = tiny_model()
    names = freeze(model, [pattern for pattern in TRAINED if "control_head" not in pattern])
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    averages = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    held = sum(tensor.nbytes for tensor in [*trained, *(parameter.grad for parameter in trained), *averages] if tensor is not None)
    plan = plan_of(model)
    assert len(names) == len(trained)
    assert plan.training() - 2 * (plan.elements - plan.trained) == pytest.approx(held, rel=TOLERANCE)


def test_fewer_bits_need_less_and_more_devices_need_less_each(full: MMInterleavedForConditionalGeneration) -> None:
    one, eight = plan_of(full), plan_of(full, devices=8)
    totals = [one.total(form) for form in FORMATS]
    assert totals == sorted(totals, reverse=True)
    for form in FORMATS:
        assert eight.total(form) / 8 < eight.sharded(form) < one.sharded(form) == one.total(form)
        assert one.offloaded(form) < one.total(form)
    assert eight.training() < one.training()


def test_every_number_is_counted_once() -> None:
    model = tiny_model()
    plan = plan_of(model)
    assert plan.elements == sum(tensor.numel() for tensor in model.state_dict().values())
    assert plan.total("fp32") == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_no_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="devices"):
        plan_of(tiny_model(), devices=0)
