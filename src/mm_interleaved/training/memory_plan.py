"""How much memory a training run takes, told before it begins.

Weights, gradients, AdamW's two averages and the running average are counted. What a forward and a backward pass hold is weighed on the
largest of the run's own first micro-batches; it is what grows with `batch_size` and shrinks with `checkpointing` and `accumulation`.
What the process holds besides (drawings, collections, tokenizer, libraries) is seen in this process. Temporary results inside single
operations come on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from mm_interleaved.checkpoint.adapters import insert_adapter
from mm_interleaved.ops.freed_memory import keep_few_primitives
from mm_interleaved.training.assembly import make_corpus, make_mixture, make_model, make_processor, picture_side
from mm_interleaved.training.device import choose_attention, compute_in_float64, precision_of
from mm_interleaved.training.engines import checkpoint_parts
from mm_interleaved.training.feed import Corpus
from mm_interleaved.training.live_memory import LiveBytes, own_pages
from mm_interleaved.training.objectives import make_objective
from mm_interleaved.training.optim import freeze, trained_patterns
from mm_interleaved.training.parts import Objective, Prepared, TrainedNames, in_precision, tensors_of
from mm_interleaved.training.recipe import Recipe, read_model_config

FEWEST_BATCHES, MOST_BATCHES, SAMPLES_LOOKED_AT = 8, 96, 1000
"""First micro-batches of a run, the largest of which are weighed: tasks of a mixture differ in their words and pictures, and the largest of
eighty small batches held a third more than the largest of sixteen."""
HEAP_GAPS, HEAP_GAPS_IN_HALF = 0.28, 1.15
"""Share of what the passes hold that glibc's heap keeps besides: freed pieces that the next tensors do not fit; the second with autocast,
whose products take working memory that is no tensor's (it grows for some twenty steps). To give it back after every step would cost a
fifth of its time."""
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
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
    """Most that the passes of one micro-batch hold at once, beyond the gradients that they make."""
    batches: int
    """Batches that are ready, in the making, or trained on; 0 on a GPU, whose memory they are not in."""
    process: int
    """What else the process holds: drawings, collections, tokenizer, libraries. 0 on a GPU, and where the system does not tell."""
    gaps: int
    """Lost between tensors of changing sizes (`HEAP_GAPS`); 0 on a GPU."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.average + self.activations + self.batches + self.process + self.gaps

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"total": self.total}


def plan_training(recipe: Recipe, *, processes: int = 1) -> TrainingMemory:
    """Weighs a run. The model has to fit this machine, for one forward and one backward pass.

    Args:
        processes: among how many the batch is divided, and what their engine divides.

    Raises:
        ConfigError, DataError: as the run itself would.
    """
    from mm_interleaved.data.sources import Skips

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_few_primitives()  # as the run does: what oneDNN keeps stays in the process
    precision = precision_of(recipe.training.mixed_precision, device)
    config = read_model_config(recipe)
    pages = own_pages()
    corpus = make_corpus(recipe, side=1 if recipe.objective == "words" else picture_side(config))
    processor = make_processor(recipe, config, corpus.world)
    corpus.mixture = make_mixture(recipe, processor, config, Skips())
    process = own_pages() - pages
    # Which weights makes no difference to their size.
    model = make_model(recipe.model_copy(update={"init": ()}), processor)
    if recipe.adapter is not None:
        insert_adapter(model, recipe.adapter.settings())
    choose_attention(model, device, precision)
    objective = make_objective(recipe.objective, model, processor, corpus)
    checkpoint_parts(objective, recipe.training.checkpointing)
    if precision == "float64":
        compute_in_float64(model)
    objective.to(device).train()
    freeze(TrainedNames(objective), trained_patterns(recipe, heads=hasattr(objective, "heads")))

    pages = own_pages()
    share = -(-recipe.training.batch_size // (processes * recipe.training.accumulation))
    enough = min(MOST_BATCHES, max(FEWEST_BATCHES, SAMPLES_LOOKED_AT // share))
    looked_at = min(enough, recipe.training.steps * processes * recipe.training.accumulation)
    largest = _largest([range(number * share, (number + 1) * share) for number in range(looked_at)], objective, corpus)
    accumulated = recipe.training.accumulation > 1
    passes = max((_held_in_passes(objective, batch, precision, device, accumulated) for batch in largest), default=0)
    found = _counted(objective, passes, accumulated)
    if device.type == "cpu":
        sizes = [_bytes(batch) for batch in largest]
        process += own_pages() - pages - sum(sizes)
        waiting = (max(recipe.training.prefetch, recipe.training.workers) + 2) * recipe.training.accumulation
        gaps = int((HEAP_GAPS_IN_HALF if precision in HALF else HEAP_GAPS) * (found.gradients + found.activations))
        found = replace(found, batches=waiting * max(sizes, default=0), process=max(0, process), gaps=gaps)
    if recipe.training.engine == "fsdp2" and processes > 1:
        divided = {name: -(-getattr(found, name) // processes) for name in ("weights", "gradients", "moments", "average")}
        found = replace(found, **divided)
    if recipe.training.engine == "deepspeed" and processes > 1:
        # Its optimizer works on a copy of the weights, divided as the moments are.
        found = replace(found, moments=-(-(found.moments + found.gradients) // processes))
        if recipe.training.zero_stage == 2:
            found = replace(found, gradients=-(-found.gradients // processes))
    return found


def _counted(objective: Objective, passes: int, accumulated: bool) -> TrainingMemory:
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
        activations=passes if accumulated else max(0, passes - count * size),
        batches=0,
        process=0,
        gaps=0,
    )


def _largest(shares: Sequence[Sequence[int]], objective: Objective, corpus: Corpus) -> list[Prepared]:
    """Of the batches of these samples those with most entries in one of their tensors: most words, most pictures, most painted ones."""
    found: dict[str, tuple[int, Prepared]] = {}
    for indices in shares:
        batch = objective.prepare(corpus, indices)
        for name, tensor in tensors_of(batch):
            if name not in found or tensor.numel() > found[name][0]:
                found[name] = (tensor.numel(), batch)
    return list({id(batch): batch for _, batch in found.values()}.values())


def _bytes(batch: Prepared) -> int:
    return sum(tensor.numel() * tensor.element_size() for _, tensor in tensors_of(batch))


def _held_in_passes(objective: Objective, batch: Prepared, precision: str, device: torch.device, accumulated: bool) -> int:
    """Bytes that a forward and a backward pass hold at most; the gradients they make among them, unless those of others are there."""
    prepared = batch.to(device)
    if precision == "float64":
        prepared = in_precision(prepared, torch.float64)
    if accumulated:
        for parameter in objective.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    half = HALF.get(precision)
    there = [*objective.parameters(), *objective.buffers(), *(tensor for _, tensor in tensors_of(prepared))]
    with LiveBytes(there) as live:
        with torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None):
            total = objective(prepared).total
        if total.requires_grad:
            total.backward()
    objective.zero_grad(set_to_none=True)
    return live.peak
