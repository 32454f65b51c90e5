"""Tracing: what it hears adds up, and it leaves the model alone."""

import numpy as np
import pytest
import torch

from mm_interleaved.document import Document, Image
from mm_interleaved.errors import ConfigError
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.generation.trace import listening, trace_document
from mm_interleaved.processing.layout import open_layout
from mm_interleaved.testing import tiny_model, tiny_processor


def picture(seed, shape=(32, 32, 3), **more):
    return Image.from_array(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), **more)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def document():
    return Document(["draw a cat: ", picture(0), " the dog, 画一只猫。", picture(1, origin="generated"), " a tree", picture(2)])


@pytest.fixture(scope="module")
def trace(model, document):
    return trace_document(model, tiny_processor(), document, pictures=(1, 2), seed=3)


def test_weights_and_the_null_share_sum_to_one(trace):
    readings = [trace.word(word, moment) for word in trace.words for moment in ("read", "written")]
    readings += [trace.region(image, row, 7 - row, level) for image in (1, 2) for row in range(8) for level in range(3)]
    for reading in readings:
        assert reading.null_share + sum(look.share for look in reading.looks) == pytest.approx(1, abs=1e-5)
    for layer in range(2):
        for word in trace.words:
            one = trace.part(layers=[layer], heads=[1]).word(word)
            assert one.null_share + sum(look.share for look in one.looks) == pytest.approx(1, abs=1e-5)


def test_points_of_pictures_that_are_not_visible_never_appear(trace):
    seen = [0, 0, 1, 1, 2, 2]  # pictures before each segment
    for word in trace.words:
        reading = trace.word(word)
        assert [look.image for look in reading.looks] == list(range(seen[word.segment]))
    for image in (1, 2):
        assert [look.image for look in trace.region(image, 0, 0, 0).looks] == list(range(image))


def test_words_without_an_earlier_picture_say_so(trace):
    reading = trace.word(trace.words[0])
    assert reading.looks == ()
    assert reading.null_share == 1
    assert trace_document(tiny_model(), tiny_processor(), Document(["a cat"])).explanation().readings[1].looks == ()


def test_levels_heads_and_layers_are_parts_of_the_whole(trace):
    word = trace.words[-1]
    whole = trace.word(word)
    by_level = [trace.part(levels=[level]).word(word) for level in range(3)]
    assert sum(part.looks[0].share for part in by_level) == pytest.approx(whole.looks[0].share, abs=1e-6)
    by_layer = [trace.part(layers=[layer]).word(word) for layer in range(2)]
    assert np.mean([part.looks[0].share for part in by_layer]) == pytest.approx(whole.looks[0].share, abs=1e-6)
    assert whole.null_by_layer == pytest.approx([part.null_share for part in by_layer])


def test_traced_points_are_those_that_attend_gives(model, document, trace):
    processor = tiny_processor()
    layout = open_layout(document, processor.tokens)
    mmfs, asked = model.language_model.layers[0].synchronizer.mmfs, []
    hook = mmfs.register_forward_pre_hook(lambda module, given: asked.append(given))
    DocumentState(model).read(layout)
    hook.remove()
    query, reference, _, visible, shapes = asked[-1]
    with torch.no_grad():
        places, weights, null = mmfs.attend(query, reference, visible, shapes)
    word = trace.words[-1]
    reading = trace.part(layers=[0]).word(word)
    expected = weights[0, list(word.tokens), :, 0].sum(dim=2).mean(dim=1).sum(dim=-1).mean()
    assert reading.looks[0].share == pytest.approx(float(expected), abs=1e-6)
    assert reading.null_share == pytest.approx(float(null[0, list(word.tokens)].mean()), abs=1e-6)
    assert np.allclose(reading.looks[0].xy, places[0, list(word.tokens), :, 0].reshape(-1, 2).numpy(), atol=1e-6)


def test_tracing_leaves_outputs_bit_equal_and_removes_its_hooks(model, document):
    processor = tiny_processor()
    layout = open_layout(document, processor.tokens)
    synchronizers = {str(index): model.language_model.layers[index].synchronizer for index in model.language_model.mmfs_layers}

    def logits():
        state = DocumentState(model)
        state.read(layout)
        return state.next_logits()

    before = logits()
    with listening(synchronizers) as heard:
        during = logits()
    assert set(heard) == set(synchronizers)
    assert torch.equal(before, during)
    with pytest.raises(RuntimeError), listening(synchronizers):
        raise RuntimeError
    trace_document(model, processor, document)
    assert torch.equal(before, logits())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_the_seed_decides_the_noise(model, document, trace):
    again = trace_document(model, tiny_processor(), document, pictures=(1, 2), seed=3)
    other = trace_document(model, tiny_processor(), document, pictures=(1, 2), seed=4)
    first = trace.painted[2][0].weights
    assert np.array_equal(first, again.painted[2][0].weights)
    assert not np.array_equal(first, other.painted[2][0].weights)


def test_tokens_are_joined_to_words_and_han_characters_stand_alone(trace):
    texts = [word.text for word in trace.words]
    assert texts == ["draw", "a", "cat", ":", "the", "dog", ",", *"画一只猫。", "a", "tree"]
    for word in trace.words:
        assert trace.texts[word.segment][word.start : word.end] == word.text
        assert word.tokens


def test_places_are_fractions_of_the_whole_picture(model):
    wide = Document([picture(0, (32, 64, 3)), " a cat"])
    trace = trace_document(model, tiny_processor(), wide)
    look = trace.part(layers=[0]).word(trace.words[0]).looks[0]
    raw = trace.heard[0].places[0, trace.words[0].tokens[0], :, 0].reshape(-1, 2)
    assert np.allclose(look.xy[: len(raw)], raw * [0.5, 1] + [0.25, 0], atol=1e-6)


@pytest.mark.parametrize(("options", "message"), [({"noise_levels": (1.0,)}, "below 1"), ({"pictures": (5,)}, "numbers from 0 to 2")])
def test_wrong_wishes_are_named(options, message, model, document):
    with pytest.raises(ConfigError, match=message):
        trace_document(model, tiny_processor(), document, **options)
