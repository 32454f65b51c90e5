from __future__ import annotations

import pytest
import torch
from torch import nn

from mm_interleaved.errors import ConfigError
from mm_interleaved.testing import tiny_model
from mm_interleaved.training.optim import (
    WeightAverage,
    ema_decay_at,
    freeze,
    learning_rate_at,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)
from mm_interleaved.training.recipe import TrainingRecipe

SETTINGS = TrainingRecipe(steps=100, warmup_steps=10, learning_rate=1.0, weight_decay=0.05)


def test_gates_offsets_biases_and_norms_do_not_decay_and_offsets_learn_ten_times_slower():
    model = tiny_model()
    freeze(model, ["*", "!image_decoder.vae.*"])
    placed = {name: (group["factor"], group["weight_decay"]) for group in parameter_groups(model, SETTINGS) for name in group["names"]}
    modules = dict(model.named_modules())
    assert set(placed) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, (factor, decay) in placed.items():
        owner = modules[name.rpartition(".")[0]]
        exempt = "offsets" in name or name.endswith((".gate", ".bias")) or "Norm" in type(owner).__name__
        assert factor == (0.1 if "offsets" in name else 1.0), name
        if exempt:
            assert decay == 0, name
    assert placed["context_projection.weight"] == (1.0, 0.05)
    assert any("offsets" in name for name in placed)
    assert any(name.endswith(".gate") for name in placed)


def test_only_named_parts_are_trained_and_a_wrong_pattern_is_refused():
    model = tiny_model()
    names = freeze(model, ["visual_tokenizer.*", "!*.resampler.*"])
    assert names
    assert all(name.startswith("visual_tokenizer.") and ".resampler." not in name for name in names)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(names)
    with pytest.raises(ConfigError, match=r"no parameter is called 'eye\.\*'"):
        freeze(model, ["eye.*"])


def test_the_learning_rate_rises_then_falls_to_zero():
    for schedule in ("cosine", "constant_then_linear"):
        settings = SETTINGS.model_copy(update={"schedule": schedule})
        rates = [learning_rate_at(step, settings) for step in range(101)]
        assert rates[:10] == sorted(rates[:10])
        assert 0 < rates[0] < 0.1
        assert rates[10] == max(rates) == 1.0
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[100] == pytest.approx(0, abs=1e-12)
    assert learning_rate_at(60, SETTINGS.model_copy(update={"schedule": "constant_then_linear"})) == 1.0


def test_each_group_gets_its_share_of_the_learning_rate():
    plain = {"names": ["a"], "weight_decay": 0.0}
    optimizer = make_optimizer([{"params": [nn.Parameter(torch.ones(1))], "factor": factor, **plain} for factor in (1.0, 0.1)], SETTINGS)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]


def test_the_average_equals_the_formula_and_swapping_twice_changes_nothing():
    layer = nn.Linear(2, 2)
    average = WeightAverage(layer, 0.9)
    expected = layer.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            layer.weight.add_(1.0)
        average.update(step)
        decay = ema_decay_at(step, 0.9)
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    weight = layer.weight.detach().clone()
    torch.testing.assert_close(average.values["weight"], expected)
    average.swap()
    torch.testing.assert_close(layer.weight.detach(), expected)
    average.swap()
    assert torch.equal(layer.weight, weight)


def test_the_average_forgets_the_random_start():
    assert ema_decay_at(0, 0.999) == 0.1
    assert ema_decay_at(10**6, 0.999) == 0.999
