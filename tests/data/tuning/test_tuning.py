"""The publication's fine-tuning tasks: a tiny file of ours in the official form of each, the prompt to the letter, and malformed twins."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image as pillow
from tests.data.sources.conftest import images, lines, number_of, picture_bytes, read, shape_of  # noqa: F401  (fixtures)

from mm_interleaved.data.sources import Skip
from mm_interleaved.data.tuning.places import box_words, palette
from mm_interleaved.errors import ConfigError


@pytest.fixture
def written(tmp_path):
    """Writes a JSON file and returns its path."""

    def write(name, value):
        path = tmp_path / name
        path.write_text(json.dumps(value))
        return path

    return write


COCO = {
    "info": {},
    "images": [{"id": 9, "file_name": "1.png", "width": 12, "height": 8}, {"id": 8, "file_name": "page.png"}],
    "annotations": [{"id": 1, "image_id": 9, "caption": "A cat. "}],
}


def test_coco_captions_are_asked_as_published_and_their_end_is_not_trained(read, written):  # noqa: F811
    (example,) = read("coco_captions", written("captions_train2014.json", COCO)).examples
    assert shape_of(example) == [1, "a photo of", " A cat."]
    assert example.prompt == 2 and not example.closed


def test_malformed_coco_captions_are_counted(read, written):  # noqa: F811
    wrong = [
        {"image_id": 7, "caption": "a"},
        {"caption": "a"},
        {"image_id": 9},
        {"image_id": 9, "caption": ""},
        {"image_id": 8, "caption": "a"},
    ]
    reading = read("coco_captions", written("a.json", COCO | {"annotations": wrong}))
    assert reading.reasons == {"wrong fields": 2, "broken image": 1, "no text": 1, "unknown image": 1}
    assert read("coco_captions", written("b.json", {"images": []})).reasons == {"not readable": 1}


def test_karpathy_splits_give_their_own_pictures_only(read, written):  # noqa: F811
    sentences = [{"raw": "one", "tokens": ["one"]}, {"raw": "two"}]
    entries = [
        {"filename": f"{number}.png", "split": split, "sentences": sentences}
        for number, split in ((1, "train"), (2, "test"), (3, "restval"))
    ]
    reading = read("karpathy", written("dataset_flickr30k.json", {"dataset": "flickr30k", "images": entries}))
    assert [shape[0] for shape in reading.shapes] == [1, 3]
    assert {shape[2] for shape in reading.shapes} <= {" one", " two"}
    # COCO's file also names the folder.
    entry = entries[0] | {"filepath": "images", "filename": "1.png"}
    folder = written("dataset_coco.json", {"images": [entry]}).parent
    assert read("karpathy", folder / "dataset_coco.json", images=str(folder)).shapes[0][0] == 1


def test_paragraphs_of_a_split(read, written):  # noqa: F811
    file = written("paragraphs_v1.json", [{"image_id": 1, "url": "u", "paragraph": "One.  Two."}, {"image_id": 2, "paragraph": "Three."}])
    (example,) = read("paragraphs", file, split=str(written("train_split.json", [1])), image_name="{image_id}.png").examples
    assert shape_of(example) == [1, "Please describe the image in detail. The image depicts", " One. Two."]
    assert example.closed


QUESTIONS = {"questions": [{"image_id": 3, "question": "What is it?", "question_id": 30}]}
ANSWERS = {
    "annotations": [{"question_id": 30, "image_id": 3, "answers": [{"answer": word, "answer_id": 1} for word in ("dog", "cat", "cat")]}]
}
ASKED = [
    "Based on the image, please answer the question.",
    3,
    "What is it? Please provide an accurate answer within one word. The answer is:",
]


def test_vqa_joins_questions_with_answers_and_trains_the_most_given_one(read, written):  # noqa: F811
    answers = str(written("mscoco_train2014_annotations.json", ANSWERS))
    (example,) = read("vqa", written("questions.json", QUESTIONS), annotations=[answers], image_name="{image_id}.png").examples
    assert shape_of(example) == [*ASKED, " cat"]
    # Neither the question nor its picture is in any loss: the release could not train without 512-pixel views of it.
    assert example.prompt == 3 and example.closed
    reading = read("vqa", written("q.json", {"questions": [QUESTIONS["questions"][0] | {"question_id": 31}]}), annotations=[answers])
    assert reading.reasons == {"wrong fields": 1}
    reading = read("vqa", written("q.json", {"questions": [QUESTIONS["questions"][0] | {"image_id": "x"}]}), annotations=[answers])
    assert reading.reasons == {"wrong fields": 1}
    with pytest.raises(ConfigError, match="name them in pairs"):
        read("vqa", written("q.json", QUESTIONS))


def test_gqa_vizwiz_and_textvqa_ask_the_same(read, written):  # noqa: F811
    gqa = written(
        "train_balanced_questions.json", {"07": {"imageId": "3", "question": "What is it?", "answer": "cat", "fullAnswer": "It is a cat."}}
    )
    assert read("gqa", gqa, image_name="{image_id}.png").shapes == [[*ASKED, " cat"]]
    text = written("TextVQA_0.5.1_train.json", {"data": [{"image_id": "3", "question": "What is it?", "answers": ["cat"] * 10}]})
    assert read("textvqa", text, image_name="{image_id}.png").shapes == [[*ASKED, " cat"]]
    vizwiz = written(
        "train.json", [{"image": "3.png", "question": "What is it?", "answers": [{"answer": "unanswerable", "answer_confidence": "yes"}]}]
    )
    (shape,) = read("vizwiz", vizwiz).shapes
    assert "respond with 'Unanswerable'. Please provide" in shape[2] and shape[3] == " unanswerable"


def test_malformed_questions_are_counted(read, written):  # noqa: F811
    assert read("gqa", written("a.json", {"1": 7, "2": {"question": "a", "imageId": "3"}}), image_name="{image_id}.png").reasons == {
        "wrong fields": 2
    }
    assert read("gqa", written("a.json", [1])).reasons == {"not readable": 1}
    broken = [
        {"image": "3.png", "question": "a", "answers": []},
        {"image": "3.png", "question": "a"},
        {"image": "none.png", "question": "a", "answers": ["b"]},
    ]
    assert read("vizwiz", written("a.json", broken)).reasons == {"missing image": 1, "no text": 1, "wrong fields": 1}
    assert read("textvqa", written("a.json", {"rows": []})).reasons == {"not readable": 1}


DIALOG = {
    "data": {
        "questions": ["is it big", "what colour", "is it old"],
        "answers": ["yes", "red"],
        "dialogs": [
            {
                "image_id": 4,
                "caption": "a cat",
                "dialog": [{"question": 0, "answer": 0}, {"question": 1, "answer": 1}, {"question": 2, "answer": 0}],
            }
        ],
    }
}


def test_visdial_rounds_keep_their_whole_history(read, written):  # noqa: F811
    """The release dropped the last round of it."""
    reading = read("visdial", written("visdial_1.0_train.json", DIALOG), image_name="{image_id}.png")
    assert reading.shapes[2] == [
        4,
        "caption: a cat. question: is it big? answer: yes. question: what colour? answer: red. question: is it old? answer:",
        " yes",
    ]
    assert len(reading.shapes) == 3
    wrong = {
        "data": DIALOG["data"] | {"dialogs": [{"image_id": 4, "caption": "a", "dialog": [{"question": 9, "answer": 0}]}, {"caption": "a"}]}
    }
    assert read("visdial", written("a.json", wrong)).reasons == {"wrong fields": 2}


REFERENCES = [
    {"ref_id": 1, "ann_id": 5, "image_id": 9, "split": "train", "sentences": [{"sent": "left cat", "tokens": []}]},
    {"ref_id": 2, "ann_id": 5, "image_id": 9, "split": "val", "sentences": [{"sent": "left cat"}]},
]
INSTANCES = COCO | {"annotations": [{"id": 5, "image_id": 9, "bbox": [3, 2, 6, 4], "category_id": 1}]}


def test_references_become_boxes_and_boxes_words(read, written, tmp_path):  # noqa: F811
    """RefCOCO is published as a pickle; one that would call code is refused."""
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(REFERENCES))
    instances = str(written("instances.json", INSTANCES))
    for file in (tmp_path / "refs(unc).p", written("refs.json", REFERENCES)):
        (example,) = read("refcoco", file, instances=instances).examples
        assert shape_of(example) == [
            1,
            "Provide the bounding box coordinate of the region this sentence describes. left cat<box>",
            "(250,250)(750,750)</box>",
        ]
        assert example.images[0].size == (448, 448), "squeezed, not cropped: a box at the edge stays"
    (example,) = read("refcoco", tmp_path / "refs.json", instances=instances, describe=True).examples
    assert shape_of(example)[1:] == ["Provide a short description for this <ref>region</ref><box>(250,250)(750,750)</box>.", " left cat"]
    (tmp_path / "evil.p").write_bytes(pickle.dumps([Fraction(1, 2)]))
    reading = read("refcoco", tmp_path / "evil.p", instances=instances)
    assert reading.reasons == {"not readable": 1} and "only lists" in reading.skips.entries[0]["detail"]


def test_malformed_references_are_counted(read, written):  # noqa: F811
    one = REFERENCES[0]
    wrong = [one | {"ann_id": 6}, one | {"image_id": 7}, one | {"sentences": []}, one | {"sentences": [{}]}]
    assert read("refcoco", written("r.json", wrong), instances=str(written("i.json", INSTANCES))).reasons == {
        "wrong fields": 2,
        "no text": 1,
        "unknown image": 1,
    }
    outside = INSTANCES | {"annotations": [{"id": 5, "bbox": [3, 2, 60, 4]}]}
    assert read("refcoco", written("r.json", [one]), instances=str(written("i.json", outside))).reasons == {"box outside image": 1}


@pytest.mark.parametrize("box", [[0, 0, 0, 4], [-3, 0, 2, 2], [8, 0, 6, 2], None, [1, 2, 3]])
def test_boxes_that_are_none_are_refused(box):
    with pytest.raises(Skip):
        box_words(box, (12, 8))


def test_a_box_of_the_whole_picture_stays_below_a_thousand():
    assert box_words([0, 0, 12, 8], (12, 8)) == "(000,000)(999,999)"


@pytest.fixture
def maps(tmp_path):
    """The label map of 2.png: left half sky (3), right half sea (27)."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    labels = np.full((8, 12), 3, dtype=np.uint8)
    labels[:, 6:] = 27
    pillow.fromarray(labels).save(folder / "2.png")
    return folder


