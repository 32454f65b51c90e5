"""The published measures against their own programs, and against cases that were worked by hand."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mm_interleaved.data.playground.tasks.boxes import overlap, read
from mm_interleaved.errors import DataError, ShapeError
from mm_interleaved.evaluation.metrics import captions
from mm_interleaved.evaluation.metrics.answers import cleaned, exact_accuracy, vqa_accuracy
from mm_interleaved.evaluation.metrics.frechet import Moments, frechet_distance
from mm_interleaved.evaluation.metrics.ranking import ndcg, rank_of, retrieval
from mm_interleaved.evaluation.tasks.questions import first_line, released_answer

RECORDED = Path(__file__).parent / "fixtures" / "ptb_captions.json.gz"
"""Sentence pairs, the tokens that COCO's Java tokenizer makes of them, and the scores that its whole program gives."""


def pairs():
    return json.loads(gzip.decompress(RECORDED.read_bytes()))


@pytest.mark.parametrize(
    ("answer", "said", "accuracy"),
    [
        ("red", ["red"] * 10, 1.0),
        ("red", ["red"] * 3 + ["blue"] * 7, 0.9),  # without one of three who said it: 2/3, three times; otherwise 1
        ("red", ["red"] * 2 + ["blue"] * 8, 0.6),  # 1/3 twice, 2/3 eight times
        ("red", ["red"] + ["blue"] * 9, 0.3),  # 0 once, 1/3 nine times
        ("green", ["red"] * 5 + ["blue"] * 5, 0.0),
        ("Two", ["2"] * 4 + ["3"] * 6, 1.0),
        ("the dog.", ["dog"] * 4 + ["cat"] * 6, 1.0),
        ("dont know", ["don't know"] * 4 + ["yes"] * 6, 1.0),
        ("1,000", ["1000"] * 4 + ["yes"] * 6, 1.0),
        ("red/blue", ["red blue"] * 4 + ["yes"] * 6, 1.0),
        ("", ["yes"] * 10, 0.0),
    ],
)
def test_vqa_accuracy_of_cases_worked_by_hand(answer, said, accuracy):
    assert vqa_accuracy(answer, said) == pytest.approx(accuracy)


def test_answers_are_cleaned_in_the_official_order():
    assert cleaned("The Ten dogs!") == "10 dogs"
    assert cleaned("none") == "0"
    assert cleaned("2.5") == "2.5"
    assert cleaned("u.s.") == "us"
    assert cleaned("wont") == "won't"


def test_an_answer_without_people_is_refused():
    with pytest.raises(DataError, match="annotations are incomplete"):
        vqa_accuracy("yes", [])


def test_gqa_wants_the_same_words():
    assert exact_accuracy(" Left. ", "left") == 1.0
    assert exact_accuracy("on the left", "left") == 0.0


def test_the_released_extraction_is_kept_with_its_faults():
    assert released_answer("banana bread") == "bread"
    assert released_answer("2.5") == "2"
    assert released_answer("It is the colour of the sky, blue") == "colour"
    assert first_line("banana bread.\nmore") == "banana bread"


def test_frechet_distance_equals_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Features(torch.nn.Module):
        num_features = 12

        def forward(self, given):
            return given

    random = np.random.default_rng(0)
    mixed = random.normal(size=(12, 12))
    one, two = random.normal(size=(300, 12)), random.normal(0.3, 1.2, size=(200, 12)) @ mixed
    theirs = fid.FrechetInceptionDistance(feature=Features(), normalize=False)
    theirs.set_dtype(torch.float64)
    theirs.update(torch.from_numpy(one), real=True)
    theirs.update(torch.from_numpy(two), real=False)
    parts = Moments.of(two[:50]) + Moments.of(two[50:])
    assert frechet_distance(Moments.of(one), parts) == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert frechet_distance(Moments.of(one), Moments.of(one)) == pytest.approx(0, abs=1e-6)


def test_features_of_other_widths_and_single_pictures_are_refused():
    with pytest.raises(ShapeError, match="width 3 and 4"):
        frechet_distance(Moments.of(np.zeros((5, 3))), Moments.of(np.zeros((5, 4))))
    with pytest.raises(DataError, match="at least two pictures"):
        frechet_distance(Moments.of(np.zeros((1, 3))), Moments.of(np.zeros((5, 3))))


