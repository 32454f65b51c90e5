"""OBELICS: web pages as two lists of equal length, Parquet or JSON; at each place stands either a text or a picture.

    {"texts": ["A paragraph.", null, …], "images": [null, "https://…/a.jpg", …], …}

Pictures are web addresses in the published files; `fetch: true` downloads them, or `images` may hold names of files that were
downloaded before, or Parquet's own picture cells. A picture that cannot be used is left out of its document and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mm_interleaved.data.sources.example import Example, Record, Skip, interleave
from mm_interleaved.data.sources.records import list_of, text_of
from mm_interleaved.data.sources.source import Note, Source
from mm_interleaved.document import Image


@dataclass(frozen=True, kw_only=True)
class Obelics(Source):
    """Documents of OBELICS."""

    need_image: bool = True
    """Whether a document whose pictures are all unusable is skipped."""

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        texts = list_of(record.fields.get("texts"), "texts")
        images = list_of(record.fields.get("images"), "images")
        if len(texts) != len(images):
            raise Skip("wrong fields", f"{len(texts)} texts and {len(images)} images; the lists stand side by side")
        parts: list[Image | str] = []
        for place, (text, image) in enumerate(zip(texts, images, strict=True)):
            if (text is None) == (image is None):
                raise Skip("wrong fields", f"place {place} holds {'nothing' if text is None else 'a text and a picture'}")
            if image is None:
                parts.append(text_of(text, "texts"))
                continue
            try:
                parts.append(self.picture(image))
            except Skip as skip:
                note(skip)
        document = interleave(parts)
        if not document.images and self.need_image:
            raise Skip("no image left")
        if not len(document):
            raise Skip("no text")
        return self.made(document, record)
