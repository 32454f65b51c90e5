"""What every source gives: one document at a time, what of it is trained, and where it came from; or the reason why not."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm_interleaved.document import Document, Image, Segment, Text
from mm_interleaved.errors import StorageError

REASONS = {
    "not readable": "a file or shard is missing, cut short or broken; the rest of it is left out",
    "not JSON": "a line or file is not valid JSON",
    "wrong fields": "a field is missing or of another type",
    "missing image": "the picture's file is not there",
    "broken image": "the picture cannot be decoded: cut short, a web page, another format",
    "unsafe path": "the picture's path leaves its folder",
    "unknown image": "the annotation names a picture that the picture list does not hold",
    "box outside image": "a box is empty or leaves its picture",
    "no image left": "none of the document's pictures could be used",
    "no text": "there are no words",
    "too long": "the document does not fit the model's context",
    "too many images": "the model cannot look back on so many pictures",
    "left out by rule": "the source's own rules drop it (docs/guides/finetune.md)",
}
"""Why a sample is not used."""

LISTED = 10_000
"""Skipped samples that are listed one by one; all are counted."""


class Skip(Exception):
    """A sample, or one picture of it, is not used. Never leaves `data/`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a shard, before any picture is read."""

    place: str
    """Where it stands: "shard.jsonl:17"; the random draws of its sample depend on it."""
    fields: dict[str, Any]
    """The entry's values, pictures as bytes or as names."""
    problem: Skip | None = None
    """Why there are no fields."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training document of a source."""

    document: Document
    """What is read and continued."""
    prompt: int = 0
    """How many first segments are given; what follows is trained."""
    place: str = ""
    """Where it came from."""
    task: str = ""
    """Name of its source."""
    closed: bool = True
    """False: its end was cut off, so the end token is not trained."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Texts and pictures in reading order."""
        return self.document.segments

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures in reading order."""
        return self.document.images


class Skips:
    """Counts what was not used, by source and reason, and lists it. Safe between threads."""

    def __init__(self, listing: Path | None = None) -> None:
        """
        Args:
            listing: a JSON-lines file that gets one line per skipped sample; None keeps counts and list in memory only.
        """
        self.counts: Counter[tuple[str, str]] = Counter()
        self.entries: list[dict[str, str]] = []
        self._listing = listing
        self._lock = threading.Lock()

    def add(self, source: str, place: str, skip: Skip) -> None:
        """
        Raises:
            StorageError: the listing cannot be written.
        """
        entry = {"source": source, "place": place, "reason": skip.reason, "detail": skip.detail}
        with self._lock:
            self.counts[source, skip.reason] += 1
            if sum(self.counts.values()) > LISTED:
                return
            self.entries.append(entry)
            if self._listing is not None:
                try:
                    with self._listing.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                except OSError as error:
                    raise StorageError(f"{self._listing}: the list of skipped samples cannot be written ({error}); make room.") from error

    def by_reason(self, source: str) -> dict[str, int]:
        """Counts of one source, most frequent first."""
        found = {reason: count for (name, reason), count in self.counts.items() if name == source}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def interleave(parts: Iterable[Text | Image | str]) -> Document:
    """A document of these parts: empty texts left out, neighbouring ones joined, so that a text is tokenized as a whole."""
    segments: list[Segment] = []
    for part in parts:
        part = Text(part) if isinstance(part, str) else part
        if isinstance(part, Text) and not part.text:
            continue
        last = segments[-1] if segments else None
        if isinstance(part, Text) and isinstance(last, Text):
            segments[-1] = Text(last.text + part.text)
        else:
            segments.append(part)
    return Document(segments)