def test_overlaps_equal_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(1)
    corners = np.sort(random.uniform(0, 100, size=(40, 2, 2)), axis=1)
    boxes = [(left, top, right, bottom) for (left, top), (right, bottom) in corners.tolist()]
    sized = np.array([(left, top, right - left, bottom - top) for left, top, right, bottom in boxes])
    theirs = mask.iou(sized, sized, [0] * len(sized))
    ours = [[overlap(one, two) for two in boxes] for one in boxes]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_a_box_is_read_from_words():
    assert read("(100,200)(300,400)</box>") == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert read("( 300 , 400 )( 100 , 200 )") == read("(100,200)(300,400)")
    assert read("nowhere") is None
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0


def test_ranks_and_ndcg_worked_by_hand():
    assert rank_of([0.1, 0.9, 0.5], 2) == 2
    assert rank_of([0.5, 0.5, 0.5], 0) == 3  # a constant gains nothing
    assert retrieval(2) == {"mrr": 0.5, "recall@1": 0.0, "recall@5": 1.0, "recall@10": 1.0, "rank": 2.0}
    # Two are relevant, so two places count: gain 0 at the first, 1 at the second, over 1 and 0.5 in the best order.
    best = 1 / np.log2(2) + 0.5 / np.log2(3)
    assert ndcg([3.0, 2.0, 1.0], [0.0, 1.0, 0.5]) == pytest.approx(1 / np.log2(3) / best)
    assert ndcg([1.0, 3.0, 2.0], [0.0, 1.0, 0.5]) == pytest.approx(1.0)
    with pytest.raises(ShapeError, match="at least one"):
        ndcg([1.0], [0.0])


def test_caption_metrics_equal_those_of_the_original_program():
    pytest.importorskip("pycocoevalcap")
    recorded = pairs()
    agreeing = [place for place, pair in enumerate(recorded["pairs"]) if all(captions.tokens(text) == words for text, words in pair)]
    assert len(recorded["pairs"]) >= 500
    # Where the tokenizers differ is explained in docs/results.md.
    assert len(agreeing) / len(recorded["pairs"]) >= recorded["agreeing"]
    assert len(agreeing) >= 500
    some = recorded["of_agreeing"]
    made = {str(place): recorded["pairs"][place][0][0] for place in some["places"]}
    true = {str(place): [recorded["pairs"][place][1][0]] for place in some["places"]}
    assert set(some["places"]) <= set(agreeing)
    found = captions.scores(made, true)
    for metric, value in some["scores"].items():
        assert found[metric]["corpus"] == pytest.approx(value, abs=1e-6), metric


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man riding a wave on top of a surfboard.", "a man riding a wave on top of a surfboard"),
        ("It's a cat, isn't it?", "it 's a cat is n't it"),
        ("The dog's (red) ball", "the dog 's -lrb- red -rrb- ball"),
        ("a black-and-white photo", "a black-and-white photo"),
    ],
)
def test_captions_are_cut_as_the_treebank_does(text, words):
    assert captions.tokens(text) == words.split()


def test_every_picture_needs_a_caption():
    pytest.importorskip("pycocoevalcap")
    with pytest.raises(DataError, match="every picture needs one"):
        captions.scores({"1": "a dog"}, {"1": ["a dog"], "2": ["a cat"]})


@pytest.mark.slow
@pytest.mark.skipif(not captions.has_java(), reason="METEOR is a Java program")
def test_meteor_of_all_captions_is_that_of_their_sums():
    pytest.importorskip("pycocoevalcap")
    true = {"a": ["a dog runs on the grass"], "b": ["two red cars on a road", "cars"], "c": ["a small boat at sea"]}
    made = {"a": "a dog is running on grass", "b": "two red cars", "c": "a ship"}
    found = captions.scores(made, true, meteor=True)["METEOR"]
    assert found["figure"](found["parts"].sum(0)) == pytest.approx(found["corpus"], rel=1e-9)
    assert found["figure"](found["parts"][1]) == pytest.approx(found["each"][1], rel=1e-9)
    assert found["corpus"] != pytest.approx(np.mean(found["each"]), rel=1e-3)