def test_a_label_map_becomes_a_coloured_picture_before_its_photograph(read, tmp_path, maps):  # noqa: F811
    (example,) = read("ade20k", lines(tmp_path / "a.jsonl", {"image": "2.png", "caption": "the sea."}), maps=str(maps)).examples
    coloured, words, photo = example.segments
    assert words.text == "the sea." and number_of(photo) == 2
    # The map is read, the photograph painted: the release painted its map's own crop.
    assert example.prompt == 2
    assert (coloured.array()[:, :6] == palette()[3]).all() and (coloured.array()[:, 6:] == palette()[27]).all()
    assert len({tuple(colour) for colour in palette()}) == 256


def test_a_mirrored_map_is_mirrored_with_its_photograph_left_to_right(read, tmp_path, images, maps):  # noqa: F811
    """The release turned the map upside down and left the photograph as it was."""
    ramp = np.arange(12, dtype=np.uint8)[None, :, None] * np.ones((8, 1, 3), dtype=np.uint8)
    pillow.fromarray(ramp).save(images / "2.png")
    file = lines(tmp_path / "a.jsonl", {"image": "2.png", "caption": "the sea"}, {"image": "2.png", "caption": "the sea on the right"})
    mirrored, plain = read("ade20k", file, maps=str(maps), flip=1.0).examples
    assert (mirrored.images[1].array() == ramp[:, ::-1]).all()
    assert (mirrored.images[0].array() == plain.images[0].array()[:, ::-1]).all()
    assert (plain.images[1].array() == ramp).all(), "words that name a side are kept true"


