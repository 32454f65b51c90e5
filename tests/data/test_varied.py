from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.varied import VariedPack, alter
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.training.feed import Corpus


@pytest.fixture(scope="module")
def pack():
    return Pack.load()


def pictures(found):
    return [np.asarray(segment) for segment in found.segments if not isinstance(segment, str)]


def test_a_drawing_is_the_same_within_a_sample_and_another_in_the_next(pack):
    first, again, other = (VariedPack(pack, seed, 1.0) for seed in (3, 3, 4))
    assert np.array_equal(first.drawing(5, 1), first.drawing(5, 1))
    assert np.array_equal(first.drawing(5, 1), again.drawing(5, 1))
    assert first.drawing(5, 1).shape != other.drawing(5, 1).shape or not np.array_equal(first.drawing(5, 1), other.drawing(5, 1))


def test_an_altered_drawing_is_cropped_to_what_is_visible_and_has_no_dark_fringe():
    white = Image.new("RGBA", (60, 90), (0, 0, 0, 0))
    white.paste((250, 250, 250, 255), (10, 10, 50, 80))
    for seed in range(20):
        altered = np.asarray(alter(white, np.random.default_rng(seed), 1.0))
        seen = altered[..., 3] > 0
        assert seen.any(0)[[0, -1]].all() and seen.any(1)[[0, -1]].all()
        edge = altered[(altered[..., 3] > 30) & (altered[..., 3] < 220)][:, :3]
        assert edge.min() > 150  # a fringe would fall towards black; light and contrast alone take less than a third


def test_without_strength_a_drawing_is_only_mirrored(pack):
    plain = pack.drawing(7, 0).astype(int)
    for seed in range(6):
        found = np.asarray(alter(Image.fromarray(pack.drawing(7, 0)), np.random.default_rng(seed), 0.0)).astype(int)
        assert min(np.abs(found[..., 3] - side[..., 3]).max() for side in (plain, plain[:, ::-1])) <= 1


def test_only_samples_that_are_not_painted_are_varied(pack):
    world = World(pack, WorldConfig(split="train", jitter=0.0))
    tasks = {"picture": 1.0, "caption": 0.5}
    plain, varied = (Corpus(world, tasks, seed=1, side=64, painted=0.5, variety=each) for each in (0.0, 1.0))
    painted = [varied.is_painted(index) for index in range(24)]
    assert not any(painted[index] for index in range(24) if varied.task_of(index) == "caption")
    both = [(pictures(plain.sample(index)), pictures(varied.sample(index))) for index in range(24)]
    assert 0 < sum(painted) < 24
    assert [all(map(np.array_equal, *pair)) for pair in both] == painted
    places = [varied.sample(index).truth["scenes"][0]["items"][0]["centre_x"] for index in range(24) if not painted[index]]
    assert len(set(places)) > len(places) // 2


def test_a_varied_world_is_the_same_world_and_tells_the_same_words(pack):
    world = World(pack, WorldConfig(split="train"))
    varied = world.seen_through(VariedPack(pack, 1, 1.0))
    assert varied == world and hash(varied) == hash(world)
    assert World(pack, WorldConfig(split="train")) != world
    for task in ("caption", "story", "process", "episode"):
        one, two = (sample(task, each, 3, 5, side=32) for each in (world, varied))
        assert [part for part in one.segments if isinstance(part, str)] == [part for part in two.segments if isinstance(part, str)]
