"""MMC4: web pages as sentences and the pictures that belong to them, `docs_shard_*_v2.jsonl.zip`.

    {"text_list": ["A sentence.", …], "image_info": [{"image_name": "a.png", "matched_text_index": 0, "matched_sim": 0.29}, …], …}

Rules of the publication (spec §5.3), each a field: pictures of at least this similarity that open; at most six, chosen at random;
documents with a single picture dropped with chance one half; each picture before or after its sentence with equal chance; sentences
joined by spaces, none at pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mm_interleaved.data.sources.example import Example, Record, Skip, interleave
from mm_interleaved.data.sources.records import list_of, text_of
from mm_interleaved.data.sources.source import Note, Source
from mm_interleaved.document import Image


@dataclass(frozen=True, kw_only=True)
class Mmc4(Source):
    """Documents of MMC4."""

    least_similarity: float = 0.24
    """Smallest `matched_sim` of a picture that is used."""
    most_images: int = 6
    """Pictures per document."""
    drop_single: float = 0.5
    """Chance that a document with exactly one picture is dropped."""
    image_before: float = 0.5
    """Chance that a picture stands before its sentence rather than after it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_share("drop_single")
        self.check_share("image_before")

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        sentences = [text_of(sentence, "text_list") for sentence in list_of(record.fields.get("text_list"), "text_list")]
        chosen = self._pictures(record, len(sentences), random, note)
        if not chosen:
            raise Skip("no image left", f"none of similarity ≥ {self.least_similarity} opens")
        if len(chosen) == 1 and random.random() < self.drop_single:
            raise Skip("left out by rule", "a single picture")
        before: dict[int, list[Image]] = {}
        after: dict[int, list[Image]] = {}
        for place, image in sorted(chosen, key=lambda item: item[0]):
            (before if random.random() < self.image_before else after).setdefault(place, []).append(image)
        parts: list[Image | str] = []
        for index, sentence in enumerate(sentences):
            parts += before.get(index, [])
            # A space between sentences, none at a picture, where the tokens of both sides stand alone.
            joined = parts and isinstance(parts[-1], str)
            parts.append(f" {sentence.strip()}" if joined and sentence.strip() else sentence.strip())
            parts += after.get(index, [])
        return self.made(interleave(parts), record)

    def _pictures(self, record: Record, sentences: int, random: np.random.Generator, note: Note) -> list[tuple[int, Image]]:
        entries = [entry for entry in list_of(record.fields.get("image_info"), "image_info") if self._similar(entry)]
        chosen: list[tuple[int, Image]] = []
        # In random order until there are enough: the same as choosing among all that open, without opening all.
        for position in random.permutation(len(entries)):
            if len(chosen) == self.most_images:
                break
            entry = entries[position]
            try:
                sentence = entry.get("matched_text_index")
                if not isinstance(sentence, int) or not 0 <= sentence < sentences:
                    raise Skip("wrong fields", f"matched_text_index {sentence!r} of {sentences} sentences")
                chosen.append((sentence, self.picture(entry.get("image_name"))))
            except Skip as skip:
                note(skip)
        return chosen

    def _similar(self, entry: Any) -> bool:
        if not isinstance(entry, dict) or not isinstance(entry.get("matched_sim"), int | float):
            raise Skip("wrong fields", "image_info needs objects with matched_sim")
        return bool(entry["matched_sim"] >= self.least_similarity)