def test_malformed_maps_are_counted(read, tmp_path, maps):  # noqa: F811
    pillow.fromarray(np.zeros((8, 12, 3), dtype=np.uint8)).save(maps / "3.png")
    pillow.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(maps / "4.png")
    file = lines(tmp_path / "a.jsonl", *({"image": f"{number}.png", "caption": "a"} for number in (1, 3, 4)), {"image": "2.png"})
    assert read("ade20k", file, maps=str(maps)).reasons == {"wrong fields": 2, "broken image": 1, "missing image": 1}


def frame(order, text, story="s1"):
    return [{"story_id": story, "worker_arranged_photo_order": order, "photo_flickr_id": str(order), "original_text": text, "text": "x"}]


VIST = {"images": [], "annotations": [frame(1, "Two."), frame(0, "One."), frame(2, "Three.")]}
CONTEXTS = {
    "multi_modal": ["One.", 0, "Two.", 1, "Three.", 2],
    "image_only": [0, 1, "Three.", 2],
    "text_only": ["One. Two. Three.", 2],
    "current": ["Three.", 2],
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_story_ends_with_the_picture_that_is_trained(read, written, context):  # noqa: F811
    (example,) = read("vist", written("train.story-in-sequence.json", VIST), context=context, image_name="{photo_flickr_id}.png").examples
    assert shape_of(example) == CONTEXTS[context]
    assert example.prompt == len(example.document) - 1


def test_all_rounds_of_a_story_are_trained_after_its_first_words(read, written):  # noqa: F811
    (example,) = read("vist", written("a.json", VIST), rounds="all", image_name="{photo_flickr_id}.png").examples
    assert example.prompt == 1
    with pytest.raises(ConfigError, match="rounds is 'all'"):
        read("vist", written("a.json", VIST), rounds="all", context="current")


def test_a_story_whose_picture_cannot_be_read_is_counted(read, written):  # noqa: F811
    """The release put None into the batch."""
    wrong = VIST | {"annotations": [frame(0, "One."), frame(77, "Two."), [{"text": "lost"}], [{"story_id": "b"}]]}
    assert read("vist", written("a.json", wrong), image_name="{photo_flickr_id}.png").reasons == {"wrong fields": 2, "missing image": 1}


def test_stories_from_strips_show_one_frame(read, tmp_path, images):  # noqa: F811
    strip = np.concatenate([np.full((8, 8, 3), number, dtype=np.uint8) for number in (50, 60, 70)])
    pillow.fromarray(strip).save(images / "strip.png")
    story = {"texts": ["One.", "Two."], "images": ["strip.png", "strip.png"]}
    reading = read("stories", lines(tmp_path / "a.jsonl", *[story] * 20, story | {"texts": ["One."]}), frame=8)
    assert {shape[1] for shape in reading.shapes} == {50, 60, 70}
    assert reading.reasons == {"wrong fields": 1}
    (images / "odd.png").write_bytes(picture_bytes(1))
    assert read("stories", lines(tmp_path / "b.jsonl", {"texts": ["a"], "images": ["odd.png"]}), frame=8).reasons == {"broken image": 1}


def test_solved_examples_of_other_pictures_stand_before_the_question(read, written):  # noqa: F811
    entries = [{"image_id": str(number), "question": f"Q{number}?", "answers": [f"A{number}"]} for number in range(4)]
    reading = read("textvqa", written("a.json", {"data": entries}), image_name="{image_id}.png", shots=2)
    assert len(reading.examples) == 4
    for number, example in enumerate(reading.examples):
        numbers = [number_of(image) for image in example.images]
        assert len(set(numbers)) == 3 and numbers[-1] == number
        # Each solved example keeps its question and answer; only the last answer is trained.
        words = "".join(text.text for text in example.document.texts)
        assert all(f"Q{shown}?" in words and f" A{shown}\n" in words for shown in numbers[:2])
        assert shape_of(example)[-1] == f" A{number}" and example.prompt == len(example.document) - 1
    few = read("textvqa", written("a.json", {"data": entries[:1]}), image_name="{image_id}.png", shots=1)
    assert few.reasons == {"left out by rule": 1}
