"""Pictures from words: MS-COCO and Localized Narratives, compared by features, and by how well CLIP finds them to fit their words.

Networks are the user's (`evaluation/painting.py`). Reference pictures are those of the prompts, as released.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from mm_interleaved.document import Document
from mm_interleaved.errors import DataError
from mm_interleaved.evaluation.tasks.files import Files, by_id, member, read_annotations
from mm_interleaved.evaluation.tasks.task import Item, Task, unique
from mm_interleaved.generation.published_options import TEXT_TO_IMAGE

MOST = 30_000
"""Prompts of the published evaluation."""


def coco(files: Files) -> list[Item]:
    """`captions_val2014.json`: the first caption of each picture, in lower case, at most 30,000 pictures."""
    values = read_annotations(files.annotations, dict, "an object with 'images' and 'annotations'")
    first: dict[int, str] = {}
    for number, each in enumerate(member(values, "annotations", files.annotations)):
        place = f", annotations[{number}]"
        caption = str(member(each, "caption", files.annotations, place))
        first.setdefault(member(each, "image_id", files.annotations, place), caption.strip().lower())
    items = []
    for name, image in by_id(values, "images", files.annotations).items():
        if name not in first:
            raise DataError(f"{files.annotations}: picture {name} has no caption; the set is incomplete.")
        file = str(member(image, "file_name", files.annotations, f", picture {name}"))
        items.append(_item(files, file, first[name], file))
    return unique(items[:MOST], files.annotations)


def narratives(files: Files) -> list[Item]:
    """`coco_val_captions.jsonl` of Localized Narratives: every caption, as written."""
    items = [
        _item(
            files,
            f"{number}",
            str(member(each, "caption", files.annotations)).strip(),
            f"{int(member(each, 'image_id', files.annotations)):012d}.jpg",
        )
        for number, each in enumerate(_lines(files))
    ]
    return unique(items[:MOST], files.annotations)


def _lines(files: Files) -> Iterator[dict[str, object]]:
    try:
        with files.annotations.open(encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    yield json.loads(line)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{files.annotations} cannot be read as JSON lines ({error}); download it again.") from error


def _item(files: Files, name: str, caption: str, picture: str) -> Item:
    return Item(
        name=name,
        prompt=lambda: Document([caption]),
        rest=lambda: Document([files.picture(picture)]),
        truth={"caption": caption},
        needs=(files.path(picture),),
    )


MEASURES = ("fid", "clip_score")

TASKS = (
    Task(
        name="coco_images",
        about="captions_val2014.json",
        kind="picture",
        main="fid",
        measures=MEASURES,
        read=coco,
        image=TEXT_TO_IMAGE,
    ),
    Task(
        name="narratives_images",
        about="Localized Narratives' coco_val_captions.jsonl",
        kind="picture",
        main="fid",
        measures=MEASURES,
        read=narratives,
        image=replace(TEXT_TO_IMAGE, candidates=1),
    ),
)
