"""The paper's benchmarks on small files of the official forms: values worked by hand, and what is refused."""

import json
import pickle

import numpy as np
import pytest

from mm_interleaved.errors import BackendError, ConfigError, DataError, ShapeError
from mm_interleaved.evaluation import benchmark
from mm_interleaved.evaluation.benchmark import evaluate_benchmark
from mm_interleaved.evaluation.extractors import Extractor
from mm_interleaved.evaluation.metrics import captions
from mm_interleaved.evaluation.painting import Instruments
from mm_interleaved.evaluation.results import FIELDS
from mm_interleaved.evaluation.tasks import TASKS
from mm_interleaved.evaluation.tasks.files import Files
from tests.evaluation.material import paint, write


def said(monkeypatch, *answers):
    """The model's answers, in the order in which items are asked."""
    left = list(answers)
    monkeypatch.setattr(benchmark, "_text", lambda model, document, task: left.pop(0))


def measured(model, name, files, out, **options):
    report = evaluate_benchmark(model, TASKS[name], files, out, blind=False, **options)
    assert json.loads((out / "results.json").read_text("utf-8")) == report["results"]
    assert all(tuple(row) == FIELDS for row in report["results"])
    return {row["metric"]: row["score"] for row in report["results"]}


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    """METEOR takes ten seconds to start; what it gives is the library's own."""
    monkeypatch.setattr(captions, "has_java", lambda: False)


@pytest.fixture
def vqa(tmp_path):
    answers = [["red"] * 10, ["2"] * 3 + ["3"] * 7]
    questions = [{"question_id": 7 + n, "image_id": 42, "question": text} for n, text in enumerate(("what colour?", "how many?"))]
    given = [
        {"question_id": 7 + n, "image_id": 42, "answers": [{"answer": word, "answer_id": i} for i, word in enumerate(words)]}
        for n, words in enumerate(answers)
    ]
    images = paint(tmp_path / "images", "COCO_val2014_000000000042.jpg")
    return Files(
        annotations=write(tmp_path / "annotations.json", {"annotations": given}),
        other=write(tmp_path / "questions.json", {"questions": questions}),
        images=images,
    )


def test_vqa(model, vqa, tmp_path, monkeypatch):
    said(monkeypatch, "Red.", "two")
    assert measured(model, "vqav2", vqa, tmp_path / "out") == {"accuracy": pytest.approx((1 + 0.9) / 2)}


def test_the_tiny_model_is_measured_under_both_protocols_with_its_blind_baseline(model, vqa, tmp_path):
    for protocol in ("ours", "published"):
        report = evaluate_benchmark(model, TASKS["okvqa"], vqa, tmp_path / protocol, protocol=protocol)
        (row,) = report["results"]
        assert row["n"] == 2 and row["blind"] is not None
        assert report["protocol"] == protocol and report["decoding"] and len(report["data"]) == 2
        assert report["refused"] == {}
    assert report["decoding"]["beams"] == 3


def test_two_parts_and_a_resume_give_the_same_file(model, vqa, tmp_path):
    evaluate_benchmark(model, TASKS["vqav2"], vqa, tmp_path / "one")
    for place in range(2):
        assert evaluate_benchmark(model, TASKS["vqav2"], vqa, tmp_path / "two", part=(place, 2)) == {}
    evaluate_benchmark(model, TASKS["vqav2"], vqa, tmp_path / "two")
    assert (tmp_path / "one" / "results.json").read_bytes() == (tmp_path / "two" / "results.json").read_bytes()


