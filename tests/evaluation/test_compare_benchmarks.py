"""Paired comparison of two evaluations of one benchmark."""

import json
from pathlib import Path

import numpy as np
import pytest

from mm_interleaved.document import Image
from mm_interleaved.errors import ConfigError, DataError
from mm_interleaved.evaluation import benchmark
from mm_interleaved.evaluation.benchmark import evaluate_benchmark
from mm_interleaved.evaluation.compare import compare, table
from mm_interleaved.evaluation.extractors import Extractor
from mm_interleaved.evaluation.metrics import captions
from mm_interleaved.evaluation.painting import Instruments
from mm_interleaved.evaluation.tasks import TASKS
from mm_interleaved.evaluation.tasks.files import Files
from tests.evaluation.material import paint, write


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "has_java", lambda: False)


@pytest.fixture
def textvqa(tmp_path):
    data = [{"question_id": number, "image_id": f"{number}", "question": "what is it?", "answers": ["stop"] * 10} for number in range(6)]
    images = paint(tmp_path / "images", *(f"{number}.jpg" for number in range(6)))
    return Files(annotations=write(tmp_path / "textvqa.json", {"data": data}), images=images)


def answered(monkeypatch, model, name, files, out, answers, **options):
    left = list(answers)
    monkeypatch.setattr(benchmark, "_text", lambda model, document, task: left.pop(0))
    return evaluate_benchmark(model, TASKS[name], files, out, blind=False, **options)


def test_questions_are_compared_one_by_one(model, textvqa, tmp_path, monkeypatch):
    answered(monkeypatch, model, "textvqa", textvqa, tmp_path / "a", ["stop"] + ["go"] * 5)
    answered(monkeypatch, model, "textvqa", textvqa, tmp_path / "b", ["stop"] * 5 + ["go"], seed=3)
    (row,) = compare(tmp_path / "a", tmp_path / "b")
    assert (row["task"], row["metric"], row["n"], row["main"]) == ("textvqa", "accuracy", 6, True)
    assert (row["a"], row["b"]) == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert row["p"] == pytest.approx(2 / 2**4)  # four differ, all for B: two of 16 flips are as far
    assert 0 < row["low"] < row["difference"] < row["high"]
    assert "accuracy" in table([row])[1] and "0.1250" in table([row])[1]


def test_captions_are_paired_by_cider_and_rouge_and_the_bleu_of_the_whole_set_is_not(model, tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    words = ["a dog runs on the grass", "two red cars on a road", "a small boat at sea", "bread and cheese on a plate"]
    described = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(4)],
        "annotations": [{"image_id": number, "caption": text} for number, text in enumerate(words)],
    }
    files = Files(annotations=write(tmp_path / "n.json", described), images=paint(tmp_path / "images", *(f"{n}.jpg" for n in range(4))))
    first = answered(monkeypatch, model, "nocaps", files, tmp_path / "a", ["a dog", "a car", "a boat", "bread"])
    second = answered(monkeypatch, model, "nocaps", files, tmp_path / "b", words)
    rows = {row["metric"]: row for row in compare(tmp_path / "a", tmp_path / "b")}
    for metric in ("CIDEr", "ROUGE-L"):
        assert rows[metric]["p"] == pytest.approx(2 / 2**4) and rows[metric]["low"] > 0
    told = {row["metric"]: row["score"] for row in second["results"]}
    assert rows["BLEU-4"]["p"] is None and rows["BLEU-4"]["b"] == told["BLEU-4"] and rows["BLEU-4"]["n"] == 4
    assert rows["CIDEr"]["b"] == pytest.approx(told["CIDEr"]) and rows["CIDEr"]["main"]
    assert first["unmeasured"] == {"METEOR": "a Java runtime (`java`)"}
    line = next(line for line in table(list(rows.values())) if "BLEU-4" in line)
    assert line.count("–") == 2


def test_distances_of_sets_are_told_as_they_are(model, tmp_path, extractor):
    described = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(3)],
        "annotations": [{"image_id": number, "caption": "a dog"} for number in range(3)],
    }
    files = Files(annotations=write(tmp_path / "c.json", described), images=paint(tmp_path / "images", *(f"{n}.jpg" for n in range(3))))
    options = {"instruments": Instruments(extractor=Extractor(extractor)), "guidance": 1.0}
    reports = [evaluate_benchmark(model, TASKS["coco_images"], files, tmp_path / str(n), steps=n, **options) for n in (1, 2)]
    rows = {row["metric"]: row for row in compare(tmp_path / "1", tmp_path / "2")}
    assert rows["fid"]["b"] - rows["fid"]["a"] == rows["fid"]["difference"] != 0
    assert [rows["fid"][side] for side in "ab"] == [report["results"][0]["score"] for report in reports]
    assert f"{rows['fid']['a']:6.1f}" in table(list(rows.values()))[1]


def finished(model, textvqa, folder: Path, monkeypatch, answers=("stop",) * 6, **options) -> Path:
    answered(monkeypatch, model, "textvqa", textvqa, folder, answers, **options)
    return folder


def test_other_data_other_items_and_other_pictures_cannot_be_compared(model, textvqa, tmp_path, monkeypatch):
    whole = finished(model, textvqa, tmp_path / "whole", monkeypatch)
    some = finished(model, textvqa, tmp_path / "some", monkeypatch, count=5)
    with pytest.raises(ConfigError, match=r"5 and 6; only .*whole has '5'.*both with --quick"):
        compare(some, whole)
    (textvqa.images / "2.jpg").write_bytes(Image.from_array(np.zeros((8, 8, 3), np.uint8)).data)
    painted_over = finished(model, textvqa, tmp_path / "painted over", monkeypatch)
    with pytest.raises(ConfigError, match="1 of 6 were asked with another picture or other words, first '2'"):
        compare(whole, painted_over)
    values = json.loads(textvqa.annotations.read_text("utf-8"))
    values["data"][0]["answers"] = ["go"] * 10
    write(textvqa.annotations, values)
    other = finished(model, textvqa, tmp_path / "other", monkeypatch)
    with pytest.raises(ConfigError, match=r"different samples \(data\)"):
        compare(whole, other)


def test_a_benchmark_is_no_playground_and_an_unfinished_one_is_named(model, textvqa, tmp_path, monkeypatch):
    whole = finished(model, textvqa, tmp_path / "whole", monkeypatch)
    playground = tmp_path / "playground"
    playground.mkdir()
    record = {"task": "question", "index": 0, "truth": {"answer": "left"}, "outcome": {"made": {"text": "left."}}}
    lines = [{"protocol": {"format": 2, "seed": 0, "world": {}}}, record]
    (playground / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    for pair in ((whole, playground), (playground, whole)):
        with pytest.raises(ConfigError, match=r"different samples \(format, suite"):
            compare(*pair)
    begun = tmp_path / "begun"
    answered(monkeypatch, model, "textvqa", textvqa, begun, ["go"] * 3, part=(0, 2))
    with pytest.raises(DataError, match=r"items.json cannot be read .*not finished"):
        compare(whole, begun)
