"""What is learnt: each objective prepares batches from samples and turns one batch into a loss.

    documents    next word and next picture: the whole model, or a part of it
    words        next word alone, in documents whose pictures are left out
    autoencoder  pictures through the autoencoder and back
    paintings    pictures from vectors of what they show (`concepts.py`)
    concepts     the vectors from words, and next words (`concepts.py`)
    vision       what is where in a picture, through classification heads that are thrown away afterwards

All of them train the same model; the loss formulas stand in `model/objective.py`.
Axes: I images · C latent channels · h w latent grid · K picture tokens · D width of the language model · F feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mm_interleaved.batch import IGNORED_TARGET, Batch, NoiseDraw
from mm_interleaved.data.packing import Row
from mm_interleaved.data.playground.scene import Item, Scene
from mm_interleaved.data.playground.tasks import Sample
from mm_interleaved.data.sources import Example
from mm_interleaved.document import Text
from mm_interleaved.model.image_decoder import ImageDecoder
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.objective import autoencoder_loss, document_loss, text_terms
from mm_interleaved.processing.collate import pack_rows
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.processing.layout import Layout
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.training.feed import VALIDATION_START, Corpus, generator, key

STATISTICS_PICTURES = 2048
"""Pictures over which the latents' mean and standard deviation are measured."""

STATISTICS_BATCH = 64

POSTERIOR_LOGVAR_START = -6.0
"""Logarithm of the variance with which the posterior of a new autoencoder starts."""

CELLS = 3
"""The picture is divided into 3 x 3 cells for the question what is where."""

EVEN = 32
"""On CUDA devices batches hold a multiple of so many pictures to be encoded, and to be painted: cuDNN plans every shape of a convolution
anew, seconds a step where no two batches are alike."""

NO_SAMPLE = -1
"""Sample index of a blank document."""


@dataclass(frozen=True)
class StepTerms:
    """The loss of one batch, and what the loss table shows beside it."""

    total: Float[Tensor, ""]
    """What is differentiated."""
    columns: dict[str, Tensor]
    """Means by column name; NaN where the batch has nothing of the kind."""
    by_task: Tensor | None = None
    """2 x tasks: cross entropy summed over trained tokens, and their number (`Objective.watched`)."""


class Prepared(Protocol):
    """A batch of any objective."""

    def to(self, device: torch.device) -> Any: ...


