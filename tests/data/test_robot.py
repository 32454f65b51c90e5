"""The robot: a reverse is the same frames backwards, held-out combinations and clips are never trained on, colours are those named."""

from collections import Counter

import numpy as np

from mm_interleaved.data.playground.material.clips import clips, reverses
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.tasks.robot import ACTIONS, COLOURS, read


def test_every_action_has_its_reverse_in_the_same_frames() -> None:
    pairs = reverses()
    assert {*pairs, *pairs.values()} == set(ACTIONS) and len(pairs) * 2 == len(ACTIONS)
    assert {clip.action for clip in clips()} == set(pairs)


def test_a_reverse_shows_the_frames_backwards(train) -> None:
    orders = {}
    for index in range(200):
        truth = sample("robot", train, 0, index, 1).truth
        orders[truth["action"]] = [scene["frame"] for scene in truth["scenes"]]
    for forward, backward in reverses().items():
        assert orders[forward] == [0, 1, 2, 3] and orders[backward] == [3, 2, 1, 0]


def test_held_out_combinations_and_clips_are_never_shown_in_training(train, test) -> None:
    seen, unseen, seen_clips, unseen_clips = set(), set(), set(), set()
    for index in range(800):
        for world, combinations, shown in ((train, seen, seen_clips), (test, unseen, unseen_clips)):
            truth = sample("robot", world, 1, index, 1).truth
            combinations.add((truth["action"], truth["shape"], truth["colour"]))
            shown.add(truth["scenes"][0]["clip"])
    assert not seen & unseen and not seen_clips & unseen_clips
    assert {action for action, _, _ in unseen} == set(ACTIONS)


def test_actions_are_balanced(train) -> None:
    actions = Counter(sample("robot", train, 2, index, 1).truth["action"] for index in range(1600))
    assert set(actions) == set(ACTIONS) and max(actions.values()) < 140 and min(actions.values()) > 60


def test_the_named_colour_is_in_the_picture_and_the_frames_differ(train) -> None:
    for index in range(10):
        document = sample("robot", train, 3, index)
        frames = [segment.astype(int) for segment in document.segments[:4]]  # type: ignore[union-attr]
        colour = np.array(COLOURS[document.truth["colour"]][0])
        hue = colour / colour.max()
        near = [np.abs(frame / np.maximum(frame.max(2, keepdims=True), 1) - hue).max(2) < 0.12 for frame in frames]
        assert max(found.sum() for found in near) > 60, document.truth
        assert np.abs(frames[0] - frames[3]).max(2).max() > 60


def test_sentences_are_read_back(train) -> None:
    for index in range(100):
        truth = sample("robot", train, 4, index, 1).truth
        assert read(truth["answer"], truth["language"]) == (truth["action"], truth["shape"], truth["colour"])
    assert read("the robot sings", "en") is None
