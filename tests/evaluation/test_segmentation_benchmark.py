"""ADE20K: from a label map to a picture, whose labels a segmenter reads; overlaps counted by hand."""

import numpy as np
import pytest
from PIL import Image as pillow

from mm_interleaved.data.tuning.places import labels_of, palette
from mm_interleaved.document import Image, Text
from mm_interleaved.errors import CheckpointError, DataError, LayoutError, ShapeError
from mm_interleaved.evaluation.benchmark import evaluate_benchmark
from mm_interleaved.evaluation.metrics.segmentation import mean_overlap, overlaps
from mm_interleaved.evaluation.painting import Instruments
from mm_interleaved.evaluation.segmenter import Segmenter
from mm_interleaved.evaluation.tasks import TASKS
from mm_interleaved.evaluation.tasks.files import Files
from tests.evaluation.material import paint, save_clip, save_segmenter, write

FAST = {"steps": 1, "guidance": 1.0}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return save_segmenter(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture
def ade(tmp_path):
    """Three photographs, 48 x 32, each with a map of four labels, of which 0 is none."""
    names = [f"ADE_val_{number:08d}.jpg" for number in range(1, 4)]
    maps = tmp_path / "maps"
    maps.mkdir()
    for number, name in enumerate(names):
        labels = np.random.default_rng(number).choice([0, 1, 13, 150], (32, 48)).astype(np.uint8)
        pillow.fromarray(labels).save((maps / name).with_suffix(".png"))
    captions = [{"image": name, "caption": f"room {number}."} for number, name in enumerate(names)]
    return Files(
        annotations=write(tmp_path / "captions.jsonl", captions),
        images=paint(tmp_path / "images", *names, side=32, width=48),
        other=maps,
    )


def counted(made, true):
    """mIoU by loops."""
    shares = []
    for label in range(1, 151):
        both = either = 0
        for one, other in zip(made, true, strict=True):
            for left, right in zip(one.flat, other.flat, strict=True):
                if right != 0:
                    both += left == right == label
                    either += label in (left, right)
        if either:
            shares.append(both / either)
    return sum(shares) / len(shares)


def test_overlaps_are_counted_over_all_pictures_and_leave_the_unlabelled_out():
    made, true = np.array([[1, 1], [2, 3]]), np.array([[1, 2], [2, 0]])
    # Class 1: one pixel of two; class 2: one of two; class 3 stands only where nothing is labelled.
    assert overlaps(made, true, 3).tolist() == [[1, 1, 0], [2, 2, 0]]
    assert mean_overlap(overlaps(made, true, 3)) == 0.5
    assert mean_overlap(np.zeros((2, 3), int)) == 0.0
    with pytest.raises(ShapeError, match="labels from 0 to 2"):
        overlaps(true, made, 2)


def test_the_mean_overlap_is_that_of_the_segmenters_labels_by_hand(model, ade, segmenter, tmp_path):
    out = tmp_path / "out"
    report = evaluate_benchmark(model, TASKS["ade20k"], ade, out, instruments=Instruments(segmenter=Segmenter(segmenter)), **FAST)
    (row,) = report["results"]
    ruler = Segmenter(segmenter)
    maps = [np.asarray(pillow.open(path), np.int64)[:, 8:40] for path in sorted(ade.other.iterdir())]
    painted = [ruler.labels(Image.open(out / "pictures" / f"ade20k-{number}-0.png").array(), 32) for number in range(3)]
    photos = [ruler.labels(Image.open(path).array()[:, 8:40], 32) for path in sorted(ade.images.iterdir())]
    assert row["metric"] == "miou" and row["n"] == 3
    assert row["score"] == pytest.approx(counted(painted, maps), abs=1e-12)
    assert row["ceiling"] == pytest.approx(counted(photos, maps), abs=1e-12)
    assert row["blind"] == pytest.approx(counted([*painted[1:], painted[0]], maps), abs=1e-12)
    assert row["low"] <= row["high"] and report["unmeasured"] == {"fid": "--extractor"}


def test_a_map_is_given_before_its_caption_and_its_labels_come_back(ade):
    item = TASKS["ade20k"].read(ade)[0]
    coloured, words = item.prompt()
    assert words == Text("room 0.") and len(item.rest()) == 1
    assert (labels_of(coloured.array()) == np.asarray(pillow.open(ade.other / "ADE_val_00000001.png"))).all()
    assert (labels_of(palette()[None]) == np.arange(256)).all()
    with pytest.raises(DataError, match="belongs to no label"):
        labels_of(np.full((1, 1, 3), 1, np.uint8))


def test_a_picture_that_was_not_painted_misses_all_its_labels(model, ade, segmenter, tmp_path, monkeypatch):
    def full(self, document, **options):
        raise LayoutError("the document does not fit")

    monkeypatch.setattr(type(model), "stream", full)
    report = evaluate_benchmark(
        model, TASKS["ade20k"], ade, tmp_path / "out", instruments=Instruments(segmenter=Segmenter(segmenter)), **FAST
    )
    assert report["results"][0]["score"] == 0.0 and len(report["refused"]) == 3


def test_maps_that_are_missing_or_of_another_size_are_refused(model, ade, segmenter, tmp_path):
    pillow.fromarray(np.zeros((4, 4), np.uint8)).save(ade.other / "ADE_val_00000001.png")
    with pytest.raises(DataError, match=r"its map \(4, 4\); a benchmark may lose no picture|a benchmark may lose no picture"):
        TASKS["ade20k"].read(ade)[0].prompt()
    (ade.other / "ADE_val_00000001.png").unlink()
    with pytest.raises(DataError, match=r"ade20k: 1 of the pictures of 3 items are missing, first .*maps"):
        evaluate_benchmark(model, TASKS["ade20k"], ade, tmp_path / "out", instruments=Instruments(segmenter=Segmenter(segmenter)), **FAST)
    with pytest.raises(DataError, match="--other: pictures are painted from label maps"):
        TASKS["ade20k"].read(Files(annotations=ade.annotations, images=ade.images))
    with pytest.raises(DataError, match="expected the fields 'image' and 'caption'"):
        TASKS["ade20k"].read(Files(annotations=write(ade.annotations, [{"image": "1.jpg"}]), images=ade.images, other=ade.other))


def test_segmenters_of_another_kind_or_of_other_classes_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a network for semantic segmentation.* got 'clip'"):
        Segmenter(save_clip(tmp_path / "clip"))
    with pytest.raises(CheckpointError, match="ADE20K's 150 classes, got one of 19"):
        Segmenter(save_segmenter(tmp_path / "other", classes=19))
