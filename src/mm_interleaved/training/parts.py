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
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mm_interleaved.batch import Batch, NoiseDraw
from mm_interleaved.data.playground.scene import GROUNDS, Item, Scene
from mm_interleaved.data.playground.tasks import Sample
from mm_interleaved.model.image_decoder import ImageDecoder
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.objective import autoencoder_loss, classification_loss, document_loss
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.training.feed import VALIDATION_START, Corpus, generator, key

STATISTICS_PICTURES = 2048
"""Pictures over which the latents' mean and standard deviation are measured."""

STATISTICS_BATCH = 64

POSTERIOR_LOGVAR_START = -6.0
"""Logarithm of the variance with which the posterior of a new autoencoder starts."""

LARGEST_COUNT = 8
"""Pictures with more items share the last class of the count."""

CELLS = 3
"""The picture is divided into 3 x 3 cells for the question what is where."""


@dataclass(frozen=True)
class StepTerms:
    """The loss of one batch, and what the loss table shows beside it."""

    total: Float[Tensor, ""]
    """What is differentiated."""
    columns: dict[str, Tensor]
    """Means by column name; NaN where the batch has nothing of the kind."""


class Prepared(Protocol):
    """A batch of any objective."""

    def to(self, device: torch.device) -> Any: ...


class Objective(nn.Module):
    """Base: the model, and heads of its own for some objectives."""

    columns: tuple[str, ...]
    keeps_heads = False
    """Whether the heads are saved beside the finished model, for a later run that names "heads" among the parts of an `init` entry."""
    mean_over_ranks: Callable[[Tensor], Tensor] = staticmethod(lambda value: value)
    """Mean of a count over all processes (`ranks.Ranks.mean`)."""

    def __init__(self, model: MMInterleavedForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> Prepared:
        """Makes the batch of these samples; each entry depends on its own index only."""
        raise NotImplementedError

    def finish(self, corpus: Corpus) -> dict[str, float]:
        """What is measured and stored once, with the averaged weights, when all steps are done."""
        return {}


@dataclass(frozen=True)
class DocumentBatch:
    """A packed batch and its random numbers."""

    batch: Batch
    draw: NoiseDraw

    def to(self, device: torch.device) -> DocumentBatch:
        return DocumentBatch(self.batch.to(device), self.draw.to(device))


class Documents(Objective):
    """Next word and next picture."""

    columns: tuple[str, ...] = ("text_loss", "image_loss")

    def __init__(self, model: MMInterleavedForConditionalGeneration, processor: MMInterleavedProcessor) -> None:
        super().__init__(model)
        self._processor = processor

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> DocumentBatch:
        return self.batch([corpus.sample(index) for index in indices], corpus, indices)

    def batch(self, samples: Sequence[Sample], corpus: Corpus, indices: Sequence[int]) -> DocumentBatch:
        """The batch of samples that are already composed."""
        batch = self._processor.batch(
            [sample.segments for sample in samples],
            prompts=[sample.prompt for sample in samples],
            last_unread=[corpus.leaves_last_unread(index) for index in indices],
        )
        return DocumentBatch(batch, self.draw(batch, corpus.seed, indices))

    def draw(self, batch: Batch, seed: int, indices: Sequence[int]) -> NoiseDraw:
        """Random numbers of every painted picture, keyed by its sample and its place in it."""
        decoder = self.model.image_decoder
        sources = [generator(seed, indices[row], place, "noise") for row, place in painted_places(batch)]
        shape = latent_shape(decoder)

        def normal() -> Tensor:
            drawn = [torch.randn(shape, generator=source) for source in sources]
            return torch.stack(drawn) if drawn else torch.zeros(0, *shape)

        noise, posterior = normal(), normal()
        uniform = torch.tensor([torch.rand(2, generator=source).tolist() for source in sources]).reshape(-1, 2)
        timestep = decoder.schedule.draw_timestep(uniform[:, 0])
        return NoiseDraw(noise=noise, timestep=timestep, posterior=posterior, drop=uniform[:, 1])

    def forward(self, prepared: DocumentBatch) -> StepTerms:
        output = self.model.forward_batch(prepared.batch, prepared.draw)
        terms = output.terms
        assert terms is not None  # forward_batch always gives them
        config = self.model.config
        # Divided by the mean counts of all ranks, so that the mean over ranks, of the total and of the columns alike, is the batch's.
        found = document_loss(
            text=(terms.text_sum, self.mean_over_ranks(terms.text_count)),
            image=(terms.image_sum, self.mean_over_ranks(terms.image_count)),
            text_loss_weight=config.text_loss_weight,
            image_loss_weight=config.image_loss_weight,
        )
        nothing = torch.full_like(found.total, torch.nan)
        columns = {
            "text_loss": torch.where(found.text_count > 0, found.text, nothing),
            "image_loss": torch.where(found.image_count > 0, found.image, nothing),
        }
        return StepTerms(found.total, columns)


class WordsOnly(Documents):
    """Next word in the texts of documents; everything is trained, prompts too."""

    columns = ("text_loss",)

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> DocumentBatch:
        texts = [[part for part in corpus.sample(index).segments if isinstance(part, str)] for index in indices]
        batch = self._processor.batch(texts)
        return DocumentBatch(batch, self.draw(batch, corpus.seed, indices))

    def forward(self, prepared: DocumentBatch) -> StepTerms:
        terms = super().forward(prepared)
        return StepTerms(terms.total, {"text_loss": terms.columns["text_loss"]})


@dataclass(frozen=True)
class PictureBatch:
    """Pictures for the autoencoder."""

    pixels: Float[Tensor, "I 3 H W"]
    """In [0, 1]."""
    posterior: Float[Tensor, "I C h w"]
    """Standard normal numbers of the posterior."""

    def to(self, device: torch.device) -> PictureBatch:
        return PictureBatch(self.pixels.to(device), self.posterior.to(device))


@dataclass(frozen=True)
class LabelledBatch:
    """Pictures and what is in them."""

    pixels: Float[Tensor, "I 3 H W"]
    """In [0, 1]."""
    targets: dict[str, Int[Tensor, " I"]]
    """Right class of each head."""
    present: dict[str, Bool[Tensor, " I"]]
    """False where a head's question makes no sense for the picture."""
    centre: Float[Tensor, "I 2"]
    """(x, y) of one item of each picture, fractions of its side."""

    def to(self, device: torch.device) -> LabelledBatch:
        targets = {name: value.to(device) for name, value in self.targets.items()}
        present = {name: value.to(device) for name, value in self.present.items()}
        return LabelledBatch(self.pixels.to(device), targets, present, self.centre.to(device))


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
        arrays = [_one_picture(corpus, index)[0] for index in indices]
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


class Vision(Objective):
    """Classification of whole pictures and of single items, read from the picture tokens and from the feature maps.

    Heads on all tokens side by side and on the pooled maps: thing (if all items show the same one), style (if all share one),
    ground, number of items, place of the item (if there is one), and which thing stands in each of 3 x 3 cells. Heads on the
    maps at the centre of one item: its thing and style.
    """

    def __init__(self, model: MMInterleavedForConditionalGeneration, corpus: Corpus) -> None:
        super().__init__(model)
        config = corpus.world.config
        things, styles = len(corpus.world.pack.things), config.styles
        whole = {"thing": things, "style": styles, "ground": len(GROUNDS), "count": LARGEST_COUNT, "place": CELLS**2}
        self._cells = tuple(f"thing_{cell}" for cell in range(CELLS**2))
        token_width = model.config.text_config.hidden_size * model.config.image_tokens
        map_width = model.config.vision_config.hidden_size * len(model.visual_tokenizer.map_sides)
        self.heads = nn.ModuleDict(
            {
                "tokens": _heads(token_width, whole | dict.fromkeys(self._cells, things)),
                "maps": _heads(map_width, whole),
                "at_item": _heads(map_width, {"item_thing": things, "item_style": styles}),
            }
        )
        shares = [f"{part}_{name}_right" for part in ("tokens", "maps") for name in whole]
        self.columns = (*shares, "cells_right", "at_item_item_thing_right", "at_item_item_style_right")

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> LabelledBatch:
        arrays, labels, centres = [], [], []
        for index in indices:
            array, scene = _one_picture(corpus, index)
            item = scene.items[key(corpus.seed, index, "item") % len(scene.items)]
            arrays.append(array)
            labels.append(_labels(scene) | {"item_thing": item.thing, "item_style": item.style})
            centres.append((item.centre_x, item.centre_y))
        names = (*labels[0],)
        targets = {name: torch.tensor([entry[name] if entry[name] is not None else 0 for entry in labels]) for name in names}
        present = {name: torch.tensor([entry[name] is not None for entry in labels]) for name in names}
        pixels = stack_pixels(arrays, self.model.config.image_side)
        return LabelledBatch(pixels, targets, present, torch.tensor(centres, dtype=torch.float32))

    def forward(self, prepared: LabelledBatch) -> StepTerms:
        features = self.model.visual_tokenizer(prepared.pixels)
        tokens = features.tokens.float().flatten(1)
        pooled = torch.cat([level.float().mean(dim=(2, 3)) for level in features.maps], dim=1)
        points = (2 * prepared.centre - 1)[:, None, None]  # I 1 1 2
        at_item = [functional.grid_sample(level.float(), points, align_corners=False)[:, :, 0, 0] for level in features.maps]
        losses, columns = [], {}
        for part, inputs in (("tokens", tokens), ("maps", pooled), ("at_item", torch.cat(at_item, dim=1))):
            logits = {name: head(inputs) for name, head in self.heads[part].items()}
            losses.append(classification_loss(logits, prepared.targets, prepared.present))
            for name, scores in logits.items():
                columns[f"{part}_{name}_right"] = _share_right(scores, prepared.targets[name], prepared.present[name])
        cells = torch.stack([columns.pop(f"tokens_{name}_right") for name in self._cells])
        columns["cells_right"] = cells.nanmean()
        return StepTerms(torch.stack(losses).sum(), columns)


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


def _one_picture(corpus: Corpus, index: int) -> tuple[np.ndarray, Scene]:
    # One picture of every sample, so that a batch always holds as many pictures as samples.
    sample = corpus.sample(index)
    pictures = [segment for segment in sample.segments if not isinstance(segment, str)]
    chosen = key(corpus.seed, index, "picture") % len(pictures)
    return pictures[chosen], scene_of(sample.truth["scenes"][chosen])


def scene_of(values: dict[str, Any]) -> Scene:
    """A scene from a sample's ground truth."""
    return Scene(ground=values["ground"], items=tuple(Item(**item) for item in values["items"]))


def _labels(scene: Scene) -> dict[str, int | None]:
    things = {item.thing for item in scene.items}
    styles = {item.style for item in scene.items}
    cells = [cell_of(item) for item in scene.items]
    labels: dict[str, int | None] = {
        "thing": things.pop() if len(things) == 1 else None,
        "style": styles.pop() if len(styles) == 1 else None,
        "ground": scene.ground,
        "count": min(len(scene.items), LARGEST_COUNT) - 1,
        "place": cells[0] if len(cells) == 1 else None,
    }
    for cell in range(CELLS**2):
        inside = [item.thing for item, own in zip(scene.items, cells, strict=True) if own == cell]
        labels[f"thing_{cell}"] = inside[-1] if inside else None
    return labels


def cell_of(item: Item) -> int:
    """Which of the 3 x 3 cells of a picture the middle of a drawing lies in, row by row."""
    column, row = (min(CELLS - 1, max(0, int(fraction * CELLS))) for fraction in (item.centre_x, item.centre_y))
    return row * CELLS + column


def _heads(width: int, classes: dict[str, int]) -> nn.ModuleDict:
    # Normalised over the batch: only what differs between pictures counts. With LayerNorm the tokens of all pictures became the
    # same up to a hundredth of their size, and no head could read them.
    return nn.ModuleDict(
        {
            name: nn.Sequential(nn.BatchNorm1d(width, affine=False, track_running_stats=False), nn.Linear(width, count))
            for name, count in classes.items()
        }
    )


def _share_right(scores: Tensor, targets: Tensor, present: Tensor) -> Tensor:
    right = ((scores.argmax(dim=1) == targets) & present).sum().float()
    return right / present.sum().float()  # NaN where the question never came up
