from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.data.sources.conftest import picture_bytes

from mm_interleaved.data.kinds import make_source
from mm_interleaved.data.mixture import Mixture
from mm_interleaved.data.sources import Skips
from mm_interleaved.data.sources.files import Pictures
from mm_interleaved.document import Image
from mm_interleaved.errors import CheckpointError, ConfigError, DataError


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Six shards of seven captions; the caption tells shard and line, every fifth picture is missing."""
    (tmp_path / "a.png").write_bytes(picture_bytes(1))
    for shard in range(6):
        lines = [{"image": "gone.png" if (7 * shard + line) % 5 == 4 else "a.png", "caption": f"{shard} {line}"} for line in range(7)]
        (tmp_path / f"part-{shard}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def source(folder: Path, name="a", files="part-{0..5}.jsonl"):
    return make_source("captions", {"name": name, "files": [str(folder / files)], "images": str(folder), "image_first": 0.0})


def words(examples):
    return [example.document.texts[0].text for example in examples]


def take(mixture, start, stop, name="a"):
    return words(mixture.take([(index, name) for index in range(start, stop)]))


USED = 34  # of 42 captions, 8 lack their picture


def test_an_epoch_gives_every_usable_sample_once_and_the_next_one_another_order(shards):
    mixture = Mixture([source(shards)], seed=3, window=5)
    first, second = take(mixture, 0, USED), take(mixture, USED, 2 * USED)
    assert len(set(first)) == USED
    assert set(first) == set(second)
    assert first != second
    assert first != sorted(first)
    assert mixture.skips.by_reason("a") == {"missing image": 16}


def test_another_seed_is_another_order_and_the_same_seed_the_same(shards):
    once, again, other = (take(Mixture([source(shards)], seed=seed, window=5), 0, 20) for seed in (0, 0, 1))
    assert once == again != other


@pytest.mark.parametrize("lanes", [1, 2, 3, 6, 7])
def test_a_mixture_goes_on_at_the_exact_sample_from_any_moment(shards, lanes):
    """7 lanes are more than there are shards: then lanes share shards by record."""
    whole = take(Mixture([source(shards)], seed=1, lanes=lanes, window=4), 0, 90)
    for moment in (0, 1, 13, 40, 77):
        first = Mixture([source(shards)], seed=1, lanes=lanes, window=4)
        assert take(first, 0, moment) == whole[:moment]
        state = json.loads(json.dumps(first.state()))
        skips = Skips()
        second = Mixture([source(shards)], seed=1, lanes=lanes, window=4, skips=skips)
        second.load(state)
        assert take(second, moment, 90) == whole[moment:]
        # What lay before was counted then, and is not counted again.
        complete = Mixture([source(shards)], seed=1, lanes=lanes, window=4)
        take(complete, 0, 90)
        assert first.skips.counts + skips.counts == complete.skips.counts


def test_going_on_opens_no_picture_of_what_came_before(shards, monkeypatch):
    first = Mixture([source(shards)], seed=1, window=4)
    take(first, 0, 60)
    opened, read = [], Pictures.read
    monkeypatch.setattr(Pictures, "read", lambda self, name, **more: opened.append(name) or read(self, name, **more))
    second = Mixture([source(shards)], seed=1, window=4)
    second.load(first.state())
    take(second, 60, 62)
    assert 2 <= len(opened) <= 4, "two samples, and those between them whose picture is missing"


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_read_together_what_one_process_reads(shards, ranks):
    whole = take(Mixture([source(shards)], seed=1, lanes=6, window=4), 0, 60)
    found = {}
    opened = []
    for rank in range(ranks):
        mixture = Mixture([source(shards)], seed=1, lanes=6, window=4)
        own = range(rank, 60, ranks)
        found |= dict(zip(own, words(mixture.take([(index, "a") for index in own])), strict=True))
        opened.append({lane for lane, _ in mixture._streams})
    assert [found[index] for index in range(60)] == whole
    assert not set.intersection(*opened), "no rank reads a lane of another"


def test_threads_change_nothing(shards):
    alone = take(Mixture([source(shards)], seed=1, lanes=6, window=4), 0, 60)
    assert take(Mixture([source(shards)], seed=1, lanes=6, window=4, threads=3), 0, 60) == alone


def test_sources_do_not_disturb_each_other(shards):
    both = Mixture([source(shards), source(shards, "b")], seed=1, window=4)
    chosen = [(index, "ab"[index % 3 == 0]) for index in range(60)]
    examples = both.take(chosen)
    own = [text for text, (_, name) in zip(words(examples), chosen, strict=True) if name == "a"]
    assert own == take(Mixture([source(shards)], seed=1, window=4), 0, len(own))
    assert Counter(example.task for example in examples) == Counter(name for _, name in chosen)


def test_a_shard_that_disappears_while_it_is_read_is_counted_and_the_others_go_on(shards, monkeypatch):
    reading = source(shards)
    mixture = Mixture([reading], seed=3, window=2)
    first = take(mixture, 0, 3)
    (shards / "part-4.jsonl").unlink()
    (shards / "part-2.jsonl").unlink()
    rest = take(mixture, 3, 60)
    assert mixture.skips.by_reason("a")["not readable"] >= 2
    assert {text.split()[0] for text in rest[30:]} == {"0", "1", "3", "5"}
    assert len(first) == 3


def test_a_source_without_one_usable_sample_says_so_instead_of_turning_for_ever(shards):
    (shards / "a.png").unlink()
    with pytest.raises(DataError, match=r"no usable sample \(\d+ × missing image\)"):
        take(Mixture([source(shards)], seed=0), 0, 1)


def test_two_sources_of_one_name_and_a_foreign_state_are_refused(shards):
    with pytest.raises(ConfigError, match="two sources are called 'a'"):
        Mixture([source(shards), source(shards)], seed=0)
    with pytest.raises(CheckpointError, match="belongs to no source"):
        Mixture([source(shards)], seed=0).load({"0/b": [0, 0, 0, 0]})


def test_the_draws_of_a_sample_depend_on_its_place_and_epoch_alone(shards):
    """Which side the picture stands on is drawn anew in the next epoch."""
    half = make_source("captions", {"name": "a", "files": [str(shards / "part-{0..5}.jsonl")], "images": str(shards)})
    sides = []
    for window in (1, 7):
        examples = Mixture([half], seed=0, window=window).take([(index, "a") for index in range(USED)])
        sides.append({example.place: isinstance(example.document[0], Image) for example in examples})
    assert sides[0] == sides[1]
    assert 5 < sum(sides[0].values()) < USED - 5
