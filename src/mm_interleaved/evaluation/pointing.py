"""The pointing test: does the hottest place that an object's word looked at lie in the object's box?

Held-out scenes of two drawings side by side stand with their true captions, which are read, not generated. Beside the model stand the
same weights with random gates, the share of the picture that the box covers (a place drawn blindly), and the other drawing's box.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import Item
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.world import World
from mm_interleaved.document import Document, Image
from mm_interleaved.evaluation.results import interval
from mm_interleaved.export.explanation import Moment, Word
from mm_interleaved.generation.load import Model
from mm_interleaved.generation.trace import Trace, trace_document
from mm_interleaved.model.language_model import Synchronizer

MOMENTS: tuple[Moment, ...] = ("read", "written")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture."""


@dataclass(frozen=True, slots=True)
class Pointing:
    """One model at one moment."""

    model: str
    """`trained`, or `random gates`."""
    moment: Moment
    score: float
    """Share of words whose hottest place lies in the box of their object."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""
    chance: float
    """Share of the picture that the boxes cover."""
    other: float
    """Share of words whose hottest place lies in the box of the other object."""
    words: int
    """How many words were asked."""


def pointing(model: Model, world: World, *, count: int = 200, seed: int = 0) -> list[Pointing]:
    """Measures `count` scenes: the trained model and the one with random gates, while a word is read and while it is written.

    Args:
        world: of the test split, for scenes that training never shows.
        seed: of the scenes, the random gates and the intervals.
    """
    found = []
    for name, tested in (("trained", model), ("random gates", with_random_gates(model, seed))):
        marks = [mark for scene in _scenes(tested, world, count, seed) for mark in scene]
        for moment in MOMENTS:
            asked = [mark for mark in marks if mark["moment"] == moment]
            hits = [float(mark["hit"]) for mark in asked]
            low, high = interval(hits, seed)
            mean = {key: float(np.mean([mark[key] for mark in asked])) for key in ("hit", "area", "other")}
            found.append(Pointing(name, moment, mean["hit"], low, high, mean["area"], mean["other"], len(asked)))
    return found


def with_random_gates(model: Model, seed: int) -> Model:
    """A copy whose language model's gates are drawn from a standard normal distribution."""
    network = copy.deepcopy(model.network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.language_model.mmfs_layers:
            gate = cast("Synchronizer", network.language_model.layers[layer].synchronizer).gate
            gate.copy_(torch.randn(gate.shape, generator=generator))
    return Model(network, model.processor, model_hash=model.model_hash)


def box_of(item: Item, pack: Pack) -> Box:
    """The box of a drawing in its scene; its longer side is the item's size."""
    height, width = pack.drawing(item.thing, item.style).shape[:2]
    half_width, half_height = (item.size / 2 * length / max(height, width) for length in (width, height))
    return item.centre_x - half_width, item.centre_y - half_height, item.centre_x + half_width, item.centre_y + half_height


def _scenes(model: Model, world: World, count: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    side = int(model.network.config.image_side)
    index = done = 0
    while done < count:
        made = sample("caption", world, seed, index, side=side)
        index += 1
        items = [Item(**item) for item in made.truth["scenes"][0]["items"]]
        if len(items) != 2:
            continue  # one drawing fills the picture: everything would point at it
        done += 1
        segments = [segment if isinstance(segment, str) else Image.from_array(segment) for segment in made.segments]
        trace = trace_document(model.network, model.processor, Document(segments), pictures=())
        boxes = [box_of(item, world.pack) for item in items]
        names = [_name(world, item, made.truth["language"]) for item in items]
        yield [
            mark for own, name in enumerate(names) for mark in _marks(trace, phrase(trace, name, last=own == 1), boxes[own], boxes[1 - own])
        ]


def _name(world: World, item: Item, language: str) -> str:
    thing = world.pack.things[item.thing]
    return thing.name_zh if language == "zh" else thing.name_en


def phrase(trace: Trace, name: str, *, last: bool) -> Word:
    """The words of a name in the last text, joined to one; the last or the first time that they stand there."""
    segment = max(trace.texts)
    text = trace.texts[segment]
    starts = [found.start() for found in re.finditer(rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])", text)]
    start = starts[-1 if last else 0]
    inside = [word for word in trace.words if word.segment == segment and word.start < start + len(name) and word.end > start]
    tokens = tuple(sorted({token for word in inside for token in word.tokens}))
    return Word(name, segment, start, start + len(name), tokens)


def _marks(trace: Trace, word: Word, box: Box, other: Box) -> Iterator[dict[str, Any]]:
    area = (min(1.0, box[2]) - max(0.0, box[0])) * (min(1.0, box[3]) - max(0.0, box[1]))
    for moment in MOMENTS:
        place = trace.word(word, moment).looks[0].hottest()
        yield {"moment": moment, "hit": _inside(place, box), "other": _inside(place, other), "area": area}


def _inside(place: tuple[float, float] | None, box: Box) -> bool:
    return place is not None and box[0] <= place[0] <= box[2] and box[1] <= place[1] <= box[3]
