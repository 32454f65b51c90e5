"""Several processes that train one model together: each takes its share of every batch, gradients are averaged.

On a CPU this is also how one machine is used best: at these sizes two processes with one thread each train twice as fast as one process
with two threads. Started by `torchrun --nproc-per-node 2 -m mm_interleaved.cli.main train RECIPE`.

Averaging gradients of losses that are divided by the mean count of all ranks gives exactly the gradient of the whole batch's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn

from mm_interleaved.errors import ConfigError


class Ranks:
    """Which process this is, and what it shares with the others. With one process everything is the identity."""

    def __init__(self, accelerator: Accelerator, batch_size: int) -> None:
        """
        Raises:
            ConfigError: the batch cannot be divided among the processes.
        """
        self.count = accelerator.num_processes
        self.rank = accelerator.process_index
        self.main = accelerator.is_main_process
        """Whether this process writes files and reports."""
        if batch_size % self.count:
            raise ConfigError(f"training.batch_size {batch_size} is no multiple of the {self.count} processes; choose one that is.")

    def share(self, indices: Sequence[int]) -> Sequence[int]:
        """This rank's samples of a batch."""
        return indices[self.rank :: self.count]

    def mean(self, value: Tensor) -> Tensor:
        """Mean over ranks, without gradient."""
        value = value.detach().clone()
        if self.count > 1:
            dist.all_reduce(value)
            value /= self.count
        return value

    def mean_of_present(self, values: Tensor) -> Tensor:
        """Mean over ranks of each entry, over those ranks that have a number there; NaN where none has."""
        there = ~values.isnan()
        total, count = torch.stack([values.nan_to_num(), there.to(values.dtype)])
        return self.mean(total) / self.mean(count)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages gradients over ranks, in one message; a rank that has none for a parameter counts as zero."""
        if self.count == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained])
        dist.all_reduce(flat)
        flat /= self.count
        for parameter, gradient in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def write_together(self, write: Callable[[Path], None], folder: Path | None) -> None:
        """Every rank writes its part into the main rank's folder.

        Args:
            folder: given by the main rank, which must be visible to all.

        Raises:
            OSError: one of them could not.
        """
        place = [str(folder)]
        if self.count > 1:
            dist.broadcast_object_list(place, src=0)
        problem = None
        try:
            write(Path(place[0]))
        except (OSError, SafetensorError) as error:
            problem = f"rank {self.rank}: {error}"
        found = [text for text in self.gather(problem) if text is not None]
        if found:
            raise OSError(found[0])

    def wait(self) -> None:
        """Waits for all ranks."""
        if self.count > 1:
            dist.barrier()
