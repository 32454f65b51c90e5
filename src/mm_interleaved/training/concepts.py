"""Two first lessons in which pictures and words meet in vectors of what a picture shows.

    paintings   the UNet paints pictures from the vectors
    concepts    the language model and the context projection say the vectors from what stands before a picture; next words beside it

A picture's vector: for each drawing the sum of its thing's and its style's vector, multiplied by a vector of its place, all added to
the vector of the ground. It stands where the document's own pooled context will stand; afterwards the vectors are thrown away and the
document alone is the condition.

Why: painted from words alone from the start, twelve known pictures were not told apart after 3,800 samples, because new hidden states
of different captions are nearly the same; from vectors, they were after 1,300. And apart the two lessons are cheap: a picture from a
vector costs no language model, a word about a vector costs no UNet (docs/log.md).

Axes: K painted images · M drawings of the fullest picture · C h w latents · J condition tokens · W width of a condition token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mm_interleaved.batch import NoiseDraw
from mm_interleaved.data.playground.scene import GROUNDS, Scene
from mm_interleaved.errors import ConfigError
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.objective import document_loss, image_terms, matching_error, text_terms
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.training.feed import Corpus, generator, key
from mm_interleaved.training.parts import (
    CELLS,
    DocumentBatch,
    Documents,
    Objective,
    StepTerms,
    cell_of,
    latent_shape,
    painted_places,
    scene_of,
)

LATENTS_KEPT = 8192
"""Pictures whose latents are kept, the last used ones; 16 KiB each for the smallest model."""


@dataclass(frozen=True)
class Shown:
    """What K pictures show."""

    items: Int[Tensor, "K M 3"]
    """Thing, style and place (cell of 3 x 3) of each drawing."""
    present: Bool[Tensor, "K M"]
    """False where a picture has fewer drawings."""
    ground: Int[Tensor, " K"]

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> Shown:
        """Numbers of some scenes."""
        most = max((len(scene.items) for scene in scenes), default=1)
        items = [[(item.thing, item.style, cell_of(item)) for item in scene.items] for scene in scenes]
        padded = [members + [(0, 0, 0)] * (most - len(members)) for members in items]
        return cls(
            items=torch.tensor(padded, dtype=torch.int64).reshape(-1, most, 3),
            present=torch.tensor([[item < len(members) for item in range(most)] for members in items]).reshape(-1, most),
            ground=torch.tensor([scene.ground for scene in scenes], dtype=torch.int64),
        )

    def to(self, device: torch.device) -> Shown:
        return Shown(self.items.to(device), self.present.to(device), self.ground.to(device))


class ConceptVectors(nn.ModuleDict):
    """The vectors of things, styles, places and grounds."""

    def __init__(self, model: MMInterleavedForConditionalGeneration, corpus: Corpus) -> None:
        """
        Raises:
            ConfigError: the model has no pooled context, which is what the vectors stand for.
        """
        if not model.config.image_decoder_part.pooled_context:
            raise ConfigError("objectives 'paintings' and 'concepts' need image_decoder.pooled_context: true in the model.")
        width = model.image_decoder.negative_tokens.shape[2]
        sizes = {"thing": len(corpus.world.pack.things), "style": corpus.world.config.styles, "place": CELLS**2, "ground": len(GROUNDS)}
        super().__init__({name: nn.Embedding(size, width) for name, size in sizes.items()})

    def forward(self, shown: Shown) -> Float[Tensor, "K W"]:
        """The vector of each picture."""
        thing, style, place = (self[name](shown.items[..., column]) for column, name in enumerate(("thing", "style", "place")))
        drawings = (thing + style) * place * shown.present[..., None]
        return drawings.sum(dim=1) + self["ground"](shown.ground)


@dataclass(frozen=True)
class PaintingBatch:
    """Pictures as latents, and what they show."""

    mean: Float[Tensor, "K C h w"]
    """Of the posterior, on unit scale."""
    std: Float[Tensor, "K C h w"]
    tokens: Float[Tensor, "K J W"]
    """Noise in the place of the resampled context, which nobody has learnt to write yet: it shall not matter."""
    shown: Shown
    draw: NoiseDraw

    def to(self, device: torch.device) -> PaintingBatch:
        mean, std, tokens = (part.to(device) for part in (self.mean, self.std, self.tokens))
        return PaintingBatch(mean, std, tokens, self.shown.to(device), self.draw.to(device))


class Paintings(Objective):
    """Pictures from vectors of what they show: one picture of every sample."""

    columns = ("image_loss",)
    keeps_heads = True

    def __init__(self, model: MMInterleavedForConditionalGeneration, corpus: Corpus) -> None:
        super().__init__(model)
        self.heads = ConceptVectors(model, corpus)
        self._latents: OrderedDict[Scene, tuple[Tensor, Tensor]] = OrderedDict()

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> PaintingBatch:
        decoder = self.model.image_decoder
        scenes, latents = [], []
        for index in indices:
            sample = corpus.sample(index)
            pictures = [segment for segment in sample.segments if not isinstance(segment, str)]
            painted = sum(not isinstance(segment, str) for segment in sample.segments[sample.prompt :])
            # One of the pictures that are painted, the last ones of a document; of all, where it paints none.
            chosen = len(pictures) - 1 - key(corpus.seed, index, "picture") % (painted or len(pictures))
            scenes.append(scene_of(sample.truth["scenes"][chosen]))
            latents.append(self._encoded(scenes[-1], pictures[chosen]))
        sources = [generator(corpus.seed, index, "noise") for index in indices]
        shape = latent_shape(decoder)
        noise, posterior = (torch.stack([torch.randn(shape, generator=source) for source in sources]) for _ in range(2))
        count, width = decoder.negative_tokens.shape[1] - 1, decoder.negative_tokens.shape[2]
        tokens = torch.stack([torch.randn(count, width, generator=source) for source in sources])
        uniform = torch.stack([torch.rand(2, generator=source) for source in sources])
        return PaintingBatch(
            mean=torch.stack([mean for mean, _ in latents]),
            std=torch.stack([std for _, std in latents]),
            tokens=tokens,
            shown=Shown.of(scenes),
            draw=NoiseDraw(noise=noise, posterior=posterior, timestep=decoder.schedule.draw_timestep(uniform[:, 0]), drop=uniform[:, 1]),
        )

    def forward(self, prepared: PaintingBatch) -> StepTerms:
        latents = prepared.mean + prepared.std * prepared.draw.posterior
        condition = torch.cat([prepared.tokens, self.heads(prepared.shown)[:, None]], dim=1)
        loss = self.model.image_decoder.squared_error_of_latents(latents, condition, prepared.draw).mean()
        return StepTerms(loss, {"image_loss": loss})

    @torch.no_grad()
    def _encoded(self, scene: Scene, picture: np.ndarray) -> tuple[Tensor, Tensor]:
        # The autoencoder is frozen here; encoding the same few thousand pictures again and again took a third of the time.
        if scene not in self._latents:
            decoder = self.model.image_decoder
            pixels = stack_pixels([picture], self.model.config.image_decoder_part.image_side)
            device = decoder.negative_tokens.device
            mean, std = decoder.posterior(pixels.to(device))
            self._latents[scene] = (mean[0].cpu(), std[0].cpu())
            if len(self._latents) > LATENTS_KEPT:
                self._latents.popitem(last=False)
        self._latents.move_to_end(scene)
        return self._latents[scene]


@dataclass(frozen=True)
class ConceptBatch:
    """Documents, and what each of their painted pictures shows."""

    documents: DocumentBatch
    shown: Shown

    def to(self, device: torch.device) -> ConceptBatch:
        return ConceptBatch(self.documents.to(device), self.shown.to(device))


class Concepts(Documents):
    """The vectors of painted pictures from what stands before them, and next words."""

    columns = ("text_loss", "matching_loss")
    keeps_heads = True

    def __init__(self, model: MMInterleavedForConditionalGeneration, processor: MMInterleavedProcessor, corpus: Corpus) -> None:
        super().__init__(model, processor)
        self.heads = ConceptVectors(model, corpus)

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> ConceptBatch:  # type: ignore[override]
        samples = [corpus.sample(index) for index in indices]
        documents = self.batch(samples, corpus, indices)
        scenes = [scene_of(samples[row].truth["scenes"][place]) for row, place in painted_places(documents.batch)]
        return ConceptBatch(documents, Shown.of(scenes))

    def forward(self, prepared: ConceptBatch) -> StepTerms:  # type: ignore[override]
        batch, model = prepared.documents.batch, self.model
        hidden = model.read_batch(batch, model.encode_images(batch.pixels))
        text_sum, text_count = text_terms(model.logits(hidden), batch.targets)
        error = hidden.new_zeros(0, dtype=torch.promote_types(hidden.dtype, torch.float32))
        if len(prepared.shown.ground):
            error = matching_error(model.batch_condition(batch, hidden)[:, -1], self.heads(prepared.shown).detach())
        error_sum, error_count = image_terms(error, torch.ones_like(error), count_all=True)
        # Divided by the mean counts of all ranks, so that the mean over ranks is the batch's.
        found = document_loss(
            text=(text_sum, self.mean_over_ranks(text_count)),
            image=(error_sum, self.mean_over_ranks(error_count)),
            text_loss_weight=model.config.text_loss_weight,
            image_loss_weight=1.0,
        )
        nothing = torch.full_like(found.total, torch.nan)
        columns = {
            "text_loss": torch.where(found.text_count > 0, found.text, nothing),
            "matching_loss": torch.where(found.image_count > 0, found.image, nothing),
        }
        return StepTerms(found.total, columns)
