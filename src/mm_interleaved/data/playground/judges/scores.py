"""What a continuation of a larger task is worth: every figure a share between 0 and 1, from the texts and pictures alone.

Pictures are compared with the true ones in order; a missing picture is wrong in every aspect. `contrast` judges what can be drawn again,
`networks` judges layouts, `tales.answers` the state of a story.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mm_interleaved.data.playground.canvas import Picture, class_map
from mm_interleaved.data.playground.judges import networks
from mm_interleaved.data.playground.judges.contrast import DRAWN_SIDE, Scene, judge, nearest, rivals
from mm_interleaved.data.playground.tasks.larger import TASKS
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.tales import answers
from mm_interleaved.data.playground.world import World
from mm_interleaved.errors import ConfigError

JUDGED_THINGS = 120
"""How many things of the pack stand in for another one, besides those a scene shows."""


def scores(world: World, asked: Sample, produced: Sequence[Segment]) -> dict[str, float]:
    """The figures of one continuation.

    Args:
        asked: the sample whose prompt was continued.
        produced: what came after the prompt, in order.

    Raises:
        ConfigError: the task is none of the larger ones.
    """
    if asked.task not in TASKS:
        raise ConfigError(f"no scores for task {asked.task!r}; there are {', '.join(TASKS)}.")
    texts = [part.strip() for part in produced if isinstance(part, str) and part.strip()]
    pictures = [part for part in produced if not isinstance(part, str)]
    wanted = asked.segments[asked.prompt :]
    scenes = asked.truth["scenes"][-sum(not isinstance(part, str) for part in wanted) :] if _has_pictures(wanted) else []
    if asked.task == "layout_map":
        return {"layout": _layout(world, pictures, scenes[-1])}
    side = next((part.shape[0] for part in wanted if not isinstance(part, str)), DRAWN_SIDE)
    found = _pictures(world, pictures, scenes, side)
    if asked.task == "tale":
        told = answers(world, asked.truth, texts)
        return {**found, **{f"asks {name}": float(right) for name, right in told.items()}}
    if asked.task == "process":
        return {**found, "stage": _stages(world, pictures, scenes, side), "text": _same(texts, wanted)}
    if not scenes or asked.task in ("blocks", "episode"):
        found["text"] = _same(texts, wanted)
    return found


def chances(world: World, asked: Sample) -> dict[str, float]:
    """What a guesser scores on average: one in (rivals + 1) for every aspect of a picture, nothing for words.

    A layout has no meaningful guess.
    """
    wanted = asked.segments[asked.prompt :]
    found: dict[str, list[float]] = {}
    if asked.task != "layout_map" and _has_pictures(wanted):
        for scene in asked.truth["scenes"][-sum(not isinstance(part, str) for part in wanted) :]:
            for aspect, others in _rivals(world, scene).items():
                found.setdefault(aspect, []).append(1 / (len(others) + 1))
        if asked.task == "process":
            found["stage"] = [1 / sum(not isinstance(part, str) for part in wanted)]
    return {aspect: float(np.mean(shares)) for aspect, shares in found.items()}


def _has_pictures(parts: Sequence[Segment]) -> bool:
    return any(not isinstance(part, str) for part in parts)


def _same(texts: Sequence[str], wanted: Sequence[Segment]) -> float:
    """Share of the true texts that were said word for word, in order."""
    true = [part.strip() for part in wanted if isinstance(part, str)]
    return sum(one == other for one, other in zip(texts, true, strict=False)) / len(true)


def _pictures(world: World, pictures: Sequence[np.ndarray], scenes: Sequence[Scene], side: int) -> dict[str, float]:
    """Every aspect's share of pictures that are right in it."""
    right: dict[str, list[bool]] = {}
    for number, scene in enumerate(scenes):
        others = _rivals(world, scene)
        drawn = number < len(pictures)
        judged = judge(pictures[number], scene, others, world.pack, side) if drawn else dict.fromkeys(others, False)
        for aspect, good in judged.items():
            right.setdefault(aspect, []).append(good)
    return {aspect: float(np.mean(good)) for aspect, good in right.items()}


def _rivals(world: World, scene: Scene) -> dict[str, list[Scene]]:
    known = [world.pack.things[thing].id for thing in world.train_things[:JUDGED_THINGS]]
    styles = [style.id for style in world.pack.styles[: world.config.styles]]
    return {aspect: rival for aspect, rival in rivals(scene, world.pack, known, styles).items() if rival}


def _stages(world: World, pictures: Sequence[np.ndarray], scenes: Sequence[Scene], side: int) -> float:
    """Share of stages whose picture is nearer to its own scene than to any other stage's."""
    right = [nearest(picture, scenes, world.pack, side) == number for number, picture in enumerate(pictures[: len(scenes)])]
    return sum(right) / len(scenes)


def _layout(world: World, pictures: Sequence[np.ndarray], scene: Scene) -> float:
    """Class-aware mean overlap of the re-segmented picture with the true map; 0 without a picture."""
    if not pictures:
        return 0.0
    return networks.mean_overlap(networks.segment(pictures[:1])[0], class_map(Picture.from_json(scene), world.pack, networks.PICTURE_SIDE))
