"""What is where in a picture, learnt through classification heads that are thrown away afterwards.

Axes: I images (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from mm_interleaved.data.playground.scene import GROUNDS, Scene
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.objective import classification_loss
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.training.feed import Corpus, key
from mm_interleaved.training.parts import CELLS, Objective, StepTerms, cell_of, one_picture

LARGEST_COUNT = 8
"""Pictures with more items share the last class of the count."""


@dataclass(frozen=True)
class LabelledBatch:
    """Pictures and what is in them."""

    pixels: Float[Tensor, "I 3 H W"] | UInt8[Tensor, "I 3 H W"]
    """In [0, 1] (or, while a batch travels, `in_bytes`)."""
    targets: dict[str, Int[Tensor, " I"]]
    """Right class of each head."""
    present: dict[str, Bool[Tensor, " I"]]
    """False where a head's question makes no sense for the picture."""
    centre: Float[Tensor, "I 2"]
    """(x, y) of one item of each picture, fractions of its side."""

    def to(self, device: torch.device) -> LabelledBatch:
        targets = {name: value.to(device) for name, value in self.targets.items()}
        present = {name: value.to(device) for name, value in self.present.items()}
        pixels = self.pixels.to(device)
        fractions = pixels.to(torch.float32).div_(255) if pixels.dtype == torch.uint8 else pixels
        return LabelledBatch(fractions, targets, present, self.centre.to(device))

    def in_bytes(self) -> LabelledBatch:
        """The same in a quarter of the size, as one process hands it to another; `to` undoes it, to the last bit."""
        return replace(self, pixels=self.pixels.mul(255).round().to(torch.uint8))


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
            array, scene = one_picture(corpus, index)
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