def test_a_kill_inside_a_line_loses_that_item_alone(model, vqa, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    evaluate_benchmark(model, TASKS["vqav2"], vqa, whole)
    lines = (whole / "samples.jsonl").read_bytes().splitlines(keepends=True)
    killed.mkdir()
    (killed / "samples.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:25])
    told = []
    evaluate_benchmark(model, TASKS["vqav2"], vqa, killed, told=lambda *event: told.append(event))
    assert told == [("vqav2", 2, 2)]
    for name in ("results.json", "items.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_missing_picture_is_wrong_and_named(model, vqa, tmp_path, monkeypatch):
    said(monkeypatch, "red")
    (vqa.images / "COCO_val2014_000000000042.jpg").unlink()
    report = evaluate_benchmark(model, TASKS["vqav2"], vqa, tmp_path / "out", blind=False)
    assert report["results"][0]["score"] == 0.0 and report["results"][0]["n"] == 2
    (first, second) = json.loads((tmp_path / "out" / "items.json").read_text("utf-8"))
    assert first == {"name": "7", "given": None, "scores": {"accuracy": 0.0}} and second["scores"] == {"accuracy": 0.0}
    assert set(report["refused"]) == {"7", "8"} and "COCO_val2014_000000000042.jpg" in report["refused"]["7"]


def test_a_folder_of_pictures_that_is_not_there_is_refused(model, vqa, tmp_path):
    for images, told in ((None, "nothing was given"), (tmp_path / "elsewhere", "elsewhere is none")):
        files = Files(annotations=vqa.annotations, other=vqa.other, images=images)
        with pytest.raises(ConfigError, match=f"--images: .*{told}"):
            evaluate_benchmark(model, TASKS["vqav2"], files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_questions_of_another_year_are_refused(model, vqa, tmp_path):
    questions = {"questions": [{"question_id": 9, "image_id": 42, "question": "where?"}]}
    other = Files(annotations=vqa.annotations, other=write(tmp_path / "other.json", questions), images=vqa.images)
    with pytest.raises(DataError, match="question 9 has no answers"):
        evaluate_benchmark(model, TASKS["vqav2"], other, tmp_path / "out")
    swapped = Files(annotations=vqa.other, other=vqa.annotations, images=vqa.images)
    with pytest.raises(DataError, match="expected the field 'annotations'"):
        evaluate_benchmark(model, TASKS["vqav2"], swapped, tmp_path / "out")


def test_a_question_that_stands_twice_is_refused(model, vqa, tmp_path):
    values = json.loads(vqa.other.read_text("utf-8"))
    write(vqa.other, {"questions": [values["questions"][0]] * 2})
    with pytest.raises(DataError, match="two entries are called '7'"):
        evaluate_benchmark(model, TASKS["vqav2"], vqa, tmp_path / "out")


PICTURE = {"id": 1, "file_name": "a.jpg", "width": 80, "height": 40}


@pytest.mark.parametrize(
    ("name", "annotations", "other", "message"),
    [
        (
            "vqav2",
            {"annotations": [{"question_id": 7, "answers": ["red"]}] * 2},
            {"questions": []},
            "two of 'annotations' have the question_id 7",
        ),
        ("nocaps", {"images": [PICTURE] * 2, "annotations": [{"image_id": 1, "caption": "a boat"}]}, None, "two of 'images' have the id 1"),
        ("coco_images", {"images": [PICTURE] * 2, "annotations": [{"image_id": 1, "caption": "a"}]}, None, "two of 'images' have the id 1"),
        (
            "visdial",
            {"data": {"questions": [], "answers": [], "dialogs": [{"image_id": 9}] * 2}},
            [],
            "two of 'dialogs' have the image_id 9",
        ),
        (
            "refcoco_val",
            [],
            {"annotations": [{"id": 5, "bbox": [0, 0, 1, 1]}] * 2, "images": [PICTURE]},
            "two of 'annotations' have the id 5",
        ),
        ("refcoco_val", [], {"annotations": [{"bbox": [0, 0, 1, 1]}], "images": []}, r"annotations\[0\]: expected the field 'id'"),
        (
            "nocaps",
            {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a"}]},
            None,
            "picture 1: expected the field 'file_name'",
        ),
    ],
)
def test_ids_that_stand_twice_and_fields_that_are_missing_are_refused(name, annotations, other, message, tmp_path):
    second = None if other is None else write(tmp_path / "other.json", other)
    with pytest.raises(DataError, match=message):
        TASKS[name].read(Files(annotations=write(tmp_path / "annotations.json", annotations), other=second, images=tmp_path))


def test_gqa_vizwiz_and_textvqa(model, tmp_path, monkeypatch):
    images = paint(tmp_path / "images", "n1.jpg", "v.jpg", "t.jpg")
    gqa = write(tmp_path / "gqa.json", {"07": {"imageId": "n1", "question": "where?", "answer": "left"}})
    vizwiz = write(tmp_path / "v.json", [{"image": "v.jpg", "question": "what?", "answers": [{"answer": "unanswerable"}] * 10}])
    textvqa = write(
        tmp_path / "t.json", {"data": [{"question_id": 1, "image_id": "t", "question": "what is written?", "answers": ["stop"] * 10}]}
    )
    said(monkeypatch, "Left.", "Unanswerable", "go")
    for name, file, value in (("gqa", gqa, 1.0), ("vizwiz", vizwiz, 1.0), ("textvqa", textvqa, 0.0)):
        assert measured(model, name, Files(annotations=file, images=images), tmp_path / name) == {"accuracy": value}


def test_captions_in_karpathys_form_use_every_reference_and_the_test_split(model, tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    images = paint(tmp_path / "images", "val2014/a.jpg", "val2014/b.jpg", "val2014/c.jpg")
    entries = [
        {
            "filepath": "val2014",
            "filename": "a.jpg",
            "split": "test",
            "sentences": [{"raw": "A dog runs on grass."}, {"raw": "a dog plays"}],
        },
        {"filepath": "val2014", "filename": "b.jpg", "split": "test", "sentences": [{"raw": "Two red cars on a road"}]},
        {"filepath": "val2014", "filename": "c.jpg", "split": "train", "sentences": [{"raw": "never asked"}]},
    ]
    files = Files(annotations=write(tmp_path / "dataset_coco.json", {"images": entries}), images=images)
    said(monkeypatch, "a dog runs on grass. it is happy", "two red cars on a road")
    found = measured(model, "coco_captions", files, tmp_path / "out")
    # Cut at the first full stop, both captions are a reference word for word.
    assert found["BLEU-4"] == pytest.approx(1.0, abs=1e-6) and found["ROUGE-L"] == pytest.approx(1.0)
    assert found["CIDEr"] > 5


def test_bleu_of_the_whole_set_has_an_interval_of_its_own(model, tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    words = ["a dog runs on the grass", "two red cars on a road", "a small boat at sea", "bread and cheese on a plate"]
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(4)]
    described = {"images": images, "annotations": [{"image_id": number, "caption": text} for number, text in enumerate(words)]}
    files = Files(annotations=write(tmp_path / "n.json", described), images=paint(tmp_path / "images", *(f"{n}.jpg" for n in range(4))))
    said(monkeypatch, words[0], "two red cars on a street", "a small boat", "no idea")
    report = evaluate_benchmark(model, TASKS["nocaps"], files, tmp_path / "out", blind=False)
    rows = {row["metric"]: row for row in report["results"]}
    for order in range(1, 5):
        row = rows[f"BLEU-{order}"]
        assert 0 <= row["low"] < row["score"] < row["high"] <= 1
    # The captions' sums give the figure of the whole set, to the last digits.
    found = captions.scores(
        dict(zip("abcd", words[1:] + words[:1], strict=True)), {name: [text] for name, text in zip("abcd", words, strict=True)}
    )
    for order in range(1, 5):
        each = found[f"BLEU-{order}"]
        assert each["figure"](each["parts"].sum(0)) == pytest.approx(each["corpus"], rel=1e-12)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "a small boat at sea" in page and page.count("<figure") == 4 and "http" not in page and 'class="best"' in page


def test_captions_without_their_package_are_refused_before_any_is_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(captions, "find_spec", lambda name: None)
    monkeypatch.setattr(benchmark, "_text", None)
    files = Files(annotations=tmp_path / "never read.json", images=tmp_path)
    for name in ("coco_captions", "flickr30k", "nocaps", "image_paragraphs"):
        with pytest.raises(BackendError, match=r"pip install 'mm-interleaved\[evaluation\]'"):
            evaluate_benchmark(model, TASKS[name], files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nocaps_and_paragraphs(model, tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    images = paint(tmp_path / "images", "a.jpg", "5.jpg", "6.jpg")
    nocaps = {"images": [{"id": 3, "file_name": "a.jpg"}], "annotations": [{"image_id": 3, "caption": "a small boat"}]}
    said(monkeypatch, "a small boat", "A room. It is blue.")
    files = Files(annotations=write(tmp_path / "nocaps.json", nocaps), images=images)
    assert measured(model, "nocaps", files, tmp_path / "n")["ROUGE-L"] == pytest.approx(1.0)
    texts = [{"image_id": 5, "paragraph": "A room.  It is blue."}, {"image_id": 6, "paragraph": "Not of this split."}]
    files = Files(annotations=write(tmp_path / "p.json", texts), other=write(tmp_path / "split.json", [5]), images=images)
    assert measured(model, "image_paragraphs", files, tmp_path / "p")["ROUGE-L"] == pytest.approx(1.0)
    write(tmp_path / "nocaps.json", {**nocaps, "images": [*nocaps["images"], {"id": 4, "file_name": "b.jpg"}]})
    with pytest.raises(DataError, match="picture 4 has no caption"):
        TASKS["nocaps"].read(Files(annotations=tmp_path / "nocaps.json", images=images))


def test_visdial_scores_every_option_behind_one_context(model, tmp_path, monkeypatch):
    turns = [
        {"question": 0, "answer": 0, "gt_index": 1, "answer_options": [1, 0, 2]},
        {"question": 1, "answer": 2, "gt_index": 2, "answer_options": [0, 1, 2]},
    ]
    dialog = {"image_id": 9, "caption": "a cat", "dialog": turns}
    contents = {"questions": ["is it black", "is it asleep"], "answers": ["yes", "no", "maybe"], "dialogs": [dialog]}
    files = Files(
        annotations=write(tmp_path / "v.json", {"data": contents}),
        other=write(tmp_path / "dense.json", [{"image_id": 9, "round_id": 2, "gt_relevance": [0.0, 0.5, 1.0]}]),
        images=paint(tmp_path / "images", "VisualDialog_val2018_000000000009.jpg"),
    )
    (item,) = TASKS["visdial"].read(files)
    assert item.options == ("yes", "no", "maybe")
    assert item.prompt().texts[0].text == "caption: a cat. question: is it black? answer: yes. question: is it asleep? answer:"
    found = measured(model, "visdial", files, tmp_path / "real")
    assert 0 <= found["ndcg"] <= 1 and found["rank"] in (1, 2, 3)

    class Told:
        def __init__(self, value):
            self.log_likelihood = value

    monkeypatch.setattr(type(model), "score", lambda self, document, options: [Told(-1.0), Told(-3.0), Told(-2.0)])
    found = measured(model, "visdial", files, tmp_path / "told")
    # Order: 0, 2, 1. Two options are relevant: gain 0 and then 1, over 1 and then 0.5.
    assert found["ndcg"] == pytest.approx((1 / np.log2(3)) / (1 + 0.5 / np.log2(3)))
    assert (found["mrr"], found["recall@1"], found["rank"]) == (0.5, 0.0, 2.0)


def test_refcoco_asks_every_sentence_of_the_split(model, tmp_path, monkeypatch):
    references = [
        {"ref_id": 0, "ann_id": 5, "image_id": 1, "split": "val", "sentences": [{"sent": "left dog"}, {"sent": "the dog"}]},
        {"ref_id": 1, "ann_id": 5, "image_id": 1, "split": "testA", "sentences": [{"sent": "another"}]},
    ]
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    instances = {
        "annotations": [{"id": 5, "bbox": [0, 0, 40, 40]}],
        "images": [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 40}],
    }
    files = Files(
        annotations=tmp_path / "refs(unc).p",
        other=write(tmp_path / "instances.json", instances),
        images=paint(tmp_path / "images", "a.jpg"),
    )
    said(monkeypatch, "(000,000)(499,999)</box>", "(500,000)(999,999)</box>")
    found = measured(model, "refcoco_val", files, tmp_path / "out")
    assert (found["accuracy"], found["box"]) == (0.5, 1.0)
    assert found["overlap"] == pytest.approx(0.5, abs=0.01)


def test_pictures_are_compared_at_both_sizes_and_never_mixed_up(model, tmp_path, extractor):
    names = [f"{number}.jpg" for number in range(3)]
    described = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": number, "caption": text} for number in range(3) for text in ("A Dog", "second")],
    }
    files = Files(annotations=write(tmp_path / "captions.json", described), images=paint(tmp_path / "images", *names))
    assert TASKS["coco_images"].read(files)[0].prompt().texts[0].text == "a dog"
    with pytest.raises(ConfigError, match="--extractor or --clip"):
        evaluate_benchmark(model, TASKS["coco_images"], files, tmp_path / "none")
    options = {"instruments": Instruments(extractor=Extractor(extractor)), "steps": 1, "guidance": 1.0}
    found = measured(model, "coco_images", files, tmp_path / "out", **options)
    assert set(found) == {"fid", "fid_64_published"} and all(value > 0 for value in found.values())
    protocol = json.loads((tmp_path / "out" / "protocol.json").read_text("utf-8"))
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.count('alt="made"') == 3 and page.count('alt="picture"') == 3 and "not measured: clip_score, which needs --clip" in page
    assert protocol["unmeasured"] == {"clip_score": "--clip"} and set(protocol["instruments"]) == {"extractor"}
    (files.images / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the pictures of 3 items are missing, first .*1\.jpg"):
        evaluate_benchmark(model, TASKS["coco_images"], files, tmp_path / "out", **options)
    with pytest.raises(ShapeError, match="expected features of width 2048, got 3"):
        Extractor(extractor, width=2048)


def test_narratives_are_asked_as_they_were_written(tmp_path):
    (tmp_path / "n.jsonl").write_text('{"image_id": "17", "caption": "In this image we see a Dog."}\n', "utf-8")
    (item,) = TASKS["narratives_images"].read(Files(annotations=tmp_path / "n.jsonl", images=tmp_path))
    assert item.prompt().texts[0].text == "In this image we see a Dog."
    assert item.needs == (tmp_path / "000000000017.jpg",)


@pytest.mark.parametrize("name", TASKS)
def test_a_file_that_is_no_annotation_is_refused(name, tmp_path):
    (tmp_path / "broken.json").write_text("{", "utf-8")
    with pytest.raises(DataError):
        TASKS[name].read(Files(annotations=tmp_path / "broken.json", other=tmp_path / "broken.json", images=tmp_path))
