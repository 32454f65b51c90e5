"""The pointing test: its boxes, its words, its baselines."""

import numpy as np
import pytest
import torch

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import Item, Scene, compose
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.document import Document, Image
from mm_interleaved.evaluation import pointing as measured
from mm_interleaved.evaluation.pointing import box_of, phrase, pointing, with_random_gates
from mm_interleaved.export.explanation import Look, Reading
from mm_interleaved.generation.load import Model
from mm_interleaved.generation.trace import Trace, trace_document
from mm_interleaved.testing import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def model():
    return Model(tiny_model(context=1024), tiny_processor(context=1024))


@pytest.fixture(scope="module")
def world():
    return World(Pack.load(), WorldConfig(split="test"))


def test_boxes_surround_the_drawn_pixels(world):
    pack = world.pack
    item = Item(thing=3, style=1, centre_x=0.3, centre_y=0.6, size=0.4)
    drawn = np.argwhere((compose(Scene(ground=0, items=(item,)), pack, 200) < 250).any(axis=2)) / 200
    left, top, right, bottom = box_of(item, pack)
    assert (drawn.min(axis=0) >= (top - 0.01, left - 0.01)).all()
    assert (drawn.max(axis=0) <= (bottom + 0.01, right + 0.01)).all()


def test_a_model_that_looks_at_the_object_scores_one_and_at_the_other_zero(model, world, monkeypatch):
    boxes = []
    plain = measured.box_of
    monkeypatch.setattr(measured, "box_of", lambda item, pack: boxes.append(plain(item, pack)) or boxes[-1])

    def stare(self, word, moment="read"):
        first = word.start < 0.4 * len(self.texts[word.segment])
        box = boxes[-2 if first == (moment == "read") else -1]
        centre = np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]])
        return Reading((Look(0, centre, np.ones(1)),), 0.0, (0.0,))

    english = World(world.pack, WorldConfig(split="test", chinese=0.0))
    monkeypatch.setattr(Trace, "word", stare)
    read, written, *_ = pointing(model, english, count=2)
    assert (read.score, read.other, read.words) == (1, 0, 4)
    assert (written.score, written.other) == (0, 1)
    assert 0 < read.chance < 0.5


def test_random_gates_change_only_the_gates_of_a_copy(model):
    other = with_random_gates(model, 0)
    before, after = model.network.state_dict(), other.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"language_model.layers.{layer}.synchronizer.gate" for layer in model.network.language_model.mmfs_layers}


def test_a_name_of_several_words_is_one_phrase(model):
    grey = Image.from_array(np.zeros((32, 32, 3), dtype=np.uint8))
    trace = trace_document(model.network, model.processor, Document([grey, "a hot air balloon and 一只小猫。"]))
    assert phrase(trace, "air balloon", last=False).tokens == tuple(sorted({t for word in trace.words[2:4] for t in word.tokens}))
    assert len(phrase(trace, "小猫", last=True).tokens) >= 2
