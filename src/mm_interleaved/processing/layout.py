"""Layout: the one place where a document becomes tokens — for training, evaluation, scoring and generation alike.

    begin · words of a text · begin-of-image, image placeholders · words of a text · … · end

* Every text is tokenized on its own and verbatim: nothing is stripped, joined or inserted, also not at a picture. "A camel:"
  before a picture and "It is red." after it are different tokens from " It is red."; a writer who wants the space writes it.
  So the tokens of a segment never depend on its neighbours, and what was generated can be laid out again exactly.
* Generated text keeps the tokens that the model wrote (`Text.token_ids`) as long as they still spell the text; an edited
  text is tokenized like a given one.
* Control tokens typed by a user stay text: only this file places control tokens.

Source: arXiv 2401.10208; spec §1.1 and §3.1. There is no end-of-image token: the placeholders have a fixed count.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from mm_interleaved.batch import IGNORED_TARGET
from mm_interleaved.document import Image, Text
from mm_interleaved.errors import LayoutError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Segment: TypeAlias = str | Text | Pixels | Image | None
Segments: TypeAlias = Iterable[Segment]

MINIMUM_CONTEXT = 3
"""Tokens from begin to begin-of-image below which a picture has no context, hence no image loss: those two alone are 2."""


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """What the layout has to know of a tokenizer and a model."""

    begin: int
    """Starts every document (bos)."""
    end: int
    """Ends a closed document (eos)."""
    pad: int
    """Fills rows of a batch."""
    begin_image: int
    """Announces a picture; the model writes it to say that it wants to draw."""
    image: int
    """Placeholder that is overwritten by an image token."""
    image_tokens: int
    """Placeholders of one picture."""
    encode: Callable[[str], Sequence[int]]
    """Text → ids, without control tokens."""
    decode: Callable[[Sequence[int]], str] | None = None
    """Ids → text, to see whether kept ids still spell their text; None trusts them."""

    @property
    def control(self) -> frozenset[int]:
        """Ids that no text may contain."""
        return frozenset((self.begin, self.end, self.pad, self.begin_image, self.image))


@runtime_checkable
class HasTokenIds(Protocol):
    """Anything with `tokens`, as the processor."""

    @property
    def tokens(self) -> TokenIds: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """One document as tokens. T tokens, I pictures, G segments."""

    token_ids: tuple[int, ...]
    """T ids."""
    targets: tuple[int, ...]
    """T ids of the next token, `IGNORED_TARGET` where nothing is trained."""
    image_begin: tuple[int, ...]
    """Position of each picture's begin-of-image token, in reading order."""
    images: tuple[Pixels | None, ...]
    """Pixels of each picture, H W 3; None is a picture that is still to be painted."""
    image_trained: tuple[bool, ...]
    """Whether each picture counts in the image loss."""
    segment_start: tuple[int, ...]
    """Position of the first token of each segment. An empty text starts where the next segment does."""
    last_unread: bool = False
    """The last picture is only painted: it has no placeholders, since nothing comes after it that could read them."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def segment_of(self, position: int) -> int | None:
        """Index of the segment that the token at a position belongs to; None for begin. End belongs to the last segment."""
        if not 0 <= position < len(self.token_ids):
            raise LayoutError(f"position: expected 0 to {len(self.token_ids) - 1}, got {position}.")
        segment = bisect_right(self.segment_start, position) - 1  # the last one that starts here: an empty text before it has no token
        return None if segment < 0 else segment


def lay_out(
    segments: Segments,
    tokens: TokenIds | HasTokenIds,
    *,
    prompt: int = 0,
    closed: bool = True,
    limit: int | None = None,
    minimum_context: int = MINIMUM_CONTEXT,
    last_unread: bool = False,
) -> Layout:
    """Lays out one document.

    The target of a position is the next token. Not trained are: targets inside the first `prompt` segments, image
    placeholders, and a begin-of-image right after begin (whether a document starts with a picture is not predicted). Every
    other begin-of-image and the end are trained: so the model learns when to draw and when to stop.

    Args:
        segments: a document, its texts and pictures, or a text alone; None is a picture that is still to be painted.
        prompt: how many leading segments are given: neither their tokens nor their pictures are trained.
        closed: append the end token; False leaves the document open for what the model writes.
        limit: largest number of tokens, the context of the model.
        minimum_context: a picture with fewer tokens from begin to its begin-of-image has no image loss.
        last_unread: a document that ends with a trained picture ends at its begin-of-image token. The picture is painted in
            training but not encoded, which saves most of the time of such a document; that it ends there is then not learnt.

    Raises:
        LayoutError: nothing in the document, more tokens than `limit`, a prompt that is longer than the document, or a kept
            token id that is a control token.
    """
    rules = tokens if isinstance(tokens, TokenIds) else tokens.tokens
    parts = _parts(segments)
    if not 0 <= prompt <= len(parts):
        raise LayoutError(f"prompt: expected 0 to {len(parts)} leading segments (the document has {len(parts)}), got {prompt}.")
    ids = [rules.begin]
    targets: list[int] = []  # of all positions but the last: one entry per token after begin
    image_begin: list[int] = []
    images: list[Pixels | None] = []
    image_trained: list[bool] = []
    segment_start: list[int] = []
    unread = False
    placeholders = [rules.image] * rules.image_tokens
    nothing = [IGNORED_TARGET] * rules.image_tokens
    for index, segment in enumerate(parts):
        trained = index >= prompt
        segment_start.append(len(ids))
        if isinstance(segment, str | Text):
            words = _text_ids(segment, rules, index)
            ids.extend(words)
            targets.extend(words if trained else [IGNORED_TARGET] * len(words))
            continue
        starts_document = len(ids) == 1
        image_begin.append(len(ids))
        images.append(segment.array() if isinstance(segment, Image) else segment)
        image_trained.append(trained and segment is not None and len(ids) + 1 >= minimum_context)
        ids.append(rules.begin_image)
        targets.append(rules.begin_image if trained and not starts_document else IGNORED_TARGET)
        if last_unread and image_trained[-1] and index == len(parts) - 1:
            closed, unread = False, True
            continue
        ids.extend(placeholders)
        targets.extend(nothing)
    if len(ids) == 1:
        raise LayoutError("empty prompt: expected at least one word or picture, got none; write something to continue.")
    if closed:
        ids.append(rules.end)
        targets.append(rules.end)
    targets.append(IGNORED_TARGET)  # nothing follows the last token
    if limit is not None and len(ids) > limit:
        raise LayoutError(_too_long(len(ids), limit, parts, segment_start, rules))
    return Layout(
        token_ids=tuple(ids),
        targets=tuple(targets),
        image_begin=tuple(image_begin),
        images=tuple(images),
        image_trained=tuple(image_trained),
        segment_start=tuple(segment_start),
        last_unread=unread,
    )


def open_layout(segments: Segments, tokens: TokenIds | HasTokenIds, *, limit: int | None = None) -> Layout:
    """Lays out a prompt for generation: no end token, nothing trained.

    Raises:
        LayoutError: see `lay_out`.
    """
    parts = _parts(segments)
    return lay_out(parts, tokens, prompt=len(parts), closed=False, limit=limit)


def _parts(segments: Segments) -> tuple[Segment, ...]:
    """The segments; a string alone is one text, not its letters."""
    return (segments,) if isinstance(segments, str) else tuple(segments)


def _text_ids(segment: str | Text, rules: TokenIds, index: int) -> Sequence[int]:
    """Ids of a text: those the model wrote if they still spell it, else tokenized."""
    if isinstance(segment, str):
        return rules.encode(segment)
    if segment.origin == "generated" and segment.token_ids is not None:
        surplus = rules.control.intersection(segment.token_ids)
        if surplus:
            raise LayoutError(
                f"segment {index + 1}: its token_ids hold the control token {min(surplus)}, which no text may contain; "
                "remove token_ids, so that the text is tokenized again."
            )
        if rules.decode is None or rules.decode(segment.token_ids) == segment.text:
            return segment.token_ids
    return rules.encode(segment.text)


def _too_long(count: int, limit: int, parts: Sequence[object], segment_start: Sequence[int], rules: TokenIds) -> str:
    """Says how long the document is and where it passes the limit."""
    first = max(bisect_right(segment_start, limit) - 1, 0)  # position `limit` is the first token too many
    kind = "a text" if isinstance(parts[first], str | Text) else f"a picture of {rules.image_tokens + 1} tokens"
    return (
        f"the document has {count} tokens, the model reads at most {limit}: segment {first + 1} of {len(parts)} ({kind}, from token "
        f"{segment_start[first] + 1}) passes the limit. Shorten the texts, or leave out pictures ({rules.image_tokens + 1} tokens each)."
    )
