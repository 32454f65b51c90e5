"""How several processes train one model: who holds which weights, and how gradients meet.

    average   every process holds everything; one averaging of all gradients after the backward pass (the default, also of one process)
    ddp       the same through accelerate's DDP, which averages while the backward pass runs
    fsdp2     weights, gradients and moments are divided by PyTorch's `fully_shard`, unit by unit of `FSDP_UNITS`

On a CPU accelerate's own FSDP silently runs DDP; therefore `fully_shard` is called here, and refuses to be something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mm_interleaved.errors import ConfigError
from mm_interleaved.training.parts import Objective
from mm_interleaved.training.ranks import Ranks
from mm_interleaved.training.recipe import Recipe
from mm_interleaved.training.shards import own_part, whole_of

FSDP_UNITS = (
    "model.language_model.layers.*.self_attn",
    "model.language_model.layers.*.mlp",
    "model.visual_tokenizer.encoder.encoder.layers.*",
    "model.image_decoder.unet.down_blocks.*",
    "model.image_decoder.unet.mid_block",
    "model.image_decoder.unet.up_blocks.*",
)
"""Modules that are gathered as a whole, only while they compute. Everything else belongs to the root: embeddings, head, and the
synchronizers, whose values are projected outside their layer."""


class Engine:
    """The default: everything everywhere."""

    divides = False
    """Whether each process holds a part of the weights only."""
    needs_every_part = False
    """Whether every process has to run every part of the model in every micro-batch."""

    def __init__(self, accelerator: Accelerator, ranks: Ranks) -> None:
        self.accelerator, self.ranks = accelerator, ranks
        self.call: Callable[[Any], Any]
        """What is called with a prepared batch."""

    def wrap(self, objective: Objective) -> None:
        """Prepares the objective; trained parameters are known by then."""
        self.call = objective

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Around forward and backward pass of a micro-batch; only the last one of a step need exchange gradients."""
        yield

    def finish_gradients(self, objective: Objective) -> None:
        """After the last backward pass: gradients are those of the whole step, and parameters that nothing reached have none."""
        self.exchange_gradients(objective)
        drop_zero_gradients(objective, over_ranks=self.divides)

    def exchange_gradients(self, objective: Objective) -> None:
        """Brings the gradients of all processes together."""
        self.ranks.average_gradients(objective.parameters())

    def clip(self, objective: Objective, largest: float) -> Tensor:
        """Scales gradients down to a norm of `largest`; returns the norm that they had, over all processes."""
        norm = self.accelerator.clip_grad_norm_([p for p in objective.parameters() if p.requires_grad], largest)
        return whole_of(torch.as_tensor(norm))


class DistributedDataParallel(Engine):
    """accelerate's DDP."""

    needs_every_part = True

    def wrap(self, objective: Objective) -> None:
        self._wrapped = self.accelerator.prepare_model(objective)
        self.call = self._wrapped

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        if last:
            yield
        else:
            with self.accelerator.no_sync(self._wrapped):
                yield

    def exchange_gradients(self, objective: Objective) -> None:
        return  # done in the backward pass


class FullyShardedDataParallel(Engine):
    """PyTorch's FSDP2."""

    divides = True
    needs_every_part = True

    def wrap(self, objective: Objective) -> None:
        mesh = init_device_mesh(self.accelerator.device.type, (self.ranks.count,))
        for name, module in list(objective.named_modules()):
            if any(fnmatchcase(name, pattern) and name.count(".") == pattern.count(".") for pattern in FSDP_UNITS):
                fully_shard(module, mesh=mesh)
        fully_shard(objective, mesh=mesh)
        plain = [name for name, parameter in objective.named_parameters() if not isinstance(parameter, DTensor)]
        assert not plain, f"not divided: {plain[:3]}"
        self._root: Any = objective
        self.call = objective

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        self._root.set_requires_gradient_sync(last)
        yield

    def exchange_gradients(self, objective: Objective) -> None:
        return  # done in the backward pass


def make_engine(recipe: Recipe, accelerator: Accelerator, ranks: Ranks) -> Engine:
    """The engine of a recipe; one process needs none.

    Raises:
        ConfigError: settings that do not go together.
    """
    settings = recipe.training
    if settings.engine == "average" or ranks.count == 1:
        return Engine(accelerator, ranks)
    if recipe.objective not in ("documents", "words"):
        raise ConfigError(f"training.engine {settings.engine}: objective '{recipe.objective}' is trained with engine average only.")
    if settings.engine == "ddp":
        return DistributedDataParallel(accelerator, ranks)
    if settings.mixed_precision == "fp16":
        raise ConfigError("training.engine fsdp2 does not scale losses; use mixed_precision bf16.")
    if recipe.adapter is not None:
        raise ConfigError("training.engine fsdp2 does not merge adapters; train them with engine ddp, their weights are small.")
    if settings.sample_every:
        raise ConfigError("training.engine fsdp2 holds no whole model for live sample pages; set training.sample_every=0.")
    return FullyShardedDataParallel(accelerator, ranks)


@torch.no_grad()
def drop_zero_gradients(module: nn.Module, *, over_ranks: bool) -> None:
    """Takes away gradients that are exactly zero: AdamW then leaves the parameter alone instead of moving and shrinking it.

    Whether a part that a step does not need (no picture to paint, a gate that is still closed) gets no gradient or one of zeros depends
    on the engine: with several processes each of them runs every part. Without this two processes left one process behind in the first
    step that painted nothing.

    Args:
        over_ranks: gradients are divided; zero is what all processes find zero.
    """
    present = [parameter for parameter in module.parameters() if parameter.grad is not None]
    own = [own_part(parameter.grad).detach() for parameter in present if parameter.grad is not None]
    if not own:
        return
    largest = torch.stack([grad.abs().amax().double() if grad.numel() else grad.new_zeros((), dtype=torch.float64) for grad in own])
    if over_ranks:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    for parameter, value in zip(present, largest.tolist(), strict=True):
        if value == 0:
            parameter.grad = None


def checkpoint_parts(objective: Objective, parts: tuple[str, ...]) -> None:
    """Makes the layers of these parts compute again in the backward pass what they do not keep."""
    model = objective.model
    if "language_model" in parts:
        model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    if "visual_tokenizer" in parts:
        model.visual_tokenizer.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    if "image_decoder" in parts:
        model.image_decoder.unet.enable_gradient_checkpointing()
