"""RefCOCO, RefCOCO+ and RefCOCOg: words → box, right from an overlap of one half. Every sentence is a question of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from PIL import Image as pillow

from mm_interleaved.data.playground.tasks import boxes as places
from mm_interleaved.data.sources.example import Skip
from mm_interleaved.data.tuning.annotations import read_plain_pickle
from mm_interleaved.data.tuning.prompts import GROUND, fill
from mm_interleaved.document import Document, Image
from mm_interleaved.errors import DataError
from mm_interleaved.evaluation.reading import HIT
from mm_interleaved.evaluation.tasks.files import Files, by_id, member, read_annotations
from mm_interleaved.evaluation.tasks.task import Item, Scores, Task, unique
from mm_interleaved.generation.published_options import PublishedTextOptions

SIDE = 448
"""Side of the square that pictures are squeezed into, as published: cropping would cut boxes off."""

SPLITS = ("val", "testA", "testB", "test")
"""Official splits; RefCOCOg has `test`, the others `testA` (people) and `testB`."""


def refcoco(files: Files, split: str) -> list[Item]:
    """`refs(unc).p` (or the same as JSON), and `instances.json` as second file."""
    if files.other is None:
        raise DataError("--other: the boxes stand in a file of their own; give instances.json beside the references.")
    if files.annotations.suffix == ".p":
        try:
            references = read_plain_pickle(str(files.annotations))
        except Skip as error:
            raise DataError(f"{files.annotations} cannot be read ({error}); download it again.") from error
    else:
        references = read_annotations(files.annotations, list, "a list of references")
    described = read_annotations(files.other, dict, "an object with 'annotations' and 'images'")
    boxes, images = (by_id(described, part, files.other) for part in ("annotations", "images"))
    items = []
    for number, each in enumerate(references):
        place = f"[{number}]"
        if member(each, "split", files.annotations, place) != split:
            continue
        box, image = member(each, "ann_id", files.annotations, place), member(each, "image_id", files.annotations, place)
        if box not in boxes or image not in images:
            raise DataError(f"{files.annotations}{place}: box {box} or picture {image} is not in {files.other}; are they of another set?")
        for turn, sentence in enumerate(member(each, "sentences", files.annotations, place)):
            items.append(
                _item(
                    files,
                    f"{each.get('ref_id', number)}#{turn}",
                    member(sentence, "sent", files.annotations, place),
                    member(boxes[box], "bbox", files.other, f", box {box}"),
                    {name: member(images[image], name, files.other, f", picture {image}") for name in ("file_name", "width", "height")},
                )
            )
    return unique(items, files.annotations)


def _item(files: Files, name: str, words: str, box: list[float], image: dict[str, Any]) -> Item:
    left, top, wide, high = box
    true = [left / image["width"], top / image["height"], (left + wide) / image["width"], (top + high) / image["height"]]

    def prompt() -> Document:
        given = pillow.fromarray(files.picture(image["file_name"]).array()).resize((SIDE, SIDE), pillow.Resampling.BICUBIC)
        return Document(fill(GROUND, [Image.from_array(np.asarray(given))], caption=words))

    return Item(name=name, prompt=prompt, truth={"box": true})


def found(made: str, truth: dict[str, Any]) -> Scores:
    """Whether the box is right, and how far; no box is 0."""
    box = places.read(made)
    shared = 0.0 if box is None else places.overlap(box, tuple(truth["box"]))
    return {"accuracy": float(shared >= HIT), "overlap": shared, "box": float(box is not None)}


TASKS = tuple(
    Task(
        name=f"{name}_{split}",
        about="refs(unc).p or refs(umd).p; --other instances.json",
        kind="words",
        main="accuracy",
        read=partial(refcoco, split=split),
        score=found,
        text=PublishedTextOptions(max_new_tokens=40, min_length=0, beams=1),
    )
    for name, splits in (("refcoco", SPLITS[:3]), ("refcoco+", SPLITS[:3]), ("refcocog", ("val", "test")))
    for split in splits
)
