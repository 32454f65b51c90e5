"""How examples are brought to the length of the model: shortened one by one, or packed into rows as the publication did.

* `Shorten`: an example that is too long loses words at its end, or in front of its last picture; the given part is never cut.
* `published_row_reader`: rows of a fixed number of tokens cut out of a stream of documents (spec §5.3). A document may go on in the
  next row, without a begin token there.

Packing that keeps documents apart (`ours`) needs nothing of this: whole documents share a row (`processing.collate.pack_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mm_interleaved.batch import IGNORED_TARGET
from mm_interleaved.data.mixture import Fit, Stream
from mm_interleaved.data.sources import Example, Skip, Skips, Source
from mm_interleaved.data.sources.pairs import Captions
from mm_interleaved.document import Document, Segment, Text
from mm_interleaved.processing.layout import Layout, TokenIds

Level = Literal["sample", "image"]


@dataclass(frozen=True, slots=True)
class Shorten:
    """Makes examples fit."""

    tokens: TokenIds
    limit: int
    """Tokens of one document, begin and end included."""
    most_images: int
    """Pictures a word may look back on."""
    only_pairs: bool = False
    """Leave longer documents alone, because rows will be cut out of them."""
    need_text: bool = False
    """Skip documents without words."""

    def __call__(self, example: Example) -> Example:
        """The example, or a shorter one.

        Raises:
            Skip: too many pictures, or too long before anything is trained.
        """
        if len(example.images) > self.most_images:
            raise Skip("too many images", f"{len(example.images)}, the model looks back on {self.most_images}")
        if self.need_text and not example.document.texts:
            raise Skip("no text")
        lengths = [self._length(segment) for segment in example.segments]
        surplus = 2 + sum(lengths) - self.limit
        pair = len(lengths) == 2 and isinstance(example.segments[0], Text) != isinstance(example.segments[1], Text)
        if surplus <= 0 or (self.only_pairs and not pair):
            return example
        words_first = pair and isinstance(example.segments[0], Text)
        if words_first and lengths[0] > surplus:
            return replace(example, document=Document([self._cut(example.segments[0], lengths[0] - surplus), example.segments[1]]))
        kept: list[Segment] = []
        room = self.limit - 2
        for segment, length in zip(example.segments, lengths, strict=True):
            if length > room:
                if isinstance(segment, Text) and room > 0 and len(kept) >= example.prompt:
                    kept.append(self._cut(segment, room))
                break
            kept.append(segment)
            room -= length
        if len(kept) <= example.prompt or words_first:
            raise Skip("too long", f"{2 + sum(lengths)} tokens, the model reads {self.limit}")
        return replace(example, document=Document(kept), closed=False)

    def length_of(self, example: Example) -> int:
        """Tokens of an example, begin and end included."""
        return 2 + sum(self._length(segment) for segment in example.segments)

    def _length(self, segment: Segment) -> int:
        return len(self.tokens.encode(segment.text)) if isinstance(segment, Text) else 1 + self.tokens.image_tokens

    def _cut(self, segment: Segment, count: int) -> Text:
        assert isinstance(segment, Text)
        ids = list(self.tokens.encode(segment.text))[:count]
        assert self.tokens.decode is not None
        # The kept ids themselves are laid out: half a word has no text that is tokenized to them again.
        return Text(self.tokens.decode(ids), origin="generated", token_ids=tuple(ids))


@dataclass(frozen=True, slots=True)
class Row:
    """Documents, or pieces of them, that stand side by side in one row."""

    pieces: tuple[Layout, ...]
    task: str
    """Name of the source."""
    places: tuple[str, ...]
    """Where each piece came from."""


def piece_of(layout: Layout, start: int, stop: int) -> Layout:
    """Tokens `start` … `stop - 1` of a layout; pictures lie wholly inside or outside."""
    inside = [number for number, begin in enumerate(layout.image_begin) if start <= begin < stop]
    return Layout(
        token_ids=layout.token_ids[start:stop],
        targets=(*layout.targets[start : stop - 1], IGNORED_TARGET),
        image_begin=tuple(layout.image_begin[number] - start for number in inside),
        images=tuple(layout.images[number] for number in inside),
        image_trained=tuple(layout.image_trained[number] for number in inside),
        segment_start=tuple(place - start for place in layout.segment_start if start <= place < stop),
    )


def cut_at(
    starts: Sequence[int], begins: Sequence[int], total: int, *, length: int, image_tokens: int, most_images: int, level: Level
) -> int:
    """Where a row ends that is cut out of a line of tokens, by the rules of the publication.

    Args:
        starts: positions of begin tokens, ascending.
        begins: positions of begin-of-image tokens, ascending.
        total: tokens of the line.
        length: tokens of a full row.
        most_images: pictures of a row.
        level: what is never divided when a row holds too many pictures, or a picture does not fit: a whole sample, or a picture.
    """
    cut = min(length, total)
    inside = [begin for begin in begins if begin < cut]
    if len(inside) > most_images:
        surplus, last = inside[most_images], inside[most_images - 1]
        if level == "image":
            cut = last + 1 + image_tokens
        else:
            own = max((start for start in starts if start <= surplus), default=0)
            cut = own if own > last else surplus
    split = [begin for begin in inside if begin < cut < begin + 1 + image_tokens]
    if split:
        own = max((start for start in starts if start <= split[0]), default=0)
        cut = own if level == "sample" and own > 0 else split[0]
    return cut


class _Rows:
    """Rows of one lane of one source, cut out of its documents one after the other."""

    def __init__(self, stream: Stream, lay_out: Callable[[Example], Layout], tokens: TokenIds, length: int) -> None:
        self._stream, self._lay_out, self._tokens, self._length = stream, lay_out, tokens, length
        self._most_images, self._level = published_limits(stream.source)
        # Documents that are not used up: position before each was taken, its layout, its place.
        self._waiting: list[tuple[list[int], Layout, str]] = []
        self._used = 0
        """Tokens of the first waiting document that stood in earlier rows."""
        self._again: tuple[int, int] | None = None

    def take(self, fit: Fit, skips: Skips) -> Row:
        if self._again is not None:
            count, self._used = self._again
            self._again = None
            for _ in range(count):
                self._read(fit, Skips())  # what was skipped among them has been counted
        while True:
            while self._available() < self._length:
                self._read(fit, skips)
            row = self._cut()
            if any(piece.images for piece in row.pieces):
                return row

    def state(self) -> list[int]:
        """Position of the stream before the first waiting document, their number, and how much of the first is used."""
        before = self._waiting[0][0] if self._waiting else self._stream.state()
        return [*before, len(self._waiting), self._used]

    def load(self, state: Sequence[int]) -> None:
        self._stream.load(state[:4])
        self._waiting, self._again = [], (state[4], state[5])

    def _available(self) -> int:
        return sum(len(layout) for _, layout, _ in self._waiting) - self._used

    def _read(self, fit: Fit, skips: Skips) -> None:
        before = self._stream.state()
        example = self._stream.take(fit, skips)
        self._waiting.append((before, self._lay_out(example), example.place))

    def _cut(self) -> Row:
        starts, begins, offset = [], [], -self._used
        for _, layout, _ in self._waiting:
            starts.append(offset)
            begins += [offset + begin for begin in layout.image_begin if offset + begin >= 0]
            offset += len(layout)
        cut = cut_at(
            [start for start in starts if start >= 0],
            begins,
            offset,
            length=self._length,
            image_tokens=self._tokens.image_tokens,
            most_images=self._most_images,
            level=self._level,
        )
        pieces, places = [], []
        while cut > 0:
            _, layout, place = self._waiting[0]
            stop = min(len(layout), self._used + cut)
            pieces.append(piece_of(layout, self._used, stop))
            places.append(place)
            cut -= stop - self._used
            self._used = stop
            if stop == len(layout):
                self._waiting.pop(0)
                self._used = 0
        return Row(tuple(pieces), self._stream.source.name, tuple(places))


def published_limits(source: Source) -> tuple[int, Level]:
    """Pictures of a row, and what is not divided: 30 and whole samples for pairs, 15 and pictures for documents."""
    return (30, "sample") if isinstance(source, Captions) else (15, "image")


def published_row_reader(lay_out: Callable[[Example], Layout], tokens: TokenIds, length: int) -> Callable[[Stream], _Rows]:
    """What a mixture needs to give rows instead of examples.

    Args:
        lay_out: an example as tokens, without a limit.
        length: tokens of a row; 2048 as published.
    """
    return lambda stream: _Rows(stream, lay_out, tokens, length)
