"""Stories: a caption before each picture, `{caption}{image}` (spec §5.5); the last picture is trained, or all of the story.

vist      {"annotations": [[{"story_id", "worker_arranged_photo_order", "photo_flickr_id", "text"}], …]}   official
stories   {"texts": ["…", …], "images": ["…", …]} a line                                                  PororoSV, FlintstonesSV
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mm_interleaved.data.sources.example import Example, Record, Skip, interleave
from mm_interleaved.data.sources.records import first_of, list_of, text_of
from mm_interleaved.data.sources.source import Note, Source
from mm_interleaved.data.tuning.annotations import entries, read_json
from mm_interleaved.document import Document, Image
from mm_interleaved.errors import ConfigError

CONTEXTS = ("multi_modal", "image_only", "text_only", "current")


@dataclass(frozen=True, kw_only=True)
class _Story(Source):
    context: str = "multi_modal"
    """What stands before the last picture: `multi_modal` earlier words and pictures, `image_only`, `text_only`, or `current` (neither)."""
    rounds: str = "last"
    """`last` trains the last picture alone, `all` every picture and all words after the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context not in CONTEXTS:
            raise ConfigError(f"source '{self.name}': context is '{self.context}'; expected {', '.join(CONTEXTS)}.")
        if self.rounds not in ("last", "all") or (self.rounds == "all" and self.context != "multi_modal"):
            raise ConfigError(f"source '{self.name}': rounds is '{self.rounds}'; expected last, or all with the context multi_modal.")

    def told(self, record: Record, texts: list[str], images: list[Image]) -> Example:
        """The story as a document: a caption before each picture."""
        earlier: list[Image | str] = []
        for text, image in zip(texts[:-1], images[:-1], strict=True):
            earlier += [text] if self.context in ("multi_modal", "text_only") else []
            earlier += [image] if self.context in ("multi_modal", "image_only") else []
        if self.context == "text_only":
            earlier = [" ".join([*texts[:-1], ""])]
        given = interleave([*(earlier if self.context != "current" else []), texts[-1]])
        return self.made(Document([*given, images[-1]]), record, prompt=1 if self.rounds == "all" else len(given))


@dataclass(frozen=True, kw_only=True)
class Vist(_Story):
    """Visual storytelling: `train.story-in-sequence.json`."""

    image_name: str = "{photo_flickr_id}.jpg"
    """File of a picture by its id."""

    def records(self, shard: str) -> Iterator[Record]:
        stories: dict[object, list[dict[str, object]]] = {}
        for number, item in enumerate(entries(read_json(shard), "annotations", shard)):
            # Each sentence stands in a list of its own.
            frame = item[0] if isinstance(item, list) and len(item) == 1 else item
            if not isinstance(frame, dict) or "story_id" not in frame:
                yield Record(f"{shard}[{number}]", {}, Skip("wrong fields", "a sentence without story_id"))
                continue
            stories.setdefault(frame["story_id"], []).append(frame)
        for story, frames in stories.items():
            yield Record(f"{shard}[story {story}]", {"frames": frames})

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        try:
            frames = sorted(record.fields["frames"], key=lambda frame: frame["worker_arranged_photo_order"])
            names = [self.image_name.format(photo_flickr_id=frame["photo_flickr_id"]) for frame in frames]
        except (KeyError, TypeError) as error:
            raise Skip("wrong fields", f"a frame without {error}") from error
        texts = [text_of(first_of(frame, "original_text", "text"), "text").strip() for frame in frames]
        return self.told(record, texts, [self.picture(name) for name in names])


@dataclass(frozen=True, kw_only=True)
class Stories(_Story):
    """Stories as {"texts": […], "images": […]}: PororoSV and FlintstonesSV, exported from their caches (docs/guides/finetune.md).

    A picture may be a strip of several frames, of which one is drawn.
    """

    frame: int | None = None
    """Side in pixels of the square frames of a strip, one below the other; None takes pictures whole."""

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        texts = [text_of(text, "texts").strip() for text in list_of(record.fields.get("texts"), "texts")]
        names = list_of(record.fields.get("images"), "images")
        if len(texts) != len(names) or not texts:
            raise Skip("wrong fields", f"{len(texts)} texts and {len(names)} images; a story has one of each per frame")
        return self.told(record, texts, [self._frame(self.picture(name), random) for name in names])

    def _frame(self, image: Image, random: np.random.Generator) -> Image:
        if self.frame is None:
            return image
        count = image.size[1] // self.frame
        if image.size[0] != self.frame or image.size[1] != count * self.frame:
            raise Skip("broken image", f"a strip of {image.size} is no column of frames of {self.frame} pixels")
        start = int(random.integers(count)) * self.frame
        return Image.from_array(np.ascontiguousarray(image.array()[start : start + self.frame]))
