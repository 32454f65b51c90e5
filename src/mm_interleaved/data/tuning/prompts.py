"""The publication's prompts (spec §5.4), and how a prompt with an answer becomes a training example.

`{image}` stands for the picture. Spaces at a picture are dropped, as the published tokenizer does; the answer is a segment of its own,
so that training ends what is given exactly there. Pictures of the given part are read, not painted: nothing of it is in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mm_interleaved.data.sources.example import Example, Record, Skip, interleave
from mm_interleaved.data.sources.records import list_of, text_of
from mm_interleaved.data.sources.source import Note, Source
from mm_interleaved.data.tuning.nearest import neighbours
from mm_interleaved.document import Document, Image, Segment
from mm_interleaved.errors import ConfigError

IMAGE = "{image}"

CAPTION = "{image}a photo of"
PARAGRAPH = "{image}Please describe the image in detail. The image depicts"
QUESTION = (
    "Based on the image, please answer the question. {image}{question} Please provide an accurate answer within one word. The answer is:"
)
UNANSWERABLE = (
    "Based on the image, please answer the question. {image}{question} When the provided information is insufficient, respond with "
    "'Unanswerable'. Please provide an accurate answer within one word. The answer is:"
)
GROUND = "{image}Provide the bounding box coordinate of the region this sentence describes. {caption}<box>"
REFER = "{image}Provide a short description for this <ref>region</ref><box>{box}</box>."


def fill(template: str, images: Sequence[Image], **words: str) -> list[Segment]:
    """Segments of a template: `{image}` by pictures in order, other names by words.

    Raises:
        Skip: another number of pictures than marks.
    """
    pieces = template.split(IMAGE)
    if len(pieces) - 1 != len(images):
        raise Skip("wrong fields", f"{len(images)} pictures for {len(pieces) - 1} places")
    parts: list[Image | str] = []
    for number, piece in enumerate(pieces):
        # One name after the other: braces inside somebody's words stay.
        for name, value in words.items():
            piece = piece.replace("{" + name + "}", value.strip())
        parts.append(piece.strip())
        if number < len(images):
            parts.append(images[number])
    return list(interleave(parts))


def drawn_sentence(record: Record, field: str, random: np.random.Generator) -> str:
    """One of a record's `sentences`, all equally likely: the text in its `field`.

    Raises:
        Skip: it has none, or one of another form.
    """
    sentences = list_of(record.fields.get("sentences"), "sentences")
    if not sentences:
        raise Skip("no text", "no sentences")
    sentence = sentences[int(random.integers(len(sentences)))]
    return text_of(sentence.get(field) if isinstance(sentence, dict) else None, field)


@dataclass(frozen=True, kw_only=True)
class Prompted(Source):
    """A source of prompts with answers. Subclasses say how a record is asked and answered."""

    template: str = CAPTION
    """Words of the prompt."""
    between: str = " "
    """What stands between prompt and answer; nothing for the published tokenizer, which puts a space there itself."""
    shots: int = 0
    """Solved examples of the same file that stand before the prompt."""
    nearest: str | None = None
    """File of `mmi data embed`: the examples with the most similar pictures are taken, the most similar last; None draws at random."""
    closed: bool = True
    """Whether the end after the answer is trained; not for captions, as published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if IMAGE not in self.template:
            object.__setattr__(self, "template", IMAGE + self.template)  # as the publication's collators do
        if self.shots < 0:
            raise ConfigError(f"source '{self.name}': shots is {self.shots}; expected 0 or more.")
        if self.nearest is not None and not self.shots:
            raise ConfigError(f"source '{self.name}': nearest chooses solved examples, but shots is 0; set shots.")

    def asked(self, record: Record, random: np.random.Generator) -> tuple[list[Segment], str]:
        """Prompt and answer of one record.

        Raises:
            Skip: it gives none.
        """
        raise NotImplementedError

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        prompt, answer = self.asked(record, random)
        if not answer.strip():
            raise Skip("no text", "an empty answer")
        given = [*self._shown(record, random, note), *prompt]
        document = interleave(given)
        made = self.made(Document([*document, self.between + answer.strip()]), record, prompt=len(document))
        return replace(made, closed=self.closed)

    def _shown(self, record: Record, random: np.random.Generator, note: Note) -> list[Segment | str]:
        """Solved examples, one after the other; those whose picture cannot be used are replaced."""
        if not self.shots:
            return []
        pool: Sequence[Record] = record.fields["pool"]
        order = random.permutation(len(pool)) if self.nearest is None else neighbours(self.nearest).order(record, pool)
        shown: list[list[Segment | str]] = []
        for place in order:
            other = pool[place]
            if len(shown) == self.shots:
                break
            if other.place == record.place or other.problem is not None:
                continue
            try:
                prompt, answer = self.asked(other, random)
            except Skip as skip:
                note(skip)
                continue
            shown.append([*prompt, f"{self.between}{answer.strip()}\n"])
        if len(shown) < self.shots:
            raise Skip("left out by rule", f"{len(shown)} of {self.shots} solved examples could be found")
        return [part for example in (shown if self.nearest is None else reversed(shown)) for part in example]

    def pooled(self, records: Sequence[Record]) -> list[Record]:
        """The records of a file, each of which knows the others where solved examples are wanted."""
        if not self.shots:
            return list(records)
        return [replace(record, fields=record.fields | {"pool": records}) for record in records]
