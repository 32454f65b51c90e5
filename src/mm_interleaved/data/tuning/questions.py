"""Questions about pictures in their official files, with the publication's prompt. The answer that most people gave is trained.

vqa       {"questions": [{"question_id", "image_id", "question"}]} and {"annotations": [{"question_id", "answers": [{"answer"}]}]}
gqa       {"07333408": {"imageId", "question", "answer"}}
vizwiz    [{"image", "question", "answers": [{"answer"}]}]
textvqa   {"data": [{"image_id", "question", "answers": ["…"]}]}
visdial   {"data": {"questions": […], "answers": […], "dialogs": [{"image_id", "caption", "dialog": [{"question", "answer"}]}]}}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mm_interleaved.data.sources.example import Record, Skip
from mm_interleaved.data.sources.records import list_of, read_records, text_of
from mm_interleaved.data.tuning.annotations import by_id, entries, joined, read_json
from mm_interleaved.data.tuning.prompts import QUESTION, UNANSWERABLE, Prompted, fill
from mm_interleaved.document import Segment
from mm_interleaved.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class _Questions(Prompted):
    template: str = QUESTION
    image_name: str = "{image_id}.jpg"
    """File of a picture by its id; `{image_id:012d}` fills up with zeros."""

    def asked(self, record: Record, random: np.random.Generator) -> tuple[list[Segment], str]:
        question = text_of(record.fields.get("question"), "question")
        answer = self.answer(record.fields)
        return fill(self.template, [self.picture(self.file_of(record.fields))], question=question), answer

    def answer(self, fields: dict[str, Any]) -> str:
        """The trained answer."""
        return most_given(fields.get("answers"))

    def file_of(self, fields: dict[str, Any]) -> str:
        """Name of the picture's file."""
        try:
            return self.image_name.format(image_id=fields["image_id"])
        except (KeyError, ValueError) as error:
            raise Skip("wrong fields", f"image_id {fields.get('image_id')!r} does not fit '{self.image_name}'") from error


@dataclass(frozen=True, kw_only=True)
class Vqa(_Questions):
    """VQAv2 and OK-VQA: `files` are the questions, `annotations` the answers to them, file by file."""

    annotations: tuple[str, ...] = ()
    image_name: str = "COCO_train2014_{image_id:012d}.jpg"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.annotations) != len(self.files):
            raise ConfigError(
                f"source '{self.name}': {len(self.files)} files of questions, {len(self.annotations)} of annotations; name them in pairs."
            )

    def records(self, shard: str) -> Iterator[Record]:
        url = self.annotations[self.shards().index(shard)]
        answers = by_id(entries(read_json(url), "annotations", url), "question_id")
        found = []
        for number, item in enumerate(entries(read_json(shard), "questions", shard)):
            record = joined(item, number, shard, key="question_id", others=answers, name="given")
            if record.problem is not None and record.problem.reason == "unknown image":
                record = Record(record.place, {}, Skip("wrong fields", f"question {item['question_id']} has no answer in {url}"))
            found.append(record)
        yield from self.pooled(found)

    def answer(self, fields: dict[str, Any]) -> str:
        return most_given(fields["given"].get("answers"))


@dataclass(frozen=True, kw_only=True)
class Gqa(_Questions):
    """GQA: an object of questions by their ids."""

    def records(self, shard: str) -> Iterator[Record]:
        values = read_json(shard)
        if not isinstance(values, dict):
            raise Skip("not readable", f"{shard}: expected an object of questions by id, got {type(values).__name__}")
        found = []
        for key, item in values.items():
            problem = None if isinstance(item, dict) else Skip("wrong fields", f"a question is {type(item).__name__}")
            found.append(Record(f"{shard}[{key}]", {} if problem else item | {"image_id": item.get("imageId")}, problem))
        yield from self.pooled(found)

    def answer(self, fields: dict[str, Any]) -> str:
        return text_of(fields.get("answer"), "answer")


@dataclass(frozen=True, kw_only=True)
class VizWiz(_Questions):
    """VizWiz: questions by blind people, some of which the picture does not answer."""

    template: str = UNANSWERABLE

    def records(self, shard: str) -> Iterator[Record]:
        yield from self.pooled(list(read_records(shard)))

    def file_of(self, fields: dict[str, Any]) -> str:
        return text_of(fields.get("image"), "image")


@dataclass(frozen=True, kw_only=True)
class TextVqa(_Questions):
    """TextVQA: questions about writing in pictures."""

    def records(self, shard: str) -> Iterator[Record]:
        yield from self.pooled(list(read_records(shard, array="data")))


@dataclass(frozen=True, kw_only=True)
class VisDial(Prompted):
    """VisDial: a caption and rounds of questions; every round is asked after all earlier ones. (The release lost the last of them.)"""

    image_name: str = "COCO_train2014_{image_id:012d}.jpg"
    """File of a picture by its id."""

    def records(self, shard: str) -> Iterator[Record]:
        values = read_json(shard)
        contents = values.get("data") if isinstance(values, dict) else None
        questions, answers = entries(contents, "questions", shard), entries(contents, "answers", shard)
        found = []
        for number, dialog in enumerate(entries(contents, "dialogs", shard)):
            place = f"{shard}[{number}]"
            try:
                turns = [(questions[turn["question"]], answers[turn["answer"]]) for turn in dialog["dialog"] if "answer" in turn]
                fields = {"image_id": dialog["image_id"], "caption": dialog["caption"], "turns": turns}
            except (KeyError, IndexError, TypeError) as error:
                found.append(Record(place, {}, Skip("wrong fields", f"a dialogue without or with an unknown {error}")))
                continue
            found += [Record(f"{place}#{turn}", fields | {"round": turn}) for turn in range(len(turns))]
        yield from self.pooled(found)

    def asked(self, record: Record, random: np.random.Generator) -> tuple[list[Segment], str]:
        fields = record.fields
        turns, number = fields["turns"], fields["round"]
        words = f"caption: {text_of(fields['caption'], 'caption')}."
        words += "".join(f" question: {question}? answer: {answer}." for question, answer in turns[:number])
        words += f" question: {turns[number][0]}? answer:"
        image = self.picture(self.image_name.format(image_id=fields["image_id"]))
        return fill("{image}{words}", [image], words=words), turns[number][1]


def most_given(answers: object) -> str:
    """The most frequent answer, the first of equals. Answers are words, or objects with "answer".

    Raises:
        Skip: there is none.
    """
    words = [text_of(item.get("answer") if isinstance(item, dict) else item, "answers") for item in list_of(answers, "answers")]
    if not words:
        raise Skip("no text", "no answers")
    return Counter(words).most_common(1)[0][0]
