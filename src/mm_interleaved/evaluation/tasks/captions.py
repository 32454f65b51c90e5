"""Captions: COCO and Flickr30k in Karpathy's splits, NoCaps in COCO's form, Stanford's image paragraphs.

Every reference caption counts. The release cut COCO captions at the first full stop and wrote paragraphs of exactly about 90 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mm_interleaved.data.tuning.prompts import CAPTION, PARAGRAPH, fill
from mm_interleaved.document import Document
from mm_interleaved.errors import DataError
from mm_interleaved.evaluation.metrics import captions
from mm_interleaved.evaluation.results import resampled
from mm_interleaved.evaluation.tasks.files import Files, by_id, member, read_annotations
from mm_interleaved.evaluation.tasks.task import Item, Task, Whole, unique
from mm_interleaved.generation import published_options


def karpathy(files: Files, split: str = "test") -> list[Item]:
    """`dataset_coco.json`, `dataset_flickr30k.json`: the pictures of one split."""
    values = read_annotations(files.annotations, dict, "an object with 'images'")
    items = []
    for number, image in enumerate(member(values, "images", files.annotations)):
        place = f", images[{number}]"
        if member(image, "split", files.annotations, place) != split:
            continue
        name = str(member(image, "filename", files.annotations, place))
        path = f"{image['filepath']}/{name}" if image.get("filepath") else name
        texts = [member(sentence, "raw", files.annotations, place) for sentence in member(image, "sentences", files.annotations, place)]
        items.append(_item(files, path, texts, CAPTION))
    return unique(items, files.annotations)


def coco(files: Files) -> list[Item]:
    """COCO's own form, as NoCaps has it: `images` with `file_name`, `annotations` with `caption`."""
    values = read_annotations(files.annotations, dict, "an object with 'images' and 'annotations'")
    texts: dict[Any, list[str]] = {}
    for number, each in enumerate(member(values, "annotations", files.annotations)):
        place = f", annotations[{number}]"
        caption = member(each, "caption", files.annotations, place)
        texts.setdefault(member(each, "image_id", files.annotations, place), []).append(caption)
    images = by_id(values, "images", files.annotations)
    names = {name: str(member(image, "file_name", files.annotations, f", picture {name}")) for name, image in images.items()}
    if missing := sorted(set(names) - set(texts), key=str):
        raise DataError(f"{files.annotations}: picture {missing[0]} has no caption; the set is incomplete.")
    return unique([_item(files, names[number], texts[number], CAPTION) for number in names], files.annotations)


def paragraphs(files: Files) -> list[Item]:
    """`paragraphs_v1.json`, with the list of a split's ids (`test_split.json`) as second file."""
    wanted = None if files.other is None else set(read_annotations(files.other, list, "a list of picture ids"))
    items = []
    for number, each in enumerate(read_annotations(files.annotations, list, "a list of paragraphs")):
        name = member(each, "image_id", files.annotations, f"[{number}]")
        if wanted is None or name in wanted:
            text = " ".join(str(member(each, "paragraph", files.annotations, f"[{number}]")).split())
            items.append(_item(files, f"{name}.jpg", [text], PARAGRAPH))
    return unique(items, files.annotations)


def _item(files: Files, path: str, texts: Sequence[str], template: str) -> Item:
    def prompt() -> Document:
        return Document(fill(template, [files.picture(path)]))

    return Item(name=path, prompt=prompt, truth={"captions": list(texts)})


def corpus(made: Sequence[str], truths: Sequence[dict[str, Any]]) -> Whole:
    """All caption metrics, METEOR where there is Java; CIDEr and ROUGE-L are means over the captions, the others are resampled whole."""
    names = [str(number) for number in range(len(made))]
    true = {name: truth["captions"] for name, truth in zip(names, truths, strict=True)}
    found = captions.scores(dict(zip(names, made, strict=True)), true, meteor=captions.has_java())
    return {
        name: (each["corpus"], None, partial(resampled, each["parts"], each["figure"]))
        if "parts" in each
        else (each["corpus"], each["each"], None)
        for name, each in found.items()
    }


def first_sentence(text: str) -> str:
    """What stands before the first full stop, as the release cut COCO captions."""
    return text.split(".", 1)[0].strip()


def _task(name: str, about: str, read: Callable[[Files], list[Item]], options: Any, cut: Callable[[str], str] = str.strip) -> Task:
    return Task(
        name=name,
        about=about,
        kind="words",
        main="CIDEr",
        read=read,
        corpus=corpus,
        unmeasured=captions.unmeasured,
        extract=cut,
        published_extract=cut,
        text=options,
    )


TASKS = (
    _task("coco_captions", "dataset_coco.json (Karpathy), its test split", karpathy, published_options.CAPTION, first_sentence),
    _task("flickr30k", "dataset_flickr30k.json (Karpathy), its test split", karpathy, published_options.CAPTION),
    _task("nocaps", "nocaps_val_4500_captions.json", coco, published_options.CAPTION),
    _task("image_paragraphs", "paragraphs_v1.json; --other test_split.json", paragraphs, published_options.PARAGRAPH),
)
