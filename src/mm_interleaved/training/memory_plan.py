"""How much memory a training run takes, told before it begins.

Weights, gradients, AdamW's two averages and the running average are counted. What the forward pass keeps for the backward pass is
weighed on the run's own first micro-batch, each storage once; it is what grows with `batch_size` and shrinks with `checkpointing`
and `accumulation`. Temporary results inside single operations come on top.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mm_interleaved.checkpoint.adapters import insert_adapter
from mm_interleaved.training.assembly import make_corpus, make_mixture, make_model, make_processor, picture_side
from mm_interleaved.training.device import choose_attention, compute_in_float64, precision_of
from mm_interleaved.training.engines import checkpoint_parts
from mm_interleaved.training.objectives import make_objective
from mm_interleaved.training.optim import freeze, trained_patterns
from mm_interleaved.training.parts import TrainedNames, in_precision
from mm_interleaved.training.recipe import Recipe, read_model_config

STEPS_LOOKED_AT = 3
"""Steps whose largest batch is planned: tasks of a mixture differ in their pictures."""
MOMENTS_BYTES, AVERAGE_BYTES = 8, 4
"""Of one trained number in float32: AdamW's two averages, and the running average of weights."""


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes on one process."""

    trained: int
    """Numbers that are trained."""
    parameters: int
    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    """Kept for the backward pass of one micro-batch."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.average + self.activations

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"total": self.total}


def plan_training(recipe: Recipe, *, processes: int = 1) -> TrainingMemory:
    """Weighs a run. The model has to fit this machine, for one forward pass.

    Args:
        processes: among how many the batch is divided, and what their engine divides.

    Raises:
        ConfigError, DataError: as the run itself would.
    """
    from mm_interleaved.data.sources import Skips

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision_of(recipe.training.mixed_precision, device)
    config = read_model_config(recipe)
    corpus = make_corpus(recipe, side=1 if recipe.objective == "words" else picture_side(config))
    processor = make_processor(recipe, config, corpus.world)
    corpus.mixture = make_mixture(recipe, processor, config, Skips())
    # Which weights makes no difference to their size.
    model = make_model(recipe.model_copy(update={"init": ()}), processor)
    if recipe.adapter is not None:
        insert_adapter(model, recipe.adapter.settings())
    choose_attention(model, device)
    objective = make_objective(recipe.objective, model, processor, corpus)
    checkpoint_parts(objective, recipe.training.checkpointing)
    if precision == "float64":
        compute_in_float64(model)
    objective.to(device).train()
    freeze(TrainedNames(objective), trained_patterns(recipe, heads=hasattr(objective, "heads")))

    share = -(-recipe.training.batch_size // (processes * recipe.training.accumulation))
    kept = 0
    for step in range(min(STEPS_LOOKED_AT, recipe.training.steps)):
        prepared = objective.prepare(corpus, range(step * share, (step + 1) * share)).to(device)
        if precision == "float64":
            prepared = in_precision(prepared, torch.float64)
        kept = max(kept, _kept_for_backward(objective, prepared, precision, device))
    found = _counted(objective, kept)
    if recipe.training.engine == "fsdp2" and processes > 1:
        divided = {name: -(-getattr(found, name) // processes) for name in ("weights", "gradients", "moments", "average")}
        found = replace(found, **divided)
    if recipe.training.engine == "deepspeed" and processes > 1:
        # Its optimizer works on a copy of the weights, divided as the moments are.
        found = replace(found, moments=-(-(found.moments + found.gradients) // processes))
        if recipe.training.zero_stage == 2:
            found = replace(found, gradients=-(-found.gradients // processes))
    return found


def _counted(objective: torch.nn.Module, activations: int) -> TrainingMemory:
    parameters = list(objective.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trained)
    size = max((parameter.element_size() for parameter in trained), default=4)
    held = [*parameters, *objective.buffers()]
    return TrainingMemory(
        trained=count,
        parameters=sum(parameter.numel() for parameter in parameters),
        weights=sum(tensor.numel() * tensor.element_size() for tensor in held),
        gradients=count * size,
        moments=count * MOMENTS_BYTES * size // 4,
        average=count * AVERAGE_BYTES * size // 4,
        activations=activations,
    )


def _kept_for_backward(objective: torch.nn.Module, prepared: Any, precision: str, device: torch.device) -> int:
    own = {parameter.untyped_storage().data_ptr() for parameter in [*objective.parameters(), *objective.buffers()]}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None),
    ):
        terms = objective(prepared)
    assert terms is not None  # its graph holds what was weighed until here
    return sum(storages.values())
