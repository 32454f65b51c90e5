"""What is where in a picture, learnt through heads that are thrown away afterwards.

Axes: I images, N items of all images together (docs/glossary.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from mm_interleaved.data.playground.scene import GROUNDS, Item, Scene
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.objective import classification_loss
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.training.feed import Corpus
from mm_interleaved.training.parts import CELLS, Objective, StepTerms, cell_of, one_picture

LARGEST_COUNT = 8
"""Pictures with more items share the last class of the count."""
FINDING_WEIGHT = 10.0
"""Of the distance of found places, fractions of a picture's side, beside the cross-entropies in nats."""
FINDING_WIDTH = 256


@dataclass(frozen=True)
class LabelledBatch:
    """Pictures and what is in them."""

    pixels: Float[Tensor, "I 3 H W"] | UInt8[Tensor, "I 3 H W"]
    """In [0, 1] (or, while a batch travels, `in_bytes`)."""
    targets: dict[str, Int[Tensor, " I"]]
    """Right class of each head that sees a whole picture."""
    present: dict[str, Bool[Tensor, " I"]]
    """False where such a head's question makes no sense for the picture."""
    item_image: Int[Tensor, " N"]
    """Which picture each item is in."""
    item_targets: dict[str, Int[Tensor, " N"]]
    """Thing and style of each item."""
    item_place: Float[Tensor, "N 3"]
    """(x, y) of the middle and the longest side of each item, fractions of the picture's side."""
    item_alone: Bool[Tensor, " N"]
    """False where another item of the picture shows the same thing, so that its name does not tell which one is meant."""

    def to(self, device: torch.device) -> LabelledBatch:
        targets = {name: value.to(device) for name, value in self.targets.items()}
        present = {name: value.to(device) for name, value in self.present.items()}
        item_targets = {name: value.to(device) for name, value in self.item_targets.items()}
        pixels = self.pixels.to(device)
        fractions = pixels.to(torch.float32).div_(255) if pixels.dtype == torch.uint8 else pixels
        items = (self.item_image.to(device), item_targets, self.item_place.to(device), self.item_alone.to(device))
        return LabelledBatch(fractions, targets, present, *items)

    def in_bytes(self) -> LabelledBatch:
        """The same in a quarter of the size, as one process hands it to another; `to` undoes it, to the last bit."""
        return replace(self, pixels=self.pixels.mul(255).round().to(torch.uint8))


class Vision(Objective):
    """Whole pictures and single items, read from the picture tokens and from the feature maps.

    Classified from all tokens side by side and from the pooled maps: thing (if all items show the same one), style (if all share
    one), ground, number of items, place of the item (if there is one), and which thing stands in each of 3 x 3 cells. From the maps at
    the middle of each item: its thing and style. Found from the tokens, given a thing: its middle and its longest side.
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
                "found": _Finder(token_width, things),
            }
        )
        shares = [f"{part}_{name}_right" for part in ("tokens", "maps") for name in whole]
        self.columns = (*shares, "cells_right", "at_item_item_thing_right", "at_item_item_style_right", "found_distance")

    def prepare(self, corpus: Corpus, indices: Sequence[int]) -> LabelledBatch:
        arrays, labels, owners = [], [], []
        items: list[Item] = []
        for owner, index in enumerate(indices):
            array, scene = one_picture(corpus, index)
            arrays.append(array)
            labels.append(_labels(scene))
            items += scene.items
            owners += [owner] * len(scene.items)
        names = (*labels[0],)
        targets = {name: torch.tensor([entry[name] if entry[name] is not None else 0 for entry in labels]) for name in names}
        present = {name: torch.tensor([entry[name] is not None for entry in labels]) for name in names}
        times = Counter((owner, item.thing) for owner, item in zip(owners, items, strict=True))
        return LabelledBatch(
            pixels=stack_pixels(arrays, self.model.config.image_side),
            targets=targets,
            present=present,
            item_image=torch.tensor(owners),
            item_targets={f"item_{field}": torch.tensor([getattr(item, field) for item in items]) for field in ("thing", "style")},
            item_place=torch.tensor([(item.centre_x, item.centre_y, item.size) for item in items], dtype=torch.float32),
            item_alone=torch.tensor([times[owner, item.thing] == 1 for owner, item in zip(owners, items, strict=True)]),
        )

    def forward(self, prepared: LabelledBatch) -> StepTerms:
        features = self.model.visual_tokenizer(prepared.pixels)
        tokens = features.tokens.float().flatten(1)
        pooled = torch.cat([level.float().mean(dim=(2, 3)) for level in features.maps], dim=1)
        at_item = at_places([level.float() for level in features.maps], prepared.item_image, prepared.item_place[:, :2])
        everywhere = torch.ones_like(prepared.item_alone)
        whole, items = (prepared.targets, prepared.present), (prepared.item_targets, dict.fromkeys(prepared.item_targets, everywhere))
        losses, columns = [], {}
        for part, inputs, (targets, present) in (("tokens", tokens, whole), ("maps", pooled, whole), ("at_item", at_item, items)):
            logits = {name: head(inputs) for name, head in self.heads[part].items()}
            losses.append(classification_loss(logits, targets, present))
            for name, scores in logits.items():
                columns[f"{part}_{name}_right"] = _share_right(scores, targets[name], present[name])
        places = self.heads["found"](tokens[prepared.item_image], prepared.item_targets["item_thing"])
        distance = (places - prepared.item_place).abs().mean(dim=1)
        found = (distance * prepared.item_alone).sum() / prepared.item_alone.sum().clamp(min=1)
        losses.append(FINDING_WEIGHT * found)
        columns["found_distance"] = found.detach()
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


def at_places(maps: list[Float[Tensor, "I C H W"]], image: Int[Tensor, " N"], places: Float[Tensor, "N 2"]) -> Float[Tensor, "N C"]:
    """What the maps say at one place each of these pictures, all levels side by side."""
    points = (2 * places - 1)[:, None, None]  # N 1 1 2
    read = [functional.grid_sample(level[image], points, align_corners=False)[:, :, 0, 0] for level in maps]
    return torch.cat(read, dim=1)


class _Finder(nn.Module):
    """Where a thing is, by what the tokens say of the picture: (x, y, longest side)."""

    def __init__(self, token_width: int, things: int) -> None:
        super().__init__()
        self.see = _linear(token_width, FINDING_WIDTH)
        self.thing = nn.Embedding(things, FINDING_WIDTH)
        self.out = nn.Linear(FINDING_WIDTH, 3)

    def forward(self, tokens: Float[Tensor, "N width"], thing: Int[Tensor, " N"]) -> Float[Tensor, "N 3"]:
        return 0.5 + self.out(functional.gelu(self.see(tokens) * (1 + self.thing(thing))))


def _heads(width: int, classes: dict[str, int]) -> nn.ModuleDict:
    return nn.ModuleDict({name: _linear(width, count) for name, count in classes.items()})


def _linear(width: int, count: int) -> nn.Sequential:
    # Normalised over the batch: only what differs between pictures counts. With LayerNorm the tokens of all pictures became the
    # same up to a hundredth of their size, and no head could read them.
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, track_running_stats=False), nn.Linear(width, count))


def _share_right(scores: Tensor, targets: Tensor, present: Tensor) -> Tensor:
    right = ((scores.argmax(dim=1) == targets) & present).sum().float()
    return right / present.sum().float()  # NaN where the question never came up
