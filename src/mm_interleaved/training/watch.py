"""What people watch beside the losses: gradient norms of each part, how far the gates have opened, the loss of each task.

`parts.csv` has one row per step. Columns: `norm <part>` (before clipping), `gate <part>` (mean |tanh gate| of its synchronizers),
`text_loss <task>` (nats per trained token; empty where a step held none).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mm_interleaved.errors import ConfigError
from mm_interleaved.training.engines import Engine
from mm_interleaved.training.ranks import Ranks
from mm_interleaved.training.recipe import Recipe
from mm_interleaved.training.report import Table
from mm_interleaved.training.shards import whole_of

PARTS = ("visual_tokenizer", "language_model", "image_decoder.unet", "image_decoder.resampler")
"""Parts whose norms are told apart, by the beginnings of names; MMFS inside them is a part of its own."""

SYNCHRONIZER = "synchronizer"


def part_of(name: str) -> str:
    """The part that a parameter counts to."""
    part = next((part for part in PARTS if name.startswith(part + ".")), "rest")
    return f"{part} MMFS" if SYNCHRONIZER in name else part


class Watch:
    """The table of a run; every rank takes part in its numbers, the main one writes."""

    def __init__(self, path: Path, names: nn.Module, tasks: Sequence[str], ranks: Ranks, engine: Engine, *, after_step: int) -> None:
        self._ranks, self._engine, self.tasks = ranks, engine, tuple(tasks)
        self._members: dict[str, list[nn.Parameter]] = {}
        self._gates: dict[str, list[nn.Parameter]] = {}
        for name, parameter in names.named_parameters():
            if parameter.requires_grad:
                self._members.setdefault(part_of(name), []).append(parameter)
            if name.endswith(".gate"):
                self._gates.setdefault(name.partition(".")[0], []).append(parameter)
        columns = [f"norm {part}" for part in self._members] + [f"gate {part}" for part in self._gates]
        columns += [f"text_loss {task}" for task in self.tasks]
        self.table = Table(path, columns, after_step=after_step) if ranks.main else None

    @torch.no_grad()
    def measure(self, by_task: Tensor | None) -> dict[str, float]:
        """The row of a step, between its backward pass and clipping.

        Args:
            by_task: sum and number of trained tokens per task of this rank, as told by the objective.
        """
        values: list[Tensor] = []
        for members in self._members.values():
            gradients = [self._engine.gradient_of(parameter) for parameter in members]
            squares = [whole_of(gradient.square().sum()).double() for gradient in gradients if gradient is not None]
            values.append(torch.stack(squares).sum().sqrt() if squares else torch.tensor(0.0, dtype=torch.float64))
        for gates in self._gates.values():
            values.append(torch.cat([whole_of(gate.detach()).double().tanh().abs().flatten() for gate in gates]).mean())
        row = dict(zip([*(f"norm {part}" for part in self._members), *(f"gate {part}" for part in self._gates)], values, strict=True))
        told = {name: value.item() for name, value in row.items()}
        if by_task is not None:
            sums, counts = self._ranks.mean(by_task.double()).tolist()
            losses = [total / count if count else math.nan for total, count in zip(sums, counts, strict=True)]
            told |= {f"text_loss {task}": loss for task, loss in zip(self.tasks, losses, strict=True)}
        else:
            told |= {f"text_loss {task}": math.nan for task in self.tasks}
        return told


def follow(accelerator: Accelerator, recipe: Recipe) -> None:
    """Starts the trackers of a recipe.

    Raises:
        ConfigError: accelerate does not know one, or its library is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers

    wanted = list(recipe.training.trackers)
    unknown = [name for name in wanted if name not in LOGGER_TYPE_TO_CLASS]
    if unknown:
        raise ConfigError(f"training.trackers: accelerate has no '{unknown[0]}'; it has {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}.")
    missing = [name for name in wanted if not filter_trackers([name], recipe.output)]
    if missing:
        raise ConfigError(f"training.trackers: '{missing[0]}' is not installed; pip install {missing[0]}.")
    accelerator.log_with = filter_trackers(wanted, recipe.output)
    accelerator.init_trackers(recipe.name.replace("/", "-"))
