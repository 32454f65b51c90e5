"""How several processes train one model: who holds which weights, and how gradients meet.

    average   every process holds everything; one averaging of all gradients after the backward pass (the default, also of one process)
    ddp       the same through accelerate's DDP, which averages while the backward pass runs
    fsdp2     weights, gradients and moments are divided by PyTorch's `fully_shard`, unit by unit of `FSDP_UNITS`
    deepspeed moments (ZeRO-1), or moments and gradients (ZeRO-2), are divided by DeepSpeed

On a CPU accelerate's own FSDP silently runs DDP; therefore `fully_shard` is called here, and refuses to be something else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
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

from mm_interleaved.errors import BackendError, ConfigError
from mm_interleaved.training.device import precision_of
from mm_interleaved.training.parts import Objective
from mm_interleaved.training.ranks import Ranks
from mm_interleaved.training.recipe import Recipe
from mm_interleaved.training.shards import own_part, whole_of
from mm_interleaved.training.state import load_optimizer, optimizer_tensors

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

    def take_over(self, optimizer: torch.optim.AdamW, moments: Mapping[str, Tensor] | None) -> None:
        """Gets the optimizer of a wrapped objective, and the moments of a checkpoint where there is one."""
        if moments is not None:
            load_optimizer(optimizer, moments)

    def backward(self, loss: Tensor) -> None:
        """The backward pass of a micro-batch."""
        self.accelerator.backward(loss)

    def gradient_of(self, parameter: nn.Parameter) -> Tensor | None:
        """The gradient of the whole step, between `finish_gradients` and `clip`; all processes have to ask for it."""
        return None if parameter.grad is None else parameter.grad.detach()

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

    def step(self, optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler) -> None:
        """Moves the weights and forgets the gradients."""
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def moments(self, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
        """What `take_over` puts back; all processes have to ask for it."""
        return optimizer_tensors(optimizer)


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


class ZeroRedundancy(Engine):
    """DeepSpeed's ZeRO of stage 1 or 2: every process has all weights and moves its share of them.

    The optimizer sees one long vector per group. A part that a step does not need therefore decays and coasts on its momentum, where
    the other engines leave it alone.
    """

    needs_every_part = True

    def __init__(self, accelerator: Accelerator, ranks: Ranks, configuration: dict[str, Any]) -> None:
        super().__init__(accelerator, ranks)
        self.configuration = configuration
        try:
            import deepspeed
        except ImportError as error:
            raise BackendError(f"training.engine deepspeed: {error}; pip install 'mm-interleaved[deepspeed]', or use fsdp2.") from error
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self._library: Any = deepspeed
        self._engine: Any = None
        self._members: list[list[tuple[str, nn.Parameter]]] = []

    def wrap(self, objective: Objective) -> None:
        self._objective = objective

    def take_over(self, optimizer: torch.optim.AdamW, moments: Mapping[str, Tensor] | None) -> None:
        self._members = [list(zip(group["names"], group["params"], strict=True)) for group in optimizer.param_groups]
        self._engine, *_ = self._library.initialize(model=self._objective, optimizer=optimizer, config=self.configuration)
        self.call = self._engine
        if moments:
            self._restore(optimizer, moments)

    def _restore(self, optimizer: torch.optim.AdamW, moments: Mapping[str, Tensor]) -> None:
        # DeepSpeed has put its own vector in the place of each group's parameters.
        tools = self._library.utils
        for group, members in zip(optimizer.param_groups, self._members, strict=True):
            (vector,) = group["params"]
            steps = [moments[f"step/{name}"] for name, _ in members if f"step/{name}" in moments]
            if not steps:
                continue
            state = {"step": torch.stack(steps).max().to(vector.device)}
            state |= {moment: torch.zeros_like(vector) for moment in ("exp_avg", "exp_avg_sq")}
            optimizer.state[vector] = state
            self._link(optimizer, vector, members)
            for name, parameter in members:
                for moment in ("exp_avg", "exp_avg_sq"):
                    if f"{moment}/{name}" in moments:
                        value = moments[f"{moment}/{name}"].to(vector.device)
                        tools.safe_set_full_optimizer_state(parameter, value, moment)

    def _link(self, optimizer: torch.optim.AdamW, vector: Tensor, members: list[tuple[str, nn.Parameter]]) -> None:
        # Each parameter's share of its group's moments. DeepSpeed links them when the first group has moved: the others have none yet.
        self._library.utils.lazy_init_hp_params_optimizer_state([parameter for _, parameter in members], vector, optimizer.state)

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        yield

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)  # the loop has divided by the number of micro-batches

    def gradient_of(self, parameter: nn.Parameter) -> Tensor | None:
        return self._library.utils.safe_get_full_grad(parameter)

    def finish_gradients(self, objective: Objective) -> None:
        return  # done in the backward pass

    def clip(self, objective: Objective, largest: float) -> Tensor:
        # One call of DeepSpeed's clips and moves the weights; the norm is told afterwards.
        self._engine.step()
        return torch.as_tensor(float(self._engine.get_global_grad_norm()))

    def step(self, optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler) -> None:
        return  # done while clipping

    def moments(self, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
        result = {}
        for group, members in zip(optimizer.param_groups, self._members, strict=True):
            (vector,) = group["params"]
            if not optimizer.state.get(vector):
                continue
            self._link(optimizer, vector, members)
            for name, parameter in members:
                result[f"step/{name}"] = optimizer.state[vector]["step"].clone()
                for moment in ("exp_avg", "exp_avg_sq"):
                    result[f"{moment}/{name}"] = self._library.utils.safe_get_full_optimizer_state(parameter, moment)
        return result


def deepspeed_configuration(recipe: Recipe, *, processes: int, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's configuration of a recipe, as accelerate's plugin builds it.

    Raises:
        ConfigError: settings that do not go together.
    """
    from accelerate import DeepSpeedPlugin

    settings = recipe.training
    precision = precision_of(settings.mixed_precision, device)
    if precision in ("fp16", "float64"):
        raise ConfigError(f"training.engine deepspeed keeps weights in float32 and computes in float32 or bf16, not in {precision}.")
    share, left = divmod(settings.batch_size, processes * settings.accumulation)
    if left:
        raise ConfigError(
            f"training.engine deepspeed: batch_size {settings.batch_size} is no multiple of {processes} processes × "
            f"{settings.accumulation} micro-batches; choose one that is."
        )
    written = {
        "train_batch_size": settings.batch_size,
        "train_micro_batch_size_per_gpu": share,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.clip,
        "zero_optimization": {"stage": settings.zero_stage},
        "zero_allow_untested_optimizer": True,
        # The only autocast that DeepSpeed leaves in force. Gradients are exchanged in float32.
        "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []},
    }
    plugin = DeepSpeedPlugin(
        hf_ds_config=written,
        gradient_accumulation_steps=settings.accumulation,
        gradient_clipping=settings.clip,
        zero_stage=settings.zero_stage,
        zero3_init_flag=False,
    )
    return plugin.deepspeed_config


def make_engine(recipe: Recipe, accelerator: Accelerator, ranks: Ranks) -> Engine:
    """The engine of a recipe; one process needs none.

    Raises:
        ConfigError: settings that do not go together.
        BackendError: DeepSpeed is not installed.
    """
    settings = recipe.training
    if settings.engine == "average" or ranks.count == 1:
        return Engine(accelerator, ranks)
    if recipe.objective not in ("documents", "words"):
        raise ConfigError(f"training.engine {settings.engine}: objective '{recipe.objective}' is trained with engine average only.")
    if settings.engine == "ddp":
        return DistributedDataParallel(accelerator, ranks)
    if settings.engine == "deepspeed":
        return ZeroRedundancy(accelerator, ranks, deepspeed_configuration(recipe, processes=ranks.count, device=accelerator.device))
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
