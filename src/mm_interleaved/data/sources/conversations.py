"""Conversations: LLaVA's `conversations` and chat `messages` with content parts. Every answer is one training document.

    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A cat."}]}

The answer is trained, what stands before it is given. Roles leave no mark in the tokens: a model sees them only as the template writes
them. LLaVA's files are split into single rounds, as in the publication (spec §5.5); `history: true` keeps the earlier rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mm_interleaved.data.sources.example import Example, Record, Skip, interleave
from mm_interleaved.data.sources.records import list_of, read_records, text_of
from mm_interleaved.data.sources.source import Note, Source
from mm_interleaved.document import Document, Image, Text

MARK = "<image>"
"""Where LLaVA's texts want a picture."""

ASKS = ("human", "user")
ANSWERS = ("gpt", "assistant")


@dataclass(frozen=True, kw_only=True)
class Llava(Source):
    """LLaVA-style conversations."""

    history: bool = False
    """Whether earlier rounds of the conversation stand before the question."""
    between: str = " "
    """What stands between a question and its answer."""

    def records(self, shard: str) -> Iterator[Record]:
        """One record per round; a conversation whose turns do not alternate is one record with a problem."""
        for record in read_records(shard):
            if record.problem is not None:
                yield record
                continue
            try:
                turns = _rounds(record.fields)
            except Skip as skip:
                yield Record(record.place, {}, skip)
                continue
            for number in range(len(turns)):
                yield Record(f"{record.place}#{number}", record.fields | {"rounds": turns, "round": number})

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        rounds, number = record.fields["rounds"], record.fields["round"]
        names = record.fields.get("image")
        images = [self.picture(name) for name in (names if isinstance(names, list) else [] if names is None else [names])]
        marks = sum(question.count(MARK) for question, _ in rounds)
        if marks and marks != len(images):
            raise Skip("wrong fields", f"{marks} {MARK} marks and {len(images)} pictures")
        parts: list[Image | str] = []
        placed = 0
        for index, (question, answer) in enumerate(rounds[: number + 1]):
            pieces = question.split(MARK)
            first = placed
            placed += len(pieces) - 1
            if index < number and not self.history:
                continue
            if not self.history and placed == first:
                # A later round alone still talks about the conversation's pictures.
                parts += images
            for piece, image in zip(pieces, [*images[first:placed], None], strict=True):
                parts.append(piece.strip("\n"))
                if image is not None:
                    parts.append(image)
            if index < number:
                parts.append(f"{self.between}{answer}\n")
        prompt = interleave(parts)
        return self.made(Document([*prompt, f"{self.between}{rounds[number][1]}"]), record, prompt=len(prompt))


@dataclass(frozen=True, kw_only=True)
class Messages(Source):
    """Chat messages in the API form."""

    between: str = "\n"
    """What stands between two messages of words."""

    def records(self, shard: str) -> Iterator[Record]:
        """One record per answer."""
        for record in read_records(shard):
            messages = record.fields.get("messages")
            answers = [
                number
                for number, message in enumerate(messages if isinstance(messages, list) else [])
                if isinstance(message, Mapping) and message.get("role") in ANSWERS
            ]
            if record.problem is None and not answers:
                record = Record(record.place, {}, Skip("wrong fields", "no message of the assistant"))
            if record.problem is not None:
                yield record
                continue
            for number in answers:
                yield Record(f"{record.place}#{number}", record.fields | {"answer": number})

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        messages = record.fields["messages"][: record.fields["answer"] + 1]
        told: list[Image | str] = []
        for message in messages[:-1]:
            if not isinstance(message, Mapping):
                raise Skip("wrong fields", f"a message is {type(message).__name__}")
            if told and isinstance(told[-1], str):
                told.append(self.between)
            told += self._content(message.get("content"))
        prompt = interleave(told)
        answer = interleave(self._content(messages[-1].get("content")))
        if not len(answer):
            raise Skip("no text", "an empty answer")
        if len(prompt) and isinstance(prompt[-1], Text) and isinstance(answer[0], Text):
            answer = interleave([self.between, *answer])
        return self.made(Document([*prompt, *answer]), record, prompt=len(prompt))

    def _content(self, content: object) -> list[Image | str]:
        if isinstance(content, str):
            return [content]
        return [self._part(part) for part in list_of(content, "content")]

    def _part(self, part: Any) -> Image | str:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            return text_of(part.get("text"), "text")
        if kind in ("image", "image_url"):
            found = part.get("image") or part.get("path") or part.get("image_url") or part.get("url")
            return self.picture(found.get("url") if isinstance(found, Mapping) and "url" in found else found)
        raise Skip("wrong fields", f"a content part of type {kind!r:.40}; expected text or image")


def _rounds(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    turns = list_of(fields.get("conversations"), "conversations")
    texts = []
    for number, turn in enumerate(turns):
        expected = ANSWERS if number % 2 else ASKS
        if not isinstance(turn, Mapping) or turn.get("from") not in expected:
            came = turn.get("from") if isinstance(turn, Mapping) else type(turn).__name__
            raise Skip("wrong fields", f"turn {number} comes from {came!r:.40}, expected {expected[0]}")
        texts.append(text_of(turn.get("value"), "value"))
    if not texts or len(texts) % 2:
        raise Skip("wrong fields", f"{len(texts)} turns; expected questions and answers in pairs")
    if any(not answer.strip() for answer in texts[1::2]):
        raise Skip("no text", "an empty answer")
    return list(zip(texts[0::2], texts[1::2], strict=True))
