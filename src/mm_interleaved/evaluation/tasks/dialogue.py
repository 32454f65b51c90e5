"""VisDial v1.0: one round of every dialogue, its hundred candidate answers put in order; NDCG and retrieval.

The context is read once for all options. The history is whole; the release lost its last round (spec §7), which is a defect and not kept.
"""

from __future__ import annotations

from typing import Any

from mm_interleaved.data.tuning.prompts import fill
from mm_interleaved.document import Document
from mm_interleaved.errors import DataError
from mm_interleaved.evaluation.metrics.ranking import ndcg, rank_of, retrieval
from mm_interleaved.evaluation.tasks.files import Files, by_id, member, read_annotations
from mm_interleaved.evaluation.tasks.task import Item, Scores, Task, unique

IMAGE_NAME = "VisualDialog_val2018_{image_id:012d}.jpg"
"""File of a picture by its id."""


def visdial(files: Files) -> list[Item]:
    """`visdial_1.0_val.json`, and `visdial_1.0_val_dense_annotations.json` as second file: which round is asked, and the relevances."""
    if files.other is None:
        raise DataError("--other: NDCG needs visdial_1.0_val_dense_annotations.json, which says how relevant each answer is.")
    contents = member(read_annotations(files.annotations, dict, "an object with 'data'"), "data", files.annotations)
    questions, answers = (member(contents, name, files.annotations) for name in ("questions", "answers"))
    dialogs = by_id(contents, "dialogs", files.annotations, "image_id")
    items = []
    for number, each in enumerate(read_annotations(files.other, list, "a list of relevances")):
        image_id, turn = (member(each, name, files.other, f"[{number}]") for name in ("image_id", "round_id"))
        if image_id not in dialogs:
            raise DataError(f"{files.other}: picture {image_id} has no dialogue in {files.annotations}; are they of another year or split?")
        relevance = each.get("gt_relevance", each.get("relevance"))
        try:
            items.append(_item(files, dialogs[image_id], turn - 1, questions, answers, relevance))
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"{files.annotations}: the dialogue of picture {image_id} has no {error}; is it the file of another year?"
            ) from error
    return unique(items, files.other)


def _item(files: Files, dialog: dict[str, Any], asked: int, questions: list[str], answers: list[str], relevance: Any) -> Item:
    turns = dialog["dialog"]
    history = "".join(f" question: {questions[turn['question']]}? answer: {answers[turn['answer']]}." for turn in turns[:asked])
    words = f"caption: {dialog['caption']}.{history} question: {questions[turns[asked]['question']]}? answer:"
    options = tuple(answers[option] for option in turns[asked]["answer_options"])
    if not isinstance(relevance, list) or len(relevance) != len(options):
        raise DataError(f"picture {dialog['image_id']}: {len(options)} options, but the relevances are {str(relevance)[:40]}.")

    def prompt() -> Document:
        return Document(fill("{image}{words}", [files.picture(IMAGE_NAME.format(image_id=dialog["image_id"]))], words=words))

    truth = {"true": turns[asked]["gt_index"], "relevance": relevance}
    return Item(name=f"{dialog['image_id']}#{asked + 1}", prompt=prompt, truth=truth, options=options)


def ranking(made: list[float], truth: dict[str, Any]) -> Scores:
    """NDCG, and where the true answer stands."""
    return {"ndcg": ndcg(made, truth["relevance"]), **retrieval(rank_of(made, truth["true"]))}


TASKS = (
    Task(
        name="visdial",
        about="visdial_1.0_val.json; --other visdial_1.0_val_dense_annotations.json",
        kind="options",
        main="ndcg",
        read=visdial,
        score=ranking,
    ),
)
