"""Stories: VIST, PororoSV and FlintstonesSV; a caption before each picture, the pictures painted from captions and earlier pictures.

Two settings, never mixed up: `vist`, `pororo_sv`, `flintstones_sv` paint every picture of a story, each behind those painted before it;
`…_last` paints the last one alone, behind the true ones. The files are read by the training sources (`data/tuning/stories.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mm_interleaved.data.seeds import random_of
from mm_interleaved.data.sources.example import Record, Skip
from mm_interleaved.data.tuning.stories import Stories, Vist
from mm_interleaved.document import Document
from mm_interleaved.errors import DataError
from mm_interleaved.evaluation.tasks.files import Files, whole
from mm_interleaved.evaluation.tasks.task import Item, Task, unique

STRIP = 128
"""Side of a frame of PororoSV and FlintstonesSV in pixels; a taller file is a strip of frames, one below the other."""


def vist(files: Files, *, last: bool) -> list[Item]:
    """`val.story-in-sequence.json`, `test.story-in-sequence.json`: five sentences a story, each with its photograph `ID.jpg`."""
    source = Vist(name="vist", files=(str(files.annotations),), images=str(files.images))
    items = []
    for record in whole(source.records(str(files.annotations)), files.annotations):
        frames = record.fields["frames"]
        orders = sorted(str(frame.get("worker_arranged_photo_order")) for frame in frames)
        if orders != [str(number) for number in range(len(frames))]:
            raise DataError(f"{record.place}: its sentences have the places {', '.join(orders)}; expected each from 0 once.")
        names = [source.image_name.format(photo_flickr_id=frame.get("photo_flickr_id")) for frame in frames]
        items.append(_item(source, record, str(frames[0]["story_id"]), [files.path(name) for name in names], last=last))
    return unique(items, files.annotations)


def lines(files: Files, *, name: str, last: bool) -> list[Item]:
    """`{"texts": […], "images": […]}` a line, as PororoSV and FlintstonesSV are exported for training (docs/guides/finetune.md).

    Of a strip one frame is drawn, the same one in every run.
    """
    source = Stories(name=name, files=(str(files.annotations),), images=str(files.images), frame=STRIP)
    items = []
    for number, record in enumerate(whole(source.records(str(files.annotations)), files.annotations)):
        texts, images = record.fields.get("texts"), record.fields.get("images")
        if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images) or not texts:
            raise DataError(f"{record.place}: expected 'texts' and 'images' of one length, one of each a frame; export the stories again.")
        items.append(_item(source, record, str(number), [files.path(str(image)) for image in images], last=last))
    return unique(items, files.annotations)


def _item(source: Vist | Stories, record: Record, name: str, needs: Sequence[Path], *, last: bool) -> Item:
    def story() -> Document:
        try:
            found = source.example(record, random_of("frames", source.name, name), lambda skip: None).document
        except Skip as error:
            raise DataError(f"{record.place} cannot be used ({error}); a benchmark may lose no story.") from error
        if len(found) != 2 * len(needs):
            raise DataError(f"{record.place}: a caption is empty; a benchmark may lose no story.")
        return found

    given = 2 * len(needs) - 1 if last else 1
    return Item(
        name=name,
        prompt=lambda: Document(story().segments[:given]),
        rest=lambda: Document(story().segments[given:]),
        truth={"painted": 1 if last else len(needs)},
        needs=tuple(needs),
    )


def _task(name: str, about: str, read: partial[list[Item]]) -> Task:
    return Task(
        name=name,
        about=about,
        kind="picture",
        main="fid",
        read=read,
        measures=("fid", "clip_similarity", "feature_similarity"),
    )


VISUALIZED = "one story a line, as fine-tuning reads it (docs/guides/evaluate.md)"

TASKS = tuple(
    _task(f"{name}{suffix}", about, partial(read, last=bool(suffix)))
    for name, about, read in (
        ("vist", "test.story-in-sequence.json or val.story-in-sequence.json", vist),
        ("pororo_sv", VISUALIZED, partial(lines, name="pororo_sv")),
        ("flintstones_sv", VISUALIZED, partial(lines, name="flintstones_sv")),
    )
    for suffix in ("", "_last")
)
