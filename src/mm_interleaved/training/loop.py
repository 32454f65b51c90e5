"""The training loop: one model, one loop for every recipe.

    feed → objective (forward, loss) → backward → clip → AdamW → average of weights → row in losses.csv → checkpoint

The loop knows no loss by name. Everything random is a function of (seed, sample or step, purpose), so a run that is killed and
started again repeats the rows of one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from mm_interleaved.checkpoint.native import read_config, save_model
from mm_interleaved.errors import ConfigError, MMInterleavedError
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.training.assembly import FINAL, HEADS_FILE, join_heads, make_corpus, make_model, picture_side, run_processor
from mm_interleaved.training.device import choose_attention, computes_bf16
from mm_interleaved.training.feed import Feed, key
from mm_interleaved.training.objectives import make_objective
from mm_interleaved.training.optim import WeightAverage, freeze, learning_rate_at, make_optimizer, parameter_groups, set_learning_rate
from mm_interleaved.training.parts import Objective, StepTerms, TrainedNames, tensors_of
from mm_interleaved.training.ranks import Ranks
from mm_interleaved.training.recipe import Recipe, as_yaml, changed_keys, read_model_config, read_saved_recipe
from mm_interleaved.training.report import Event, Finished, Rate, SamplesMade, Saved, Started, StepDone, Table, plot_losses
from mm_interleaved.training.state import (
    Checkpoint,
    load_optimizer,
    load_weights,
    newest_checkpoint,
    optimizer_tensors,
    save_checkpoint,
    storage_error,
    write_text,
)

SamplePage = Callable[[MMInterleavedForConditionalGeneration, MMInterleavedProcessor, int, Path], Path]
"""Writes a page of documents that the given model makes, below a folder; returns the page. Injected by whoever may generate."""

ALWAYS_TRAINED = "heads."
"""Heads of an objective, which are thrown away afterwards, are trained whatever the recipe freezes."""


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


class _Run:
    """The state of one training run between two steps."""

    def __init__(self, recipe: Recipe, on_event: Callable[[Event], None], sample_page: SamplePage | None) -> None:
        self.recipe = recipe
        self.settings = recipe.training
        self.output = Path(recipe.output)
        self.checkpoints = self.output / "checkpoints"
        self.emit, self.sample_page = on_event, sample_page
        self.measures: dict[str, float] = {}
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        # Autocast stands around the forward pass below, where one sees it. Without `cpu` a launcher on a CPU would be overlooked.
        self.accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
        self.ranks = Ranks(self.accelerator, self.settings.batch_size)
        if not self.ranks.main:
            self.emit = lambda event: None
        self.device = self.accelerator.device
        self.half = self.settings.mixed_precision == "bf16" or (self.settings.mixed_precision == "auto" and computes_bf16(self.device))

        config = read_model_config(recipe)
        # Words alone need no pictures; they are composed at one pixel.
        self.corpus = make_corpus(recipe, side=1 if recipe.objective == "words" else picture_side(config))
        with self.accelerator.main_process_first():  # the others read what it writes
            checkpoint = self._earlier_run()
            again = checkpoint is not None or not self.ranks.main
            self.processor = run_processor(recipe, config, self.corpus.world, self.output / "processor", resumed=again)
        model = make_model(recipe, self.processor) if checkpoint is None else _empty_model(checkpoint)
        choose_attention(model, self.device)
        self.objective: Objective = make_objective(recipe.objective, model, self.processor, self.corpus)
        if checkpoint is None and self.objective.keeps_heads:
            join_heads(self.objective.get_submodule("heads"), recipe)
        self.objective.to(self.device)
        self.objective.mean_over_ranks = self.ranks.mean
        self.names = TrainedNames(self.objective)
        trained = freeze(self.names, [*recipe.trainable, *([f"{ALWAYS_TRAINED}*"] if hasattr(self.objective, "heads") else [])])
        self.objective.train()
        self.optimizer = make_optimizer(parameter_groups(self.names, self.settings), self.settings)
        self.average = WeightAverage(self.names, self.settings.ema_decay)
        self.step = 0
        if checkpoint is not None:
            self.step = checkpoint.step
            load_weights(self.names, checkpoint.tensors("model"), where=str(checkpoint.folder))
            self.average.load(checkpoint.tensors("ema"))
            load_optimizer(self.optimizer, checkpoint.tensors("optimizer"))
        columns = ("loss", *self.objective.columns, "learning_rate", "gradient_norm")
        if self.ranks.main:
            self.losses = Table(self.output / "losses.csv", columns, after_step=self.step)
            self.timing = Table(self.output / "timing.csv", ("seconds", "samples_per_second"), after_step=self.step)
        sizes = {name: parameter.numel() for name, parameter in self.names.named_parameters()}
        self.emit(
            Started(
                name=recipe.name,
                output=self.output,
                steps=self.settings.steps,
                first_step=self.step,
                resumed_from=None if checkpoint is None else checkpoint.folder,
                trained_parameters=sum(sizes[name] for name in trained),
                all_parameters=sum(sizes.values()),
                precision="bf16" if self.half else "float32",
            )
        )

    def go(self, should_stop: Callable[[], bool]) -> Finished:
        """Runs the steps that are left, saves, and finishes."""
        settings = self.settings
        feed = Feed(
            lambda indices: self.objective.prepare(self.corpus, self.ranks.share(indices)),
            start=self.step,
            stop=settings.steps,
            batch_size=settings.batch_size,
            ahead=settings.prefetch,
        )
        rate = Rate(settings.steps - self.step, settings.batch_size)
        stopped = False
        try:
            for prepared in feed:
                began = time.perf_counter()
                row = self._one_step(prepared)
                if self.ranks.main:
                    self._report(row, rate, began)
                stopped = self._anybody(should_stop()) and self.step < settings.steps
                if self.ranks.main and (stopped or self.step % settings.save_every == 0 or self.step == settings.steps):
                    self._save()
                if stopped:
                    break
                if self.ranks.main and settings.sample_every and self.step % settings.sample_every == 0:
                    self._sample()
        finally:
            feed.close()
            if self.ranks.main:
                self.losses.close()
                self.timing.close()
        final = self._finish() if self.ranks.main and not stopped else None
        self.ranks.wait()
        finished = Finished(self.step, not stopped, final, self.measures)
        self.emit(finished)
        return finished

    def _one_step(self, prepared: Any) -> dict[str, float]:
        settings = self.settings
        # Dropout, the only thing that draws inside the model, starts anew in every step; so nothing has to be saved for it.
        torch.manual_seed(key(settings.seed, self.step, "dropout"))
        rate = learning_rate_at(self.step, settings)
        set_learning_rate(self.optimizer, rate)
        with self._autocast():
            terms: StepTerms = self.objective(prepared.to(self.device))
        if terms.total.requires_grad:  # a batch may hold nothing for the parts that are trained
            self.accelerator.backward(terms.total)
        self.ranks.average_gradients(self.objective.parameters())
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.objective.parameters(), settings.clip))
        # One transfer per step for everything that is written down.
        names = self.objective.columns
        scalars = [terms.total, norm, *(terms.columns[name] for name in names)]
        values = self.ranks.mean_of_present(torch.stack([scalar.detach().double() for scalar in scalars])).tolist()
        if not (math.isfinite(values[0]) and math.isfinite(values[1])):
            raise self._diverged(prepared, values[0], values[1])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.step += 1
        return {"loss": values[0], "gradient_norm": values[1], "learning_rate": rate, **dict(zip(names, values[2:], strict=True))}

    def _anybody(self, wish: bool) -> bool:
        # All ranks have to leave the loop after the same step.
        return (self.ranks.count > 1 and bool(self.ranks.mean(torch.tensor(float(wish))) > 0)) or wish

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)

    def _report(self, row: dict[str, float], rate: Rate, began: float) -> None:
        now = time.perf_counter()
        samples_per_second, left = rate.step(now)
        self.losses.add(self.step, row)
        self.timing.add(self.step, {"seconds": now - began, "samples_per_second": samples_per_second})
        if self.step % self.settings.report_every == 0:
            plot_losses(self.losses.path, self.output / "losses.png")
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

    def _save(self) -> None:
        for table in (self.losses, self.timing):
            table.sync()
        folder = save_checkpoint(
            self.checkpoints,
            step=self.step,
            tensors={"model": self.names.state_dict(), "ema": self.average.values, "optimizer": optimizer_tensors(self.optimizer)},
            config=self.objective.model.config.to_json_string(use_diff=False),
            state={
                "next_sample": self.step * self.settings.batch_size,
                "learning_rate": learning_rate_at(self.step, self.settings),
                "recipe": self.recipe.model_dump(mode="json", by_alias=True),
                "versions": {name: version(name) for name in ("torch", "transformers", "diffusers", "accelerate")},
            },
        )
        self.emit(Saved(self.step, folder))

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

    def _finish(self) -> Path:
        """Measures what the objective wants and writes the averaged weights as a model."""
        final = self.output / FINAL
        if self.step == 0 or not _is_current(final, self.step):
            self.average.swap()
            self.objective.eval()
            with self._autocast():
                self.measures = self.objective.finish(self.corpus)
            if self.settings.final_dtype == "bfloat16":
                # Fixed tables are buffers and keep their digits.
                for parameter in self.objective.model.parameters():
                    parameter.data = parameter.data.to(torch.bfloat16)
            save_model(self.objective.model, self.processor, final)
            if self.objective.keeps_heads:
                save_file(self.objective.get_submodule("heads").state_dict(), final / HEADS_FILE)
            write_text(final / "training.json", json.dumps({"step": self.step, "measures": self.measures}, indent=2))
            write_text(final / "recipe.yaml", as_yaml(self.recipe))
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

    def _diverged(self, prepared: Any, loss: float, norm: float) -> MMInterleavedError:
        path = self.output / f"diverged-step-{self.step + 1:06d}.safetensors"
        tensors = {name: value.contiguous() for name, value in tensors_of(prepared)}
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


def _is_current(final: Path, step: int) -> bool:
    try:
        return json.loads((final / "training.json").read_text(encoding="utf-8"))["step"] == step
    except (OSError, ValueError, KeyError):
        return False
