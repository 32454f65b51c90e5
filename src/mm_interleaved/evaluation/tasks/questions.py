"""Questions about pictures: VQAv2 and OK-VQA, GQA, VizWiz, TextVQA, each by its official accuracy."""

from __future__ import annotations

import re
from typing import Any

from mm_interleaved.data.tuning.prompts import QUESTION, UNANSWERABLE, fill
from mm_interleaved.document import Document
from mm_interleaved.errors import DataError
from mm_interleaved.evaluation.metrics.answers import exact_accuracy, vqa_accuracy
from mm_interleaved.evaluation.tasks.files import Files, by_id, member, read_annotations
from mm_interleaved.evaluation.tasks.task import Item, Scores, Task, unique
from mm_interleaved.generation.published_options import ANSWER

COCO_NAME = "COCO_val2014_{image_id:012d}.jpg"


def vqa(files: Files) -> list[Item]:
    """VQAv2, OK-VQA: `*_annotations.json`, and `*_questions.json` as second file; both of the same year and split."""
    if files.other is None:
        raise DataError("--other: VQA's questions stand in a file of their own; give the *_questions.json beside --annotations.")
    annotated = by_id(read_annotations(files.annotations, dict, "an object"), "annotations", files.annotations, "question_id")
    answers = {name: _said(each, files) for name, each in annotated.items()}
    items = []
    for number, each in enumerate(member(read_annotations(files.other, dict, "an object"), "questions", files.other)):
        name = member(each, "question_id", files.other, f", questions[{number}]")
        if name not in answers:
            raise DataError(f"{files.other}: question {name} has no answers in {files.annotations}; are they of another year or split?")
        picture = COCO_NAME.format(image_id=int(member(each, "image_id", files.other)))
        items.append(_item(files, str(name), picture, member(each, "question", files.other), {"answers": answers[name]}))
    if len(items) != len(answers):
        raise DataError(f"{files.annotations}: {len(answers)} answered questions, {files.other} asks {len(items)}; are the splits others?")
    return unique(items, files.other)


def gqa(files: Files) -> list[Item]:
    """`testdev_balanced_questions.json`: an object of questions by their ids."""
    items = []
    for name, each in read_annotations(files.annotations, dict, "an object of questions by id").items():
        place, path = f"[{name}]", files.annotations
        true = {"answer": member(each, "answer", path, place)}
        items.append(_item(files, name, f"{member(each, 'imageId', path, place)}.jpg", member(each, "question", path, place), true))
    return unique(items, files.annotations)


def vizwiz(files: Files) -> list[Item]:
    """`val.json`: a list; a picture has one question."""
    items = []
    for number, each in enumerate(read_annotations(files.annotations, list, "a list of questions")):
        name = member(each, "image", files.annotations, f"[{number}]")
        items.append(_item(files, name, name, member(each, "question", files.annotations), {"answers": _said(each, files)}, UNANSWERABLE))
    return unique(items, files.annotations)


def textvqa(files: Files) -> list[Item]:
    """`TextVQA_0.5.1_val.json`: `data`, with ten answers each."""
    items = []
    for number, each in enumerate(member(read_annotations(files.annotations, dict, "an object with 'data'"), "data", files.annotations)):
        name = str(member(each, "question_id", files.annotations, f", data[{number}]"))
        picture, question = (member(each, field, files.annotations) for field in ("image_id", "question"))
        items.append(_item(files, name, f"{picture}.jpg", question, {"answers": _said(each, files)}))
    return unique(items, files.annotations)


def _said(each: dict[str, Any], files: Files) -> list[str]:
    given = member(each, "answers", files.annotations)
    words = [answer.get("answer") if isinstance(answer, dict) else answer for answer in given]
    if not words or not all(isinstance(word, str) for word in words):
        raise DataError(
            f"{files.annotations}: an entry without answers in words ({str(each)[:60]}); test sets have none and cannot be scored."
        )
    return list(map(str, words))


def _item(files: Files, name: str, picture: str, question: str, truth: dict[str, Any], template: str = QUESTION) -> Item:
    def prompt() -> Document:
        return Document(fill(template, [files.picture(picture)], question=question))

    return Item(name=name, prompt=prompt, truth=truth)


def by_people(made: str, truth: dict[str, Any]) -> Scores:
    """VQA's."""
    return {"accuracy": vqa_accuracy(made, truth["answers"])}


def by_word(made: str, truth: dict[str, Any]) -> Scores:
    """GQA's accuracy."""
    return {"accuracy": exact_accuracy(made, truth["answer"])}


def first_line(text: str) -> str:
    """The answer as it was written: its first line, without a final stop."""
    return text.strip().split("\n", 1)[0].strip().rstrip(".。").strip()


def released_answer(text: str) -> str:
    """The release's extraction, substrings and all: "banana bread" becomes "bread", "2.5" becomes "2" (spec §7)."""
    found = re.split(r"[.,!]", text.strip().split("\n", 1)[0])[0].lower()
    for before in ("is ", "are ", "a ", "an ", "the "):
        found = found.split(before, 1)[1] if before in found else found
    for behind in (" of", " or ", " and "):
        found = found.split(behind, 1)[0]
    return found.strip()


_SHARED: dict[str, Any] = {"kind": "words", "main": "accuracy", "extract": first_line, "published_extract": released_answer, "text": ANSWER}

TASKS = (
    Task(name="vqav2", about="v2_mscoco_val2014_annotations.json; --other the questions", read=vqa, score=by_people, **_SHARED),
    Task(name="okvqa", about="mscoco_val2014_annotations.json; --other the questions", read=vqa, score=by_people, **_SHARED),
    Task(name="gqa", about="testdev_balanced_questions.json", read=gqa, score=by_word, **_SHARED),
    Task(name="vizwiz", about="val.json", read=vizwiz, score=by_people, **_SHARED),
    Task(name="textvqa", about="TextVQA_0.5.1_val.json", read=textvqa, score=by_people, **_SHARED),
)
