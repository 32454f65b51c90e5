"""Benchmarks that paint: the pictures of an item, one behind the other, and how all of them compare with the true ones.

fid, fid_64_published   distance of the features' distributions (`extractors.py`)
clip_similarity         cosine of a picture with the true one in CLIP's space, mean over an item's pictures
feature_similarity      the same in the extractor's space
clip_score              cosine of a picture with its caption in CLIP's space, at least 0; a hundred times that is what is called CLIP score
miou                    labels that a segmenter reads in a picture against those that it was painted from (`metrics/segmentation.py`)

`blind` is the next item's pictures in the place of the own ones, `ceiling` the true pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mm_interleaved.checkpoint.clip import Clip
from mm_interleaved.data.seeds import key
from mm_interleaved.data.tuning.places import labels_of
from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import ConfigError, DataError, GenerationError, MMInterleavedError
from mm_interleaved.evaluation.extractors import Extractor, frechet
from mm_interleaved.evaluation.metrics.segmentation import mean_overlap, overlaps
from mm_interleaved.evaluation.results import Row, interval, resampled
from mm_interleaved.evaluation.scoring import mean
from mm_interleaved.evaluation.segmenter import CLASSES, Segmenter
from mm_interleaved.evaluation.tasks.task import Item, Task
from mm_interleaved.export.files import write_atomically
from mm_interleaved.generation.events import ImageDone
from mm_interleaved.generation.load import Model
from mm_interleaved.processing.images import to_square


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruments:
    """The user's networks; a measure whose network is not there is not taken, and the protocol says so."""

    extractor: Extractor | None = None
    clip: Clip | None = None
    segmenter: Segmenter | None = None

    def fingerprints(self) -> dict[str, str]:
        """What decided the figures."""
        return {field.name: found.fingerprint for field in fields(self) if (found := getattr(self, field.name)) is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Painted:
    """Everything that was painted for a benchmark."""

    items: Sequence[Item]
    records: Sequence[dict[str, Any]]
    folder: Path
    instruments: Instruments
    blind: bool
    seed: int

    def made(self, place: int) -> list[Image]:
        """The painted pictures of an item; fewer than wanted where painting stopped."""
        record = self.records[place]
        return [Image.open(picture_file(self.folder, record, number)) for number in range(record["outcome"]["made"]["pictures"])]

    def true(self, place: int) -> list[Image]:
        """The true pictures of an item."""
        rest = self.items[place].rest
        assert rest is not None
        return list(rest().images)


def unmeasured(task: Task, instruments: Instruments) -> dict[str, str]:
    """Measures of a benchmark that cannot be taken, and the option that is missing.

    Raises:
        ConfigError: none can be taken.
    """
    missing = {name: f"--{MEASURES[name][0]}" for name in task.measures if getattr(instruments, MEASURES[name][0]) is None}
    if len(missing) == len(task.measures):
        options = " or ".join(dict.fromkeys(missing.values()))
        raise ConfigError(f"{options}: {task.name} compares pictures by networks that you have; without one nothing can be measured.")
    return missing


def check_pictures(task: Task, items: Sequence[Item]) -> None:
    """
    Raises:
        DataError: a picture that the figures need is not there; it is found before anything is painted.
    """
    missing = [path for item in items for path in item.needs if not path.is_file()]
    if missing:
        raise DataError(
            f"{task.name}: {len(missing)} of the pictures of {len(items)} items are missing, first {missing[0]}; figures without them "
            "would be those of another set. Get them, or take their items out of the annotations and say so beside the figures."
        )


def picture_file(folder: Path, record: dict[str, Any], number: int) -> Path:
    """Where a painted picture lies."""
    return folder / f"{record['task']}-{record['index']}-{number}.png"


Painter = Callable[[Document, int], tuple[Image, dict[str, Any]]]
"""A document and a seed → the picture behind it, and what is to be known about it; raises MMInterleavedError where there is none."""


def painter(model: Model, *, steps: int, guidance: float) -> Painter:
    """Paints through the engine.

    Args:
        steps: denoising steps of a picture.
        guidance: scale of classifier-free guidance.
    """

    def painted(document: Document, seed: int) -> tuple[Image, dict[str, Any]]:
        options: dict[str, Any] = {"max_images": 1, "max_tokens": 1, "force_image": True, "seed": seed}
        events = model.stream(document, steps=steps, guidance=guidance, **options)
        image = next((event.image for event in events if isinstance(event, ImageDone)), None)
        if image is None:
            raise GenerationError("no picture was painted")
        return image, {}

    return painted


def paint(item: Item, painted: Painter, seed: int, file: Callable[[int], Path]) -> dict[str, Any]:
    """Paints the pictures of an item one after the other, each behind the prompt, all earlier pictures and the words between them.

    Args:
        seed: of the item; every picture has its own from it.
        file: number of a picture → where it is kept.

    Returns:
        How many pictures were painted; where they are fewer than wanted, why; and what there is to be known about each.
    """
    assert item.rest is not None
    document = item.prompt()
    told: list[dict[str, Any]] = []
    for segment in item.rest():
        if isinstance(segment, Text):
            document = document.append(segment)
            continue
        try:
            image, known = painted(document, key(seed, len(told)))
        except MMInterleavedError as error:
            return {"pictures": len(told), "reason": str(error)}
        write_atomically(file(len(told)), image.data)
        document = document.append(image)
        told.append(known)
    return {"pictures": len(told), **({"about": told} if any(told) else {})}


def figures(task: Task, painted: Painted) -> list[Row]:
    """One row for each measure whose network is there.

    Raises:
        DataError: a distance between sets, and a picture was not painted.
    """
    missing = unmeasured(task, painted.instruments)
    return [row for name in task.measures if name not in missing for row in MEASURES[name][1](painted)]


def _frechet(painted: Painted) -> Iterator[Row]:
    if refused := [record for record in painted.records if "reason" in record["outcome"]["made"]]:
        first = refused[0]
        raise DataError(
            f"{len(refused)} of {len(painted.records)} items could not be painted, first '{first['name']}' "
            f"({first['outcome']['made']['reason']}); a distance of the others would be one of another set. What was painted is kept."
        )
    assert painted.instruments.extractor is not None
    places = range(len(painted.items))
    found = frechet(
        painted.instruments.extractor,
        lambda: (image for place in places for image in painted.made(place)),
        lambda: (image for place in places for image in painted.true(place)),
    )
    for metric, distance in found.items():
        yield {"metric": metric, "score": distance}


def _clip_similarity(painted: Painted) -> Iterator[Row]:
    assert painted.instruments.clip is not None
    yield _similarity(painted, "clip_similarity", painted.instruments.clip.pictures)


def _feature_similarity(painted: Painted) -> Iterator[Row]:
    extractor = painted.instruments.extractor
    assert extractor is not None

    def vectors(images: Sequence[Image]) -> np.ndarray:
        found = extractor.features([image.array() for image in images])
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    yield _similarity(painted, "feature_similarity", vectors)


def _similarity(painted: Painted, metric: str, vectors: Callable[[Sequence[Image]], np.ndarray]) -> Row:
    places = range(len(painted.items))
    true = [vectors(painted.true(place)) for place in places]
    made = [vectors(images) if (images := painted.made(place)) else np.zeros((0, true[place].shape[1])) for place in places]

    def alike(one: np.ndarray, other: np.ndarray) -> float:
        """Mean cosine over the true pictures; one that was not painted counts 0."""
        both = min(len(one), len(other))
        return float((one[:both] * other[:both]).sum() / len(other))

    return _mean_row(painted, metric, lambda place, stranger: alike(made[stranger], true[place]))


def _clip_score(painted: Painted) -> Iterator[Row]:
    clip = painted.instruments.clip
    assert clip is not None
    places = range(len(painted.items))
    words = clip.captions([str(item.truth["caption"]) for item in painted.items])
    made = [clip.pictures(images) if (images := painted.made(place)) else np.zeros((1, words.shape[1])) for place in places]
    true = [clip.pictures(painted.true(place)) for place in places]

    def fit(picture: np.ndarray, place: int) -> float:
        return max(0.0, float(picture[0] @ words[place]))

    row = _mean_row(painted, "clip_score", lambda place, stranger: fit(made[stranger], place))
    yield row | {"ceiling": mean(fit(true[place], place) for place in places)}


def _miou(painted: Painted) -> Iterator[Row]:
    segmenter = painted.instruments.segmenter
    assert segmenter is not None
    count = len(painted.items)
    painters = {"score": 0, "blind": 1} if painted.blind and count > 1 else {"score": 0}  # whose pictures stand in an item's place
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*painters, "ceiling")}
    for place, item in enumerate(painted.items):
        # The model reads the middle square of a map, so that square is what it paints.
        labels = _middle(labels_of(item.prompt().images[0].array()))
        side = len(labels)
        (photo,) = painted.true(place)
        parts["ceiling"].append(overlaps(segmenter.labels(to_square(photo.array(), min(photo.size)), side), labels, CLASSES))
        for name, away in painters.items():
            # A picture that was not painted shows nothing: label 0 is no class, and all of the true ones are missed.
            made = painted.made((place + away) % count)
            seen = segmenter.labels(made[0].array(), side) if made else np.zeros_like(labels)
            parts[name].append(overlaps(seen, labels, CLASSES))
    low, high = resampled(np.stack(parts["score"]), mean_overlap, painted.seed)
    yield {"metric": "miou", "low": low, "high": high, **{name: mean_overlap(np.sum(found, 0)) for name, found in parts.items()}}


def _middle(labels: np.ndarray) -> np.ndarray:
    height, width = labels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return labels[top : top + side, left : left + side]


def _mean_row(painted: Painted, metric: str, score: Callable[[int, int], float]) -> Row:
    """
    Args:
        score: (item, the item whose painted pictures stand in its place) → value.
    """
    count = len(painted.items)
    values = [score(place, place) for place in range(count)]
    low, high = interval(values, painted.seed)
    others = [score(place, (place + 1) % count) for place in range(count)] if painted.blind and count > 1 else None
    blind = None if others is None else mean(others)
    return {"metric": metric, "score": mean(values), "low": low, "high": high, "blind": blind, "each": values}


MEASURES: dict[str, tuple[str, Callable[[Painted], Iterator[Row]]]] = {
    "fid": ("extractor", _frechet),
    "clip_similarity": ("clip", _clip_similarity),
    "feature_similarity": ("extractor", _feature_similarity),
    "clip_score": ("clip", _clip_score),
    "miou": ("segmenter", _miou),
}
"""Measure → the instrument that it needs, and how it is taken."""
