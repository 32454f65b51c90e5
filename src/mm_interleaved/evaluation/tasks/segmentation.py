"""ADE20K, from a label map and a caption to a picture: `{map}{caption}.{image}`, read by the training source (`data/tuning/places.py`)."""

from __future__ import annotations

from pathlib import PurePosixPath

from mm_interleaved.data.seeds import random_of
from mm_interleaved.data.sources.example import Record, Skip
from mm_interleaved.data.tuning.places import Ade20k
from mm_interleaved.document import Document
from mm_interleaved.errors import DataError
from mm_interleaved.evaluation.tasks.files import Files, whole
from mm_interleaved.evaluation.tasks.task import Item, Task, unique


def ade20k(files: Files) -> list[Item]:
    """`{"image", "caption"}` a line (ADE20K has no captions of its own), and the folder of the official label maps as second file."""
    if files.other is None:
        raise DataError("--other: pictures are painted from label maps; give the folder of ADE20K's annotations (validation).")
    source = Ade20k(name="ade20k", files=(str(files.annotations),), images=str(files.images), maps=str(files.other))
    items = []
    for record in whole(source.records(str(files.annotations)), files.annotations):
        name = record.fields.get("image", record.fields.get("file_name"))
        if not isinstance(name, str) or not record.fields.get("caption"):
            raise DataError(f"{record.place}: expected the fields 'image' and 'caption'; caption the photographs first.")
        items.append(_item(source, record, name, files))
    return unique(items, files.annotations)


def _item(source: Ade20k, record: Record, name: str, files: Files) -> Item:
    def sample() -> Document:
        try:
            return source.example(record, random_of("ade20k", name), lambda skip: None).document
        except Skip as error:
            raise DataError(f"{record.place} cannot be used ({error}); a benchmark may lose no picture.") from error

    assert files.other is not None
    return Item(
        name=name,
        prompt=lambda: Document(sample().segments[:2]),
        rest=lambda: Document(sample().segments[2:]),
        truth={"caption": str(record.fields["caption"])},
        needs=(files.path(name), files.other / PurePosixPath(name).with_suffix(".png")),
    )


TASKS = (
    Task(
        name="ade20k",
        about='one {"image", "caption"} a line; --other the folder of label maps',
        kind="picture",
        main="miou",
        read=ade20k,
        measures=("miou", "fid"),
    ),
)
