"""The image decoder's first lesson: what each thing, style and ground looks like, and which words name it.

A picture of one drawing is painted from learned vectors of its thing, its style and its ground, added up. At the same time the
language model and the context resampler learn to say the same vector from the caption. Afterwards the vectors are thrown away and the
words alone are the condition.

Why: painted from words alone from the start, twelve known pictures were not told apart after 3,800 samples, because new hidden states
of different captions are nearly the same; from vectors, they were after 1,300 (docs/log.md).

Axes: K painted images · W width of a condition token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mm_interleaved.batch import Batch, NoiseDraw
from mm_interleaved.data.playground.scene import GROUNDS
from mm_interleaved.errors import ConfigError
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.objective import matching_loss, text_terms
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.training.feed import Corpus
from mm_interleaved.training.parts import Documents, StepTerms

WORDS_SHARE = 0.3
"""Share of samples that are painted from the words' own vector, so that the UNet also meets what it will be given afterwards."""


@dataclass(frozen=True)
class ConceptBatch:
    """Documents that end with one drawing, and what it shows."""

    batch: Batch
    draw: NoiseDraw
    concepts: Int[Tensor, "K 3"]
    """Thing, style and ground of each painted picture."""

    def to(self, device: torch.device) -> ConceptBatch:
        return ConceptBatch(self.batch.to(device), self.draw.to(device), self.concepts.to(device))


class Concepts(Documents):
    """Pictures of one drawing from vectors of what they show; the vectors from words."""

    columns = ("text_loss", "image_loss", "matching_loss")

    def __init__(self, model: MMInterleavedForConditionalGeneration, processor: MMInterleavedProcessor, corpus: Corpus) -> None:
        """
        Raises:
            ConfigError: the model has no pooled context, which is what the vectors stand for.
        """
        super().__init__(model, processor)
        if not model.config.image_decoder_part.pooled_context:
            raise ConfigError("objective 'concepts' needs image_decoder.pooled_context: true in the model.")
        width = model.image_decoder.negative_tokens.shape[2]
        sizes = (len(corpus.world.pack.things), corpus.world.config.styles, len(GROUNDS))
        self.heads = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> ConceptBatch:  # type: ignore[override]
        samples = [corpus.sample(index) for index in indices]
        documents = self.batch(samples, corpus, indices)
        scenes = [sample.truth["scenes"][-1] for sample in samples]
        concepts = [(scene["items"][0]["thing"], scene["items"][0]["style"], scene["ground"]) for scene in scenes]
        return ConceptBatch(documents.batch, documents.draw, torch.tensor(concepts))

    def forward(self, prepared: ConceptBatch) -> StepTerms:  # type: ignore[override]
        batch, draw = prepared.batch, prepared.draw
        model, decoder = self.model, self.model.image_decoder
        hidden = model.read_batch(batch, model.encode_images(batch.pixels))
        text_sum, text_count = text_terms(model.logits(hidden), batch.targets)
        condition = model.batch_condition(batch, hidden)  # K tokens W
        taught = self._vectors(prepared.concepts)
        spoken = condition[:, -1]

        drop = decoder.config.drop_condition
        from_words = (draw.drop < drop + (1 - drop) * WORDS_SHARE)[:, None]
        pooled = torch.where(from_words, spoken, taught.to(spoken.dtype))
        condition = torch.cat([condition[:, :-1], pooled[:, None]], dim=1)
        image = decoder.squared_error(batch.target_pixels, condition, draw).mean()
        matching = matching_loss(spoken, taught.detach())
        text = text_sum / text_count.clamp(min=1)
        return StepTerms(text + image + matching, {"text_loss": text, "image_loss": image, "matching_loss": matching})

    def _vectors(self, concepts: Int[Tensor, "K 3"]) -> Float[Tensor, "K W"]:
        return torch.stack([table(concepts[:, column]) for column, table in enumerate(self.heads)]).sum(dim=0)
