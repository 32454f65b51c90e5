"""The training loop: one model, one loop for every recipe.

    feed → objective (forward, loss) → backward → clip → AdamW → average of weights → row in losses.csv → checkpoint

The loop knows no loss by name. Everything random is a function of (seed, sample or step, purpose), so a run that is killed and
started again repeats the rows of one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from mm_interleaved.checkpoint.adapters import insert_adapter
from mm_interleaved.checkpoint.native import read_config
from mm_interleaved.data.sources import Skips
from mm_interleaved.errors import ConfigError, MMInterleavedError
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.ops.freed_memory import KeptMemory, keep_few_primitives, keep_freed_memory
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.training.assembly import FINAL, join_heads, make_corpus, make_mixture, make_model, picture_side, run_processor
from mm_interleaved.training.device import choose_attention, compute_in_float64, precision_of
from mm_interleaved.training.engines import checkpoint_parts, make_engine
from mm_interleaved.training.feed import Feed, WorkerFeed, key
from mm_interleaved.training.finishing import is_current, learn_words, merged_from_disk, whole_model, write_adapter, write_final
from mm_interleaved.training.objectives import make_objective
from mm_interleaved.training.optim import (
    WeightAverage,
    freeze,
    learning_rate_at,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
    trained_patterns,
)
from mm_interleaved.training.parts import DocumentBatch, Documents, Objective, StepTerms, TrainedNames, in_precision, tensors_of
from mm_interleaved.training.ranks import Ranks
from mm_interleaved.training.recipe import Recipe, as_yaml, changed_keys, read_model_config, read_saved_recipe
from mm_interleaved.training.report import Event, Finished, Rate, SamplesMade, Saved, Started, StepDone, Table, plot_losses
from mm_interleaved.training.shards import write_parts
from mm_interleaved.training.state import (
    Checkpoint,
    load_weights,
    newest_checkpoint,
    save_checkpoint,
    storage_error,
    write_text,
)
from mm_interleaved.training.vision import LabelledBatch
from mm_interleaved.training.watch import Watch, follow

SamplePage = Callable[[MMInterleavedForConditionalGeneration, MMInterleavedProcessor, int, Path], Path]
"""Writes a page of documents that the given model makes, below a folder; returns the page. Injected by whoever may generate."""


def train(
    recipe: Recipe,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    sample_page: SamplePage | None = None,
) -> Finished:
    """Trains a recipe, or goes on where the run in its output folder stopped.

    Args:
        recipe: what to train.
        on_event: told of the start, every step, every checkpoint, and the end.
        should_stop: asked after every step; True saves a checkpoint and ends the run, which can be resumed.
        sample_page: makes live sample pages every `sample_every` steps; None makes none.

    Raises:
        ConfigError: the recipe is wrong, or differs from the one the folder was begun with.
        CheckpointError: all checkpoints of the folder are damaged, or joined weights do not fit.
        StorageError: the disk is full; the run can be resumed.
        MMInterleavedError: the loss became infinite or not a number; the offending batch is saved.
    """
    return _Run(recipe, on_event, sample_page).go(should_stop)


@dataclass(frozen=True)
class _Ready:
    """What the feed prepares for one step of this rank."""

    micro_batches: list[Any]
    sources: dict[str, list[int]]
    """Where the sources stand after it."""


class _Run:
    """The state of one training run between two steps."""

    def __init__(self, recipe: Recipe, on_event: Callable[[Event], None], sample_page: SamplePage | None) -> None:
        self.recipe = recipe
        self.settings = recipe.training
        self.output = Path(recipe.output)
        self.checkpoints = self.output / "checkpoints"
        self.emit, self.sample_page = on_event, sample_page
        self.measures: dict[str, float] = {}
        self._sources = [source.name for source in recipe.data.sources]
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        # Autocast stands around the forward pass below, where one sees it. Without `cpu` a launcher on a CPU would be overlooked.
        self.accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
        self.ranks = Ranks(self.accelerator, self.settings.batch_size)
        if not self.ranks.main:
            self.emit = lambda event: None
        self.device = self.accelerator.device
        if self.device.type == "cpu":
            keep_freed_memory()
            keep_few_primitives()
        self.engine = make_engine(recipe, self.accelerator, self.ranks)
        if recipe.data.sources and recipe.data.lanes % self.ranks.count:
            raise ConfigError(f"data.lanes {recipe.data.lanes} is no multiple of the {self.ranks.count} processes; choose one that is.")
        if recipe.data.sources and self.settings.workers:
            raise ConfigError("training.workers: data.sources are read on in order, by one thread; use workers 0 (data.threads decode).")
        self.precision = precision_of(self.settings.mixed_precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**16, growth_interval=250, enabled=self.precision == "fp16")

        config = read_model_config(recipe)
        # Words alone need no pictures; they are composed at one pixel.
        self.corpus = make_corpus(recipe, side=1 if recipe.objective == "words" else picture_side(config))
        with self.accelerator.main_process_first():  # the others read what it writes
            checkpoint = self._earlier_run()
            again = checkpoint is not None or not self.ranks.main
            self.processor = run_processor(recipe, config, self.corpus.world, self.output / "processor", resumed=again)
        self.skips = Skips(_listing(self.output, self.ranks.rank, fresh=checkpoint is None) if recipe.data.sources else None)
        self.corpus.mixture = make_mixture(recipe, self.processor, config, self.skips)
        # Weights in few bits are read anew from their model; checkpoints hold what is trained beside them.
        self.few_bits = recipe.adapter is not None and recipe.adapter.bits is not None
        model = make_model(recipe, self.processor) if checkpoint is None or self.few_bits else _empty_model(checkpoint)
        torch.manual_seed(key(self.settings.seed, "adapter"))  # also where the model was read and nothing drawn before
        self.adapter = None if recipe.adapter is None else insert_adapter(model, recipe.adapter.settings())
        choose_attention(model, self.device, self.precision)
        self.objective: Objective = make_objective(recipe.objective, model, self.processor, self.corpus)
        if checkpoint is None and self.objective.keeps_heads:
            join_heads(self.objective.get_submodule("heads"), recipe)
        if isinstance(self.objective, Documents):
            self.objective.every_part = self.engine.needs_every_part
            if recipe.data.packing == "documents":
                limit = config.text_config.max_position_embeddings
                self.objective.row_tokens = limit if recipe.data.row_tokens is None else recipe.data.row_tokens
        checkpoint_parts(self.objective, self.settings.checkpointing)
        if self.precision == "float64":
            compute_in_float64(model)
            self.objective.double()  # its heads too
        self.objective.to(self.device)
        self.objective.mean_over_ranks = self.ranks.mean
        names = TrainedNames(self.objective)
        self.trained = trained = freeze(names, trained_patterns(recipe, heads=hasattr(self.objective, "heads")))
        sizes = {name: parameter.numel() for name, parameter in names.named_parameters()}
        self.watch: Watch | None = None
        self.step = 0
        if checkpoint is not None:
            self.step = checkpoint.step
            load_weights(names, checkpoint.tensors("model"), where=str(checkpoint.folder), only=trained if self.few_bits else None)
            self._continue_sources(checkpoint)
        self.objective.train()
        self.engine.wrap(self.objective)
        self.names = TrainedNames(self.objective)  # an engine may have put other parameters in place
        self.optimizer = make_optimizer(parameter_groups(self.names, self.settings), self.settings)
        self.average = WeightAverage(self.names, self.settings.ema_decay)
        if checkpoint is not None:
            self.average.load(checkpoint.tensors("ema"))
        self.engine.take_over(self.optimizer, None if checkpoint is None else checkpoint.tensors("optimizer"))
        columns = ("loss", *self.objective.columns, "learning_rate", "gradient_norm")
        if self.ranks.main:
            self.losses = Table(self.output / "losses.csv", columns, after_step=self.step)
            self.timing = Table(self.output / "timing.csv", ("seconds", "samples_per_second"), after_step=self.step)
        if self.settings.watch:
            self.objective.watched = self.corpus.names if isinstance(self.objective, Documents) else ()
            self.watch = Watch(self.output / "parts.csv", self.names, self.objective.watched, self.ranks, self.engine, after_step=self.step)
        if self.settings.trackers:
            follow(self.accelerator, recipe)
        self.emit(
            Started(
                name=recipe.name,
                output=self.output,
                steps=self.settings.steps,
                first_step=self.step,
                resumed_from=None if checkpoint is None else checkpoint.folder,
                trained_parameters=sum(sizes[name] for name in trained),
                all_parameters=sum(sizes.values()),
                precision=self.precision,
            )
        )

    def go(self, should_stop: Callable[[], bool]) -> Finished:
        """Runs the steps that are left, saves, and finishes."""
        try:
            return self._go(should_stop)
        finally:
            # Trackers end, and so does the group of processes: its threads would still hold tensors when the interpreter is gone.
            self.accelerator.end_training()

    def _go(self, should_stop: Callable[[], bool]) -> Finished:
        settings = self.settings
        feed = self._feed()
        rate = Rate(settings.steps - self.step, settings.batch_size)
        kept = KeptMemory()
        stopped = False
        try:
            for ready in feed:
                began = time.perf_counter()
                row = self._one_step(ready)
                if self.device.type == "cpu":
                    kept.after_step()
                if self.ranks.main:
                    self._report(row, rate, began)
                stopped = self._anybody(should_stop()) and self.step < settings.steps
                if stopped or self.step % settings.save_every == 0 or self.step == settings.steps:
                    self._save(ready.sources)
                if stopped:
                    break
                if self.ranks.main and settings.sample_every and self.step % settings.sample_every == 0:
                    self._sample()
        finally:
            feed.close()
            if self.ranks.main:
                self.losses.close()
                self.timing.close()
                if self.watch is not None and self.watch.table is not None:
                    self.watch.table.close()
        final = self._finish() if (self.ranks.main or self.engine.divides) and not stopped else None
        self.ranks.wait()
        finished = Finished(self.step, not stopped, final, self.measures, {name: self.skips.by_reason(name) for name in self._sources})
        self.emit(finished)
        return finished

    def _feed(self) -> Feed[_Ready] | WorkerFeed[_Ready]:
        settings = self.settings
        steps = {"start": self.step, "stop": settings.steps, "batch_size": settings.batch_size, "ahead": settings.prefetch}
        return WorkerFeed(self._prepare, **steps, workers=settings.workers) if settings.workers else Feed(self._prepare, **steps)

    def _prepare(self, indices: Sequence[int]) -> _Ready:
        # In the feed's thread: this rank's share of a step, as micro-batches, and where the sources stand after it.
        own = self.ranks.share(indices)
        size = math.ceil(len(own) / self.settings.accumulation)
        parts = [own[start : start + size] for start in range(0, len(own), size)]
        prepared = [self.objective.prepare(self.corpus, part) for part in parts]
        if self.settings.workers:
            prepared = [batch.in_bytes() if isinstance(batch, DocumentBatch | LabelledBatch) else batch for batch in prepared]
        return _Ready(prepared, self.corpus.state())

    def _one_step(self, ready: _Ready) -> dict[str, float]:
        settings = self.settings
        # Dropout, the only thing that draws inside the model, starts anew in every step; so nothing has to be saved for it.
        torch.manual_seed(key(settings.seed, self.step, "dropout"))
        rate = learning_rate_at(self.step, settings)
        set_learning_rate(self.optimizer, rate)
        names = self.objective.columns
        self.objective.begin_step(ready.micro_batches)
        shares = len(ready.micro_batches)
        told: list[Tensor] = []
        by_task: list[Tensor] = []
        for number, prepared in enumerate(ready.micro_batches, start=1):
            with self.engine.micro_batch(last=number == shares):
                terms = self._forward(prepared)
                if terms.total.requires_grad:  # a batch may hold nothing for the parts that are trained
                    self.engine.backward(self.scaler.scale(terms.total / shares))
            by_task += [] if terms.by_task is None else [terms.by_task]
            told.append(torch.stack([scalar.detach().double() for scalar in (terms.total, *(terms.columns[name] for name in names))]))
        self.engine.finish_gradients(self.objective)
        self.scaler.unscale_(self.optimizer)
        watched = {} if self.watch is None else self.watch.measure(sum(by_task[1:], by_task[0]) if by_task else None)
        norm = self.engine.clip(self.objective, settings.clip)
        # One transfer per step for everything that is written down.
        stacked = torch.stack(told)
        total, columns = stacked[:, 0].mean(), stacked[:, 1:].nanmean(dim=0)
        values = self.ranks.mean_of_present(torch.cat([torch.stack([total, norm.detach().double()]), columns])).tolist()
        # With fp16 the scale may have been too large; it is halved below, unless it cannot be the reason.
        skipped = not math.isfinite(values[1]) and self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if not (math.isfinite(values[0]) and (math.isfinite(values[1]) or skipped)):
            raise self._diverged(ready, values[0], values[1])
        self.engine.step(self.optimizer, self.scaler)
        if not skipped:
            self.average.update(self.step)
        self.step += 1
        row = {"loss": values[0], "gradient_norm": values[1], "learning_rate": rate, **dict(zip(names, values[2:], strict=True))}
        return row | watched

    def _forward(self, prepared: Any) -> StepTerms:
        prepared = prepared.to(self.device)
        if self.precision == "float64":
            prepared = in_precision(prepared, torch.float64)
        with self._autocast():
            return self.engine.call(prepared)

    def _anybody(self, wish: bool) -> bool:
        # All ranks have to leave the loop after the same step.
        return (self.ranks.count > 1 and bool(self.ranks.mean(torch.tensor(float(wish))) > 0)) or wish

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision in ("bf16", "fp16"))

    def _report(self, row: dict[str, float], rate: Rate, began: float) -> None:
        now = time.perf_counter()
        samples_per_second, left = rate.step(now)
        self.losses.add(self.step, row)
        if self.watch is not None and self.watch.table is not None:
            self.watch.table.add(self.step, row)
        if self.settings.trackers:
            self.accelerator.log({name: value for name, value in row.items() if not math.isnan(value)}, step=self.step)
        self.timing.add(self.step, {"seconds": now - began, "samples_per_second": samples_per_second})
        if self.step % self.settings.report_every == 0:
            plot_losses(self.losses.path, self.output / "losses.png")
            if self.watch is not None and self.watch.table is not None:
                plot_losses(self.watch.table.path, self.output / "parts.png")
        self.emit(
            StepDone(
                step=self.step,
                steps=self.settings.steps,
                loss=row["loss"],
                columns={name: row[name] for name in self.objective.columns},
                learning_rate=row["learning_rate"],
                gradient_norm=row["gradient_norm"],
                samples_per_second=samples_per_second,
                seconds_left=left,
            )
        )

    def _save(self, sources: dict[str, list[int]]) -> None:
        # Every rank reads its own lanes of the sources.
        standing = self.ranks.gather(sources) if self.recipe.data.sources else [{}]
        moments = self.engine.moments(self.optimizer)
        if not self.ranks.main and not self.engine.divides:
            return
        weights = {name: value for name, value in self.names.state_dict().items() if not self.few_bits or name in self.trained}
        tensors = {"model": weights, "ema": self.average.values, "optimizer": moments}
        if not self.ranks.main:
            self._write_together(tensors, None)
            return
        for table in (self.losses, self.timing, None if self.watch is None else self.watch.table):
            if table is not None:
                table.sync()
        state = {
            "next_sample": self.step * self.settings.batch_size,
            "learning_rate": learning_rate_at(self.step, self.settings),
            "recipe": self.recipe.model_dump(mode="json", by_alias=True),
            "versions": {name: version(name) for name in ("torch", "transformers", "diffusers", "accelerate")},
        }
        if self.recipe.data.sources:
            state["sources"] = {entry: numbers for own in standing for entry, numbers in own.items()}
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        folder = save_checkpoint(
            self.checkpoints,
            step=self.step,
            tensors=tensors,
            config=self.objective.model.config.to_json_string(use_diff=False),
            state=state,
            write=(lambda temporary: self._write_together(tensors, temporary)) if self.engine.divides else None,
        )
        self.emit(Saved(self.step, folder))

    def _write_together(self, tensors: Mapping[str, Mapping[str, Tensor]], folder: Path | None) -> None:
        self.ranks.write_together(lambda place: write_parts(place, tensors, rank=self.ranks.rank, ranks=self.ranks.count), folder)

    def _continue_sources(self, checkpoint: Checkpoint) -> None:
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        if self.corpus.mixture is not None:
            own = {
                entry: numbers
                for entry, numbers in checkpoint.state["sources"].items()
                if int(entry.partition("/")[0]) % self.ranks.count == self.ranks.rank
            }
            self.corpus.mixture.load(own)

    def _sample(self) -> None:
        if self.sample_page is None:
            return
        self.average.swap()
        self.objective.eval()
        try:
            (folder := self.output / "samples").mkdir(exist_ok=True)
            self.emit(SamplesMade(self.step, self.sample_page(self.objective.model, self.processor, self.step, folder)))
        finally:
            self.average.swap()
            self.objective.train()

    def _finish(self) -> Path | None:
        """Measures what the objective wants and writes the averaged weights as a model."""
        final = self.output / FINAL
        if self.engine.divides or self.step == 0 or not is_current(final, self.step):
            self.average.swap()
            self.objective.eval()
            model = whole_model(self.objective, self.names, self.ranks) if self.engine.divides else self.objective.model
            if model is None:
                return None
            with self._autocast():
                self.measures = self.objective.finish(self.corpus)
            if self.adapter is not None:
                adapter = self.output / f"{FINAL}-adapter"
                write_adapter(adapter, self.recipe, model, self.trained)
                if self.few_bits:
                    model = merged_from_disk(Path(self.recipe.model), adapter)
                else:
                    self.adapter.merge_and_unload()
            learn_words(self.processor, self.recipe)
            heads = self.objective.get_submodule("heads") if self.objective.keeps_heads else None
            write_final(final, self.recipe, model, self.processor, step=self.step, measures=self.measures, heads=heads)
        self.measures = json.loads((final / "training.json").read_text(encoding="utf-8"))["measures"]
        if self.step:
            plot_losses(self.losses.path, self.output / "losses.png")
        return final

    def _earlier_run(self) -> Checkpoint | None:
        saved = self.output / "recipe.yaml"
        if saved.is_file():
            differing = changed_keys(read_saved_recipe(saved), self.recipe.model_dump(mode="json", by_alias=True))
            if differing and any(self.checkpoints.glob("step-*")):
                raise ConfigError(
                    f"{self.output} was begun with another recipe; these keys differ: {', '.join(differing)}. "
                    "Give them their old values, or choose another output folder."
                )
        checkpoint = newest_checkpoint(self.checkpoints) if self.checkpoints.is_dir() else None
        if checkpoint is not None and checkpoint.step > self.settings.steps:
            raise ConfigError(f"{self.output} has {checkpoint.step} steps behind it, training.steps asks for {self.settings.steps}.")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.output, error) from error
        write_text(saved, as_yaml(self.recipe))
        return checkpoint

    def _diverged(self, ready: _Ready, loss: float, norm: float) -> MMInterleavedError:
        path = self.output / f"diverged-step-{self.step + 1:06d}.safetensors"
        several = len(ready.micro_batches) > 1
        tensors = {
            name: value.contiguous()
            for number, prepared in enumerate(ready.micro_batches)
            for name, value in tensors_of(prepared, f"{number}." if several else "")
        }
        first = self.step * self.settings.batch_size
        try:
            save_file(tensors, path)
        except Exception as error:
            path = Path(f"nowhere ({error})")
        return MMInterleavedError(
            f"step {self.step + 1}: the loss is {loss} and the gradient norm {norm}; expected finite numbers. Samples {first} … "
            f"{first + self.settings.batch_size - 1}, saved to {path}. The last checkpoint is intact: lower training.learning_rate or "
            "training.clip in a new output folder."
        )


def _empty_model(checkpoint: Checkpoint) -> MMInterleavedForConditionalGeneration:
    # Every weight is replaced by the checkpoint's; its config also holds what an init run brought along.
    return MMInterleavedForConditionalGeneration(read_config(checkpoint.folder))


def _listing(output: Path, rank: int, *, fresh: bool) -> Path:
    """Where this rank lists the samples that it skips; a new run begins a new list."""
    path = output / ("skipped.jsonl" if rank == 0 else f"skipped-rank-{rank}.jsonl")
    if fresh:
        write_text(path, "")
    return path
