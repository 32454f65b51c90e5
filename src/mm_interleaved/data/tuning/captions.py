"""Captioning and paragraphs in their official files.

coco_captions   {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}    COCO, NoCaps
karpathy        {"images": [{"filename", "filepath"?, "split", "sentences": [{"raw"}]}]}        COCO, Flickr30k
paragraphs      [{"image_id", "paragraph"}], with lists of the ids of a split                   Stanford image paragraphs
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mm_interleaved.data.sources.example import Record, Skip
from mm_interleaved.data.sources.records import list_of, read_records, text_of
from mm_interleaved.data.tuning.annotations import by_id, entries, joined, read_json
from mm_interleaved.data.tuning.prompts import PARAGRAPH, Prompted, drawn_sentence, fill
from mm_interleaved.document import Segment


@dataclass(frozen=True, kw_only=True)
class CocoCaptions(Prompted):
    """Captions in COCO's form."""

    closed: bool = False

    def records(self, shard: str) -> Iterator[Record]:
        values = read_json(shard)
        images = by_id(entries(values, "images", shard), "id")
        annotations = entries(values, "annotations", shard)
        found = [joined(item, number, shard, key="image_id", others=images, name="picture") for number, item in enumerate(annotations)]
        yield from self.pooled(found)

    def asked(self, record: Record, random: np.random.Generator) -> tuple[list[Segment], str]:
        answer = text_of(record.fields.get("caption"), "caption")
        return fill(self.template, [self.picture(record.fields["picture"].get("file_name"))]), answer


@dataclass(frozen=True, kw_only=True)
class Karpathy(Prompted):
    """Captions in the form of Karpathy's splits; one of a picture's sentences is drawn."""

    closed: bool = False
    splits: tuple[str, ...] = ("train", "restval")
    """Which pictures."""

    def records(self, shard: str) -> Iterator[Record]:
        found = [record for record in read_records(shard, array="images") if record.problem or record.fields.get("split") in self.splits]
        yield from self.pooled(found)

    def asked(self, record: Record, random: np.random.Generator) -> tuple[list[Segment], str]:
        answer = drawn_sentence(record, "raw", random)
        name = text_of(record.fields.get("filename"), "filename")
        folder = record.fields.get("filepath")
        return fill(self.template, [self.picture(f"{folder}/{name}" if folder else name)]), answer


@dataclass(frozen=True, kw_only=True)
class Paragraphs(Prompted):
    """Descriptions of a paragraph."""

    template: str = PARAGRAPH
    split: str | None = None
    """JSON list of the picture ids that are used; None uses all."""
    image_name: str = "{image_id}.jpg"
    """File of a picture by its id."""

    def records(self, shard: str) -> Iterator[Record]:
        wanted = None if self.split is None else set(list_of(read_json(self.split), "split"))
        found = [record for record in read_records(shard) if record.problem or wanted is None or record.fields.get("image_id") in wanted]
        yield from self.pooled(found)

    def asked(self, record: Record, random: np.random.Generator) -> tuple[list[Segment], str]:
        answer = " ".join(text_of(record.fields.get("paragraph"), "paragraph").split())
        if "image_id" not in record.fields:
            raise Skip("wrong fields", "no image_id")
        return fill(self.template, [self.picture(self.image_name.format(image_id=record.fields["image_id"]))]), answer
