"""Pictures with captions: LAION-style pairs and BLIP-style captions, from JSON, JSON lines, Parquet or webdataset tars.

    {"image": "00000/000000012.jpg", "caption": "a dog on a beach"}          caption may also be a list, of which one is drawn

Rules of the publication (spec §5.3): the caption is lower-cased; picture first or words first with equal chance; in LAION pairs with
the words first the words are not trained, only that a picture follows (spec §3.1), since web captions do not begin documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mm_interleaved.data.sources.example import Example, Record, Skip
from mm_interleaved.data.sources.records import first_of, text_of
from mm_interleaved.data.sources.source import Note, Source
from mm_interleaved.document import Document

IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "image_path", "path", "url", "URL")
"""Fields that a picture is found under, in this order; those of a webdataset tar are its endings."""

CAPTION_NAMES = ("caption", "txt", "text", "TEXT", "top_caption")
"""Fields that the words are found under."""


@dataclass(frozen=True, kw_only=True)
class Captions(Source):
    """Pairs whose words are always trained (BLIP-style)."""

    image_first: float = 0.5
    """Share of documents that begin with the picture."""
    lower: bool = True
    """Whether captions are lower-cased."""
    train_leading_words: bool = True
    """Whether words that begin a document are trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_share("image_first")

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        captions = first_of(record.fields, *CAPTION_NAMES)
        captions = captions if isinstance(captions, list) else [captions]
        if not captions:
            raise Skip("no text")
        caption = text_of(captions[int(random.integers(len(captions)))], "caption").strip()
        if not caption:
            raise Skip("no text")
        caption = caption.lower() if self.lower else caption
        image = self.picture(first_of(record.fields, *IMAGE_NAMES))
        if random.random() < self.image_first:
            return self.made(Document([image, caption]), record)
        return self.made(Document([caption, image]), record, prompt=0 if self.train_leading_words else 1)


@dataclass(frozen=True, kw_only=True)
class Laion(Captions):
    """LAION-en and LAION-COCO: words that begin a document are not trained."""

    train_leading_words: bool = False
