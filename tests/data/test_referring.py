"""Hidden things: covered as much as said, small enough, with look-alikes, and the box around what can be seen."""

from collections import Counter

import numpy as np

from mm_interleaved.data.playground.scene import Item, Scene, compose
from mm_interleaved.data.playground.tasks import boxes, sample


def _scene(truth: dict, *keep: int) -> Scene:
    scene = truth["scenes"][0]
    return Scene(ground=scene["ground"], items=tuple(Item(**scene["items"][place]) for place in keep))


def test_the_target_is_covered_by_what_is_named_and_its_box_holds_what_is_left(train) -> None:
    pack = train.pack
    for index in range(25):
        truth = sample("referring", train, 0, index, 1).truth
        items = truth["scenes"][0]["items"]
        same = [place for place, item in enumerate(items) if pack.things[item["thing"]].id == truth["thing"]]
        (cover,) = [place for place, item in enumerate(items) if pack.things[item["thing"]].id == truth["behind"]]
        empty = compose(_scene(truth), pack, 224).astype(int)
        fits = 0
        for place in same:
            rest = [other for other in range(len(items)) if other != place]
            alone = np.abs(compose(_scene(truth, place), pack, 224).astype(int) - empty).max(2) > 0
            before, without, whole = (
                compose(_scene(truth, *each), pack, 224).astype(int) for each in ((place, cover), rest, range(len(items)))
            )
            # Seen in the whole picture, and less of it than alone because of the thing that is named.
            seen = np.abs(whole - without).max(2) > 0
            rows, columns = np.nonzero(seen & alone)
            behind_it = (np.abs(before - compose(_scene(truth, place), pack, 224)).max(2) > 0) & alone
            if not len(rows) or not 0.2 < 1 - (seen & alone).sum() / alone.sum() < 0.8 or not behind_it.any():
                continue
            found = (columns.min() / 224, rows.min() / 224, (columns.max() + 1) / 224, (rows.max() + 1) / 224)
            fits += boxes.overlap(found, tuple(truth["box"])) > 0.75  # type: ignore[arg-type]  # soft edges of alpha below one half
            assert alone.sum() / 224**2 <= 0.05
        assert fits == 1, truth


def test_coverage_is_between_three_and_seven_tenths_and_boxes_are_in_the_picture(train) -> None:
    covered = []
    for index in range(150):
        truth = sample("referring", train, 1, index, 1).truth
        covered.append(truth["covered"])
        left, top, right, bottom = truth["box"]
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        assert len(truth["others"]) >= 1 and truth["answers"] == len(truth["others"]) + 1
        assert all(boxes.overlap(tuple(truth["box"]), tuple(other)) < 0.5 for other in truth["others"])
    assert min(covered) >= 0.3 and max(covered) <= 0.7 and np.std(covered) > 0.05


def test_held_out_pairs_are_shown_only_in_the_test_split(train, test) -> None:
    held_out = set(train.test_pairs)
    for world, expected in ((train, set()), (test, held_out)):
        for index in range(60):
            items = sample("referring", world, 2, index, 1).truth["scenes"][0]["items"]
            assert {(item["thing"], item["style"]) for item in items} & held_out <= expected
            if expected:
                assert {(item["thing"], item["style"]) for item in items} <= expected


def test_no_middle_box_finds_the_target(train) -> None:
    places = Counter()
    for index in range(200):
        box = sample("referring", train, 3, index, 1).truth["box"]
        places[(box[0] + box[2] > 1, box[1] + box[3] > 1)] += 1
    assert len(places) == 4 and max(places.values()) < 0.4 * 200


def test_boxes_in_words_are_read_back() -> None:
    assert boxes.in_words((0.12, 0.3, 0.455, 1.0)) == "(120,300)(455,999)"
    assert boxes.read("it is (120, 300) (455,610).") == (0.12, 0.3, 0.455, 0.61)
    assert boxes.read("(455,610)(120,300)") == (0.12, 0.3, 0.455, 0.61)
    assert boxes.read("nowhere") is None
    assert boxes.overlap((0, 0, 1, 1), (0, 0, 0.5, 1)) == 0.5 and boxes.overlap((0, 0, 0.1, 0.1), (0.5, 0.5, 1, 1)) == 0.0
