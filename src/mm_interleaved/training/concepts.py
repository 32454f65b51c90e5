"""The image decoder's first lesson: what things, styles and grounds look like, and which words and pictures call for them.

Every painted picture is made from learned vectors of what it shows: for each drawing the sum of its thing's and its style's vector,
multiplied by a vector of its place, all added to the vector of the ground. At the same time the language model and the context
projection learn to say the same vector from what stands before the picture. Afterwards the vectors are thrown away and the
document alone is the condition.

Why: painted from words alone from the start, twelve known pictures were not told apart after 3,800 samples, because new hidden states
of different captions are nearly the same; from vectors, they were after 1,300 (docs/log.md).

Axes: K painted images · M drawings of the fullest picture · W width of a condition token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mm_interleaved.batch import Batch, NoiseDraw
from mm_interleaved.data.playground.scene import GROUNDS, Scene
from mm_interleaved.errors import ConfigError
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.objective import document_loss, matching_error, text_terms
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.training.feed import Corpus
from mm_interleaved.training.parts import CELLS, DocumentBatch, Documents, StepTerms, cell_of, painted_places, scene_of

WORDS_SHARE = 0.3
"""Share of pictures that are painted from the document's own vector, so that the UNet also meets what it will be given afterwards."""


@dataclass(frozen=True)
class ConceptBatch:
    """Documents, and what each of their painted pictures shows."""

    documents: DocumentBatch
    items: Int[Tensor, "K M 3"]
    """Thing, style and place (cell of 3 x 3) of each drawing."""
    present: Bool[Tensor, "K M"]
    """False where a picture has fewer drawings."""
    ground: Int[Tensor, " K"]

    def to(self, device: torch.device) -> ConceptBatch:
        return ConceptBatch(self.documents.to(device), self.items.to(device), self.present.to(device), self.ground.to(device))


class Concepts(Documents):
    """Pictures from vectors of what they show; the vectors from what stands before them; next words beside it."""

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
        sizes = {"thing": len(corpus.world.pack.things), "style": corpus.world.config.styles, "place": CELLS**2, "ground": len(GROUNDS)}
        self.heads = nn.ModuleDict({name: nn.Embedding(size, width) for name, size in sizes.items()})

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> ConceptBatch:  # type: ignore[override]
        samples = [corpus.sample(index) for index in indices]
        documents = self.batch(samples, corpus, indices)
        scenes = [scene_of(samples[row].truth["scenes"][place]) for row, place in painted_places(documents.batch)]
        most = max((len(scene.items) for scene in scenes), default=1)
        return ConceptBatch(
            documents=documents,
            items=torch.tensor([_items(scene, most) for scene in scenes]).reshape(-1, most, 3),
            present=torch.tensor([[item < len(scene.items) for item in range(most)] for scene in scenes]).reshape(-1, most),
            ground=torch.tensor([scene.ground for scene in scenes], dtype=torch.int64),
        )

    def forward(self, prepared: ConceptBatch) -> StepTerms:  # type: ignore[override]
        batch, draw = prepared.documents.batch, prepared.documents.draw
        model = self.model
        hidden = model.read_batch(batch, model.encode_images(batch.pixels))
        text_sum, text_count = text_terms(model.logits(hidden), batch.targets)
        painted = prepared.ground.shape[0]
        image_sum = matching_sum = hidden.new_zeros((), dtype=torch.float32)
        if painted:
            image_sum, matching_sum = self._paint(prepared, batch, draw, hidden)
        # Divided by the mean counts of all ranks, so that the mean over ranks is the batch's.
        count = self.mean_over_ranks(image_sum.new_tensor(float(painted)))
        text = (text_sum, self.mean_over_ranks(text_count))
        config = model.config
        weights = {"text_loss_weight": config.text_loss_weight, "image_loss_weight": config.image_loss_weight}
        found = document_loss(text=text, image=(image_sum, count), **weights)
        matching = matching_sum / count.clamp(min=1)
        nothing = torch.full_like(matching, torch.nan)
        columns = {
            "text_loss": torch.where(found.text_count > 0, found.text, nothing),
            "image_loss": torch.where(count > 0, found.image, nothing),
            "matching_loss": torch.where(count > 0, matching, nothing),
        }
        return StepTerms(found.total + matching, columns)

    def _paint(self, prepared: ConceptBatch, batch: Batch, draw: NoiseDraw, hidden: Tensor) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        # Sums over the painted pictures of their squared errors and of the distances between the said and the taught vectors.
        decoder = self.model.image_decoder
        condition = self.model.batch_condition(batch, hidden)  # K tokens W
        taught, spoken = self._vectors(prepared), condition[:, -1]
        drop = decoder.config.drop_condition
        from_words = (draw.drop < drop + (1 - drop) * WORDS_SHARE)[:, None]
        pooled = torch.where(from_words, spoken, taught.to(spoken.dtype))
        condition = torch.cat([condition[:, :-1], pooled[:, None]], dim=1)
        squared_error = decoder.squared_error(batch.target_pixels, condition, draw)
        return squared_error.sum(), matching_error(spoken, taught.detach()).sum()

    def _vectors(self, prepared: ConceptBatch) -> Float[Tensor, "K W"]:
        thing, style, place = (self.heads[name](prepared.items[..., column]) for column, name in enumerate(("thing", "style", "place")))
        drawings = (thing + style) * place * prepared.present[..., None]
        return drawings.sum(dim=1) + self.heads["ground"](prepared.ground)


def _items(scene: Scene, most: int) -> list[tuple[int, int, int]]:
    items = [(item.thing, item.style, cell_of(item)) for item in scene.items]
    return items + [(0, 0, 0)] * (most - len(items))
