"""Which parameters learn how fast: groups, the learning rate over time, and the running average of weights.

Source: spec §6.1 (release `deepspeed_zero1.json`, trainer). Deviation: all norms are exempt from weight decay, the release decays
RMSNorm, GroupNorm and the adapter's own norm by accident of a type check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from mm_interleaved.errors import ConfigError
from mm_interleaved.name_patterns import fits_any, is_chosen
from mm_interleaved.training.recipe import Recipe, TrainingRecipe
from mm_interleaved.training.shards import divided_like, own_part

HEADS = "heads."
"""Beginning of the names of an objective's own heads, which are trained whatever the recipe freezes."""


def freeze(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Leaves only the named parameters trainable; returns their names.

    Args:
        module: whose parameters are named.
        patterns: globs; a name is trained when a pattern matches it and no pattern behind a `!` does.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not fits_any(pattern, names):
            tops = sorted({name.split(".")[0] for name in names})
            raise ConfigError(f"trainable: no parameter is called '{pattern}'; names begin with {', '.join(tops)}.")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(is_chosen(name, patterns))
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def trained_patterns(recipe: Recipe, *, heads: bool) -> list[str]:
    """Patterns for `freeze`: the recipe's, heads of an objective, which are thrown away afterwards, and low-rank changes.

    Args:
        heads: whether the objective has heads.
    """
    patterns = [*recipe.trainable, *([f"{HEADS}*"] if heads else [])]
    return patterns if recipe.adapter is None else [*patterns, "*.lora_*", "!*.base_layer.*"]


def parameter_groups(module: nn.Module, recipe: TrainingRecipe) -> list[dict[str, Any]]:
    """Trainable parameters by (learning-rate factor, weight decay), each group with the names of its parameters.

    Biases, norms and single numbers never decay; the recipe's groups decide for the names they match.
    """
    collected: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rule = next((group for group in recipe.groups if fnmatchcase(name, group.match)), None)
        factor = 1.0 if rule is None else rule.learning_rate_factor
        decay = recipe.weight_decay if rule is None or rule.weight_decay is None else rule.weight_decay
        # Weights of every kind of norm, and biases, are the vectors among the parameters.
        if parameter.ndim <= 1:
            decay = 0.0
        group = collected.setdefault((factor, decay), {"params": [], "names": [], "factor": factor, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(collected.values())


def make_optimizer(groups: list[dict[str, Any]], recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, in one fused kernel per step."""
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True)


def learning_rate_at(step: int, recipe: TrainingRecipe) -> float:
    """Learning rate of optimizer step `step`, counted from 0: linear warm-up, then the recipe's schedule down to 0."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / (recipe.warmup_steps + 1)
    if recipe.schedule == "cosine":
        progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    decay_steps = max(1.0, recipe.decay_fraction * recipe.steps)
    return recipe.learning_rate * min(1.0, max(0.0, (recipe.steps - step) / decay_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group its share of the common learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def ema_decay_at(step: int, decay: float) -> float:
    """Decay of the weight average in step `step`: (1 + step) / (10 + step) at first, so that the random start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """Exponential running average of trainable weights, in float32 or finer; divided among processes as the weights are."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._source = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.values = {name: _fine(parameter).clone() for name, parameter in self._source.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the current weights after step `step`."""
        weight = 1.0 - ema_decay_at(step, self.decay)
        current = [own_part(_fine(parameter)) for parameter in self._source.values()]
        torch._foreach_lerp_([own_part(value) for value in self.values.values()], current, weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the average with the weights in the module; twice is nothing."""
        for name, parameter in self._source.items():
            held = own_part(_fine(parameter)).clone()
            own_part(parameter).copy_(own_part(self.values[name]))
            own_part(self.values[name]).copy_(held)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Continues from saved values; names were checked by the reader."""
        for name, value in self.values.items():
            own_part(value).copy_(own_part(divided_like(value, values[name])))


def _fine(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