class Objective(nn.Module):
    """Base: the model, and heads of its own for some objectives."""

    columns: tuple[str, ...]
    keeps_heads = False
    """Whether the heads are saved beside the finished model, for a later run that names "heads" among the parts of an `init` entry."""
    watched: tuple[str, ...] = ()
    """Tasks whose losses are told apart (`StepTerms.by_task`)."""
    mean_over_ranks: Callable[[Tensor], Tensor] = staticmethod(lambda value: value)
    """Mean of a count over all processes (`ranks.Ranks.mean`)."""

    def __init__(self, model: MMInterleavedForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> Prepared:
        """Makes the batch of these samples; each entry depends on its own index only."""
        raise NotImplementedError

    def begin_step(self, micro_batches: Sequence[Any]) -> None:
        """Told of all micro-batches of a step on this rank before the first is computed. By default they count alike."""

    def finish(self, corpus: Corpus) -> dict[str, float]:
        """What is measured and stored once, with the averaged weights, when all steps are done."""
        return {}


@dataclass(frozen=True)
class DocumentBatch:
    """A packed batch and its random numbers."""

    batch: Batch
    draw: NoiseDraw
    tasks: tuple[str, ...] = ()
    """Task or source of each row; rows that several share have none."""
    blanks: int = 0
    """Painted pictures at its end that stand for nothing (`Documents.every_part`)."""
    synchronized: Bool[Tensor, "B T 1"] | None = None
    """Where the language model's synchronizers add anything; None means everywhere."""

    def to(self, device: torch.device) -> DocumentBatch:
        synchronized = None if self.synchronized is None else self.synchronized.to(device)
        moved = replace(self, batch=self.batch.to(device).in_fractions(), draw=self.draw.to(device), synchronized=synchronized)
        return moved.evened(EVEN) if device.type == "cuda" else moved

    def in_bytes(self) -> DocumentBatch:
        """The same in a quarter of the size, as one process hands it to another; `to` undoes it."""
        return replace(self, batch=self.batch.in_bytes())

    def evened(self, multiple: int) -> DocumentBatch:
        """The same with its numbers of encoded and of painted pictures brought up to a multiple; those added are read by nothing and
        weigh nothing."""
        batch, draw = self.batch, self.draw
        encoded, painted = -batch.pixels.shape[0] % multiple, -batch.target_pixels.shape[0] % multiple
        targets = {name: _longer(getattr(batch, name), painted) for name in ("target_pixels", "target_image", "target_weight")}
        batch = replace(batch, pixels=_longer(batch.pixels, encoded), **targets)
        draw = NoiseDraw(**{each.name: _longer(getattr(draw, each.name), painted) for each in fields(draw)})
        return replace(self, batch=batch, draw=draw, blanks=self.blanks + painted)


def _longer(values: Tensor, more: int) -> Tensor:
    return torch.cat([values, values.new_zeros(more, *values.shape[1:])]) if more else values


class Documents(Objective):
    """Next word and next picture."""

    columns: tuple[str, ...] = ("text_loss", "image_loss")

    row_tokens: int | None = None
    """Tokens of a row that whole documents share; None gives each document a row of its own."""
    every_part = False
    """Whether a batch that has nothing to read or nothing to paint gets a blank document of weight 0, so that every process runs every
    part of the model: engines that exchange gradients or weights inside the passes would wait for each other for ever."""

    def __init__(self, model: MMInterleavedForConditionalGeneration, processor: MMInterleavedProcessor) -> None:
        super().__init__(model)
        self._processor = processor
        self._step_counts: tuple[Tensor, Tensor] | None = None

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> DocumentBatch:
        return self.batch(corpus.samples(indices), corpus, indices)

    def batch(self, samples: Sequence[Sample | Example | Row], corpus: Corpus, indices: Sequence[int]) -> DocumentBatch:
        """The batch of samples that are already composed."""
        layouts: list[Layout] = []
        owners: list[int] = []  # sample of each layout
        rows: list[Sequence[int]] = []
        for sample, index in zip(samples, indices, strict=True):
            first = len(layouts)
            layouts += sample.pieces if isinstance(sample, Row) else [self._laid_out(sample, corpus, index)]
            owners += [index] * (len(layouts) - first)
            rows.append(range(first, len(layouts)))
        if self.row_tokens is not None:
            rows = list(pack_rows([len(layout) for layout in layouts], self.row_tokens))
        reads = any(len(layout.images) > layout.last_unread for layout in layouts)
        blank = self.every_part and not (reads and any(any(layout.image_trained) for layout in layouts))
        if blank:
            rows.append([len(layouts)])
            layouts.append(self._blank())
            owners.append(NO_SAMPLE)
        batch = self._processor.collate(layouts, pack=rows)
        blanks = 0
        if blank:
            weight = torch.where(batch.image_row[batch.target_image] == len(rows) - 1, 0.0, batch.target_weight)
            batch, blanks = replace(batch, target_weight=weight), int((weight == 0).sum())
        own = [[owners[member] for member in row] for row in rows]
        names = {index: sample.task for sample, index in zip(samples, indices, strict=True)}
        tasks = tuple(names.get(row[0], "") if len(set(row)) == 1 else "" for row in own)
        return DocumentBatch(batch, self.draw(batch, corpus.seed, own), tasks, blanks, self._synchronized(batch, corpus, own))

    @staticmethod
    def _synchronized(batch: Batch, corpus: Corpus, owners: Sequence[Sequence[int]]) -> Bool[Tensor, "B T 1"] | None:
        # None where all are, so that nothing is multiplied in the usual run.
        alone = [[owner != NO_SAMPLE and corpus.reads_tokens_alone(owner) for owner in row] for row in owners]
        if not any(map(any, alone)):
            return None
        synchronized = torch.ones(*batch.token_ids.shape, 1, dtype=torch.bool)
        for row, documents in enumerate(alone):
            for document, closed in enumerate(documents):
                if closed:
                    synchronized[row, batch.document_index[row] == document] = False
        return synchronized

    def _blank(self) -> Layout:
        # Two pictures: the second one is painted from the first, so that every synchronizer has something to read.
        grey = np.full((self._processor.image_side, self._processor.image_side, 3), 128, dtype=np.uint8)
        layout = self._processor.lay_out(["a", grey, "a", grey])
        return replace(layout, targets=(IGNORED_TARGET,) * len(layout), image_trained=(True, True))

    def _laid_out(self, sample: Sample | Example, corpus: Corpus, index: int) -> Layout:
        closed = not isinstance(sample, Example) or sample.closed
        last_unread = corpus.leaves_last_unread(index)
        layout = self._processor.lay_out(sample.segments, prompt=sample.prompt, closed=closed, last_unread=last_unread)
        return layout if corpus.is_painted(index) else replace(layout, image_trained=(False,) * len(layout.images))

    def draw(self, batch: Batch, seed: int, owners: Sequence[Sequence[int]]) -> NoiseDraw:
        """Random numbers of every painted picture, keyed by its sample and its place in it.

        Args:
            owners: which sample each document of each row belongs to.
        """
        decoder = self.model.image_decoder
        rows, begins = batch.image_row.tolist(), batch.image_begin.tolist()
        own = [(row, owners[row][int(batch.document_index[row, begin])]) for row, begin in zip(rows, begins, strict=True)]
        places = [(own[image][1], own[:image].count(own[image])) for image in batch.target_image.tolist()]
        sources = [generator(seed, index, place, "noise") for index, place in places]
        shape = latent_shape(decoder)

        def normal() -> Tensor:
            drawn = [torch.randn(shape, generator=source) for source in sources]
            return torch.stack(drawn) if drawn else torch.zeros(0, *shape)

        noise, posterior = normal(), normal()
        uniform = torch.tensor([torch.rand(2, generator=source).tolist() for source in sources]).reshape(-1, 2)
        timestep = decoder.schedule.draw_timestep(uniform[:, 0])
        return NoiseDraw(noise=noise, timestep=timestep, posterior=posterior, drop=uniform[:, 1])

    def forward(self, prepared: DocumentBatch) -> StepTerms:
        output = self.model.forward_batch(prepared.batch, prepared.draw, synchronized=prepared.synchronized)
        terms = output.terms
        assert terms is not None  # forward_batch always gives them
        config = self.model.config
        # Divided by the mean counts of all ranks and micro-batches, so that the mean over them, of the total and of the columns
        # alike, is the whole step's.
        text_count, image_count = self._step_counts or (terms.text_count, self._counted(terms.image_count, prepared))
        found = document_loss(
            text=(terms.text_sum, self.mean_over_ranks(text_count.to(terms.text_count))),
            image=(terms.image_sum, self.mean_over_ranks(image_count.to(terms.image_count))),
            text_loss_weight=config.text_loss_weight,
            image_loss_weight=config.image_loss_weight,
        )
        nothing = torch.full_like(found.total, torch.nan)
        columns = {
            "text_loss": torch.where(found.text_count > 0, found.text, nothing),
            "image_loss": torch.where(found.image_count > 0, found.image, nothing),
        }
        assert output.logits is not None
        by_task = task_terms(output.logits, prepared.batch.targets, prepared.tasks, self.watched) if self.watched else None
        return StepTerms(found.total, columns, by_task)

    def begin_step(self, micro_batches: Sequence[DocumentBatch]) -> None:
        """Counts what the losses of the step will be divided by; a single micro-batch counts for itself."""
        self._step_counts = None
        if len(micro_batches) > 1:
            text = sum(int((prepared.batch.targets != IGNORED_TARGET).sum()) for prepared in micro_batches)
            image = sum(self.model.counted_images(prepared.batch) - self._surplus(prepared) for prepared in micro_batches)
            share = 1 / len(micro_batches)
            self._step_counts = torch.tensor(text * share, dtype=torch.float64), torch.tensor(image * share, dtype=torch.float64)

    def _counted(self, count: Tensor, prepared: DocumentBatch) -> Tensor:
        return count - self._surplus(prepared) if prepared.blanks else count

    def _surplus(self, prepared: DocumentBatch) -> int:
        # `published` also counts pictures of weight 0; blanks are none of the batch's.
        return prepared.blanks if self.model.behaviour.image_mean_over_all else 0


class WordsOnly(Documents):
    """Next word in the texts of documents; everything is trained, prompts too."""

    columns = ("text_loss",)

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> DocumentBatch:
        texts, tasks = [], []
        for sample in corpus.samples(indices):
            assert not isinstance(sample, Row)  # the recipe refuses them here
            texts.append([part for part in sample.segments if isinstance(part, str | Text)])
            tasks.append(sample.task)
        batch = self._processor.batch(texts)
        return DocumentBatch(batch, self.draw(batch, corpus.seed, [[index] for index in indices]), tuple(tasks))

    def forward(self, prepared: DocumentBatch) -> StepTerms:
        terms = super().forward(prepared)
        return StepTerms(terms.total, {"text_loss": terms.columns["text_loss"]}, terms.by_task)


@dataclass(frozen=True)
class PictureBatch:
    """Pictures for the autoencoder."""

    pixels: Float[Tensor, "I 3 H W"]
    """In [0, 1]."""
    posterior: Float[Tensor, "I C h w"]
    """Standard normal numbers of the posterior."""

    def to(self, device: torch.device) -> PictureBatch:
        return PictureBatch(self.pixels.to(device), self.posterior.to(device))


class Autoencoder(Objective):
    """Pictures through the autoencoder and back; afterwards its latents' statistics go into its config."""

    columns = ("squared_error", "psnr")

    def __init__(self, model: MMInterleavedForConditionalGeneration) -> None:
        super().__init__(model)
        # A posterior that starts as wide as the latents hides the picture: the reconstruction stood at 14 dB after 4,000 pictures.
        vae = model.image_decoder.vae
        with torch.no_grad():
            vae.quant_conv.bias[vae.config["latent_channels"] :] = POSTERIOR_LOGVAR_START

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> PictureBatch:
        arrays = [one_picture(corpus, index)[0] for index in indices]
        pixels = stack_pixels(arrays, self.model.config.image_decoder_part.image_side)
        shape = latent_shape(self.model.image_decoder)
        posterior = [torch.randn(shape, generator=generator(corpus.seed, index, "posterior")) for index in indices]
        return PictureBatch(pixels, torch.stack(posterior))

    def forward(self, prepared: PictureBatch) -> StepTerms:
        reconstructed, mean, logvar = self.model.image_decoder.reconstruct(prepared.pixels, prepared.posterior)
        total = autoencoder_loss(reconstructed, prepared.pixels, mean, logvar)
        squared_error = (reconstructed.detach().clamp(0, 1) - prepared.pixels).square().mean()
        return StepTerms(total, {"squared_error": squared_error, "psnr": -10 * squared_error.log10()})

    @torch.no_grad()
    def finish(self, corpus: Corpus) -> dict[str, float]:
        """Measures the latents per channel and the error on pictures that were not trained on; stores the former in the config."""
        device = next(self.parameters()).device
        latents, psnr = [], []
        for start in range(0, STATISTICS_PICTURES, STATISTICS_BATCH):
            indices = range(VALIDATION_START + start, VALIDATION_START + start + STATISTICS_BATCH)
            prepared = self.prepare(corpus, indices).to(device)
            reconstructed, mean, logvar = self.model.image_decoder.reconstruct(prepared.pixels, prepared.posterior)
            latents.append(mean + (0.5 * logvar).exp() * prepared.posterior)
            squared_error = (reconstructed.clamp(0, 1) - prepared.pixels).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
            psnr.append(-10 * squared_error.log10())
        values = torch.cat(latents).double()
        scale = 1 / values.std().item()
        statistics = {
            "latents_mean": values.mean(dim=(0, 2, 3)).tolist(),
            "latents_std": values.std(dim=(0, 2, 3)).tolist(),
            "scaling_factor": scale,
        }
        self.model.image_decoder.vae.register_to_config(**statistics)
        self.model.config.image_decoder["vae"].update(statistics)
        return {"validation_psnr": torch.cat(psnr).mean().item(), "scaling_factor": scale}


def in_precision(prepared: Any, dtype: torch.dtype) -> Any:
    """A prepared batch with all its fractions in `dtype`."""
    if isinstance(prepared, Tensor):
        return prepared.to(dtype) if prepared.is_floating_point() else prepared
    if isinstance(prepared, dict):
        return {name: in_precision(value, dtype) for name, value in prepared.items()}
    if is_dataclass(prepared) and not isinstance(prepared, type):
        return replace(prepared, **{field.name: in_precision(getattr(prepared, field.name), dtype) for field in fields(prepared)})
    return prepared


class TrainedNames(nn.Module):
    """The objective's parameters under the model's own names: `visual_tokenizer.…`, and `heads.…` beside them."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        for name, child in objective.model.named_children():
            self.add_module(name, child)
        for name, parameter in objective.model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        if hasattr(objective, "heads"):
            self.add_module("heads", objective.get_submodule("heads"))


@torch.no_grad()
def task_terms(logits: Tensor, targets: Tensor, tasks: Sequence[str], watched: Sequence[str]) -> Float[Tensor, "2 K"]:
    """Cross entropy summed over trained tokens, and their number, for each of K tasks.

    Args:
        tasks: task of each row.
    """
    found = logits.new_zeros(2, len(watched), dtype=torch.float64)
    for row, task in enumerate(tasks):
        if task in watched:
            total, count = text_terms(logits[row : row + 1], targets[row : row + 1])
            found[:, watched.index(task)] += torch.stack([total, count]).double()
    return found


def tensors_of(prepared: Any, prefix: str = "") -> list[tuple[str, Tensor]]:
    """All tensors of a prepared batch by dotted name, to be saved."""
    found: list[tuple[str, Tensor]] = []
    slots = getattr(prepared, "__slots__", None) or vars(prepared)
    for name in slots:
        value = prepared[name] if isinstance(prepared, dict) else getattr(prepared, name)
        if isinstance(value, Tensor):
            found.append((f"{prefix}{name}", value))
        elif isinstance(value, dict):
            found += [(f"{prefix}{name}.{inner}", tensor) for inner, tensor in value.items()]
        elif hasattr(value, "__dataclass_fields__"):
            found += tensors_of(value, f"{prefix}{name}.")
    return found


def painted_places(batch: Batch) -> list[tuple[int, int]]:
    """Row of each painted image and its number among the images of that row."""
    rows = batch.image_row.tolist()
    return [(rows[image], rows[:image].count(rows[image])) for image in batch.target_image.tolist()]


def latent_shape(decoder: ImageDecoder) -> tuple[int, int, int]:
    """Channels, height and width of the decoder's latents."""
    return decoder.latent_channels, decoder.latent_side, decoder.latent_side


def one_picture(corpus: Corpus, index: int) -> tuple[np.ndarray, Scene]:
    """One picture of a sample of the playground, and what it shows."""
    # One picture of every sample, so that a batch always holds as many pictures as samples.
    sample = corpus.sample(index)
    pictures = [segment for segment in sample.segments if not isinstance(segment, str)]
    chosen = key(corpus.seed, index, "picture") % len(pictures)
    return pictures[chosen], scene_of(sample.truth["scenes"][chosen])


def scene_of(values: dict[str, Any]) -> Scene:
    """A scene from a sample's ground truth."""
    return Scene(ground=values["ground"], items=tuple(Item(**item) for item in values["items"]))


def cell_of(item: Item) -> int:
    """Which of the 3 x 3 cells of a picture the middle of a drawing lies in, row by row."""
    column, row = (min(CELLS - 1, max(0, int(fraction * CELLS))) for fraction in (item.centre_x, item.centre_y))
    return row * CELLS + column
