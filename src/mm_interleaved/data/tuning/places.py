"""Places in pictures: referring expressions with boxes, and label maps that become pictures.

    refcoco   refs(unc).p or the same as JSON: [{"ann_id", "image_id", "split", "sentences": [{"sent"}]}], and instances.json
    ade20k    {"image": "ADE_train_00000001.jpg", "caption": "…"} a line, and the official label maps (PNG, one number per pixel)

Boxes are thousandths of width and height of a picture that is squeezed into a square, as published: cropping would cut them off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import fsspec
import numpy as np
from PIL import Image as pillow

from mm_interleaved.data.sources.example import Example, Record, Skip
from mm_interleaved.data.sources.pairs import CAPTION_NAMES
from mm_interleaved.data.sources.records import first_of, text_of
from mm_interleaved.data.sources.source import Note, Source
from mm_interleaved.data.tuning.annotations import by_id, entries, joined, read_json, read_plain_pickle
from mm_interleaved.data.tuning.prompts import GROUND, REFER, Prompted, drawn_sentence, fill
from mm_interleaved.document import Document, Image, Segment
from mm_interleaved.errors import DataError

SIDED = re.compile(r"\b(left|right|leftmost|rightmost)\b", re.IGNORECASE)
"""Words that a mirrored picture would make wrong."""

LABELS = 256
"""Entries of the palette."""


@dataclass(frozen=True, kw_only=True)
class RefCoco(Prompted):
    """RefCOCO, RefCOCO+ and RefCOCOg: words → box, or box → words."""

    instances: str
    """COCO file with the pictures and boxes."""
    splits: tuple[str, ...] = ("train",)
    """Which references."""
    describe: bool = False
    """Ask for the words of a box instead of the box of words."""
    side: int = 448
    """Side in pixels of the square that pictures are squeezed into."""
    template: str = ""
    """By default the publication's, by `describe`."""

    def __post_init__(self) -> None:
        if not self.template:
            object.__setattr__(self, "template", REFER if self.describe else GROUND)
        if not self.describe:
            object.__setattr__(self, "between", "")
        super().__post_init__()

    def records(self, shard: str) -> Iterator[Record]:
        references = read_plain_pickle(shard) if shard.endswith(".p") else read_json(shard)
        if not isinstance(references, list):
            raise Skip("not readable", f"{shard}: expected a list of references, got {type(references).__name__}")
        described = read_json(self.instances)
        boxes = by_id(entries(described, "annotations", self.instances), "id")
        images = by_id(entries(described, "images", self.instances), "id")
        found = []
        for number, item in enumerate(references):
            if isinstance(item, dict) and item.get("split") not in self.splits:
                continue
            record = joined(item, number, shard, key="image_id", others=images, name="picture")
            if record.problem is None and record.fields.get("ann_id") not in boxes:
                record = Record(record.place, {}, Skip("wrong fields", f"ann_id {record.fields.get('ann_id')!r} is in no annotation"))
            if record.problem is None:
                record = Record(record.place, record.fields | {"bbox": boxes[record.fields["ann_id"]].get("bbox")})
            found.append(record)
        yield from self.pooled(found)

    def asked(self, record: Record, random: np.random.Generator) -> tuple[list[Segment], str]:
        words = drawn_sentence(record, "sent", random)
        image = self.picture(record.fields["picture"].get("file_name"))
        box = box_words(record.fields["bbox"], image.size)
        squeezed = pillow.fromarray(image.array()).resize((self.side, self.side), pillow.Resampling.BICUBIC)
        square = [Image.from_array(np.asarray(squeezed))]
        if self.describe:
            return fill(self.template, square, box=box), words
        return fill(self.template, square, caption=words), f"{box}</box>"


def box_words(box: object, size: tuple[int, int]) -> str:
    """COCO's box (left, top, width, height in pixels) as `(x1,y1)(x2,y2)`, three digits each.

    Raises:
        Skip: it is none, empty, or leaves the picture by more than a pixel.
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        raise Skip("wrong fields", f"bbox {box!r:.60}; expected four numbers")
    (left, top, wide, high), (width, height) = box, size
    if wide <= 0 or high <= 0 or left < -1 or top < -1 or left + wide > width + 1 or top + high > height + 1:
        raise Skip("box outside image", f"{box} in a picture of {width} x {height}")
    corners = ((left / width, top / height), ((left + wide) / width, (top + high) / height))
    return "".join("({:03d},{:03d})".format(*(min(999, max(0, int(value * 1000))) for value in corner)) for corner in corners)


@dataclass(frozen=True, kw_only=True)
class Ade20k(Source):
    """A coloured label map and a caption → the photograph: `{map}{caption}.{image}`."""

    maps: str
    """Folder of the label maps."""
    flip: float = 0.0
    """Chance that map and photograph are both mirrored left to right; never where the caption names a side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_share("flip")

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        caption = text_of(first_of(record.fields, *CAPTION_NAMES), "caption").strip().rstrip(".")
        name = text_of(first_of(record.fields, "image", "file_name"), "image")
        photo = self.picture(name).array()
        colours = palette()[self._labels(name)]
        if colours.shape != photo.shape:
            raise Skip("wrong fields", f"{name} has {photo.shape[:2]} pixels, its map {colours.shape[:2]}")
        if random.random() < self.flip and not SIDED.search(caption):
            photo, colours = photo[:, ::-1], colours[:, ::-1]
        given: list[Image | str] = [Image.from_array(np.ascontiguousarray(colours)), f"{caption}."]
        return self.made(Document([*given, Image.from_array(np.ascontiguousarray(photo))]), record, prompt=2)

    def _labels(self, name: str) -> np.ndarray:
        path = f"{self.maps.rstrip('/')}/{PurePosixPath(name).with_suffix('.png')}"
        try:
            with fsspec.open(path, "rb") as file, pillow.open(file) as picture:
                labels = np.asarray(picture)
        except Exception as error:  # the file system's own, and Pillow's
            raise Skip("missing image", f"label map {path}: {error}") from error
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise Skip("broken image", f"label map {path}: expected one 8-bit number per pixel, got {labels.dtype} {labels.shape}")
        return labels


def palette() -> np.ndarray:
    """Colours of the labels 0 … 255 (256 3, 8 bits): bits of the label spread over the channels, as PASCAL VOC does; 0 is black."""
    labels = np.arange(LABELS)
    colours = np.zeros((LABELS, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (((labels >> channel) & 1) << (7 - place)).astype(np.uint8)
        labels = labels >> 3
    return colours


def labels_of(coloured: np.ndarray) -> np.ndarray:
    """The label map behind a coloured one (H W 3 → H W): `palette` backwards.

    Raises:
        DataError: a colour belongs to no label.
    """
    codes = palette().astype(np.int64) @ (65536, 256, 1)
    order = np.argsort(codes)
    found = coloured.astype(np.int64) @ (65536, 256, 1)
    labels = order[np.searchsorted(codes[order], found).clip(max=LABELS - 1)]
    if (codes[labels] != found).any():
        raise DataError("label map: a colour belongs to no label; the map was changed after it was coloured.")
    return labels
