"""Prompts that are read together: as alone, in few batches, and all or nothing for each."""

import pytest
import torch

from mm_interleaved.document import Document
from mm_interleaved.errors import GenerationError
from mm_interleaved.generation import encoding, state
from mm_interleaved.generation.state import DocumentState, read_prompts
from tests.generation.conftest import picture

PROMPTS = (
    Document(["draw a cat."]),
    Document([picture(1), "draw a dog."]),
    Document([picture(2), "draw a flat cat."]),
    Document(["what is this? ", picture(3), "and this? ", picture(4), "draw a flat tree."]),
    Document(["draw a flat cat. " * 6]),
    Document([picture(5), picture(6), "what are these and where do they come from?"]),
)


def together(model, layouts, **cache):
    states = [DocumentState(model, **cache) for _ in layouts]
    read_prompts(states, layouts)
    return states


def alone(model, layout, **cache):
    found = DocumentState(model, **cache)
    found.read(layout)
    return found


def assert_equal(one, other):
    assert (one.position, one.images, len(one.features)) == (other.position, other.images, len(other.features))
    found, expected = one.tensors(), other.tensors()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.next_logits(), other.next_logits(), rtol=0, atol=1e-9)


@pytest.fixture
def layouts(processor):
    return [processor.open_layout(document) for document in PROMPTS]


def passes(model, monkeypatch):
    """Notes how many pictures and how many prompts go through the model at once."""
    encoded, read = [], []
    plain_encode, plain_read = type(model).encode_images, type(model).read
    monkeypatch.setattr(type(model), "encode_images", lambda self, pixels: encoded.append(pixels.shape[0]) or plain_encode(self, pixels))
    monkeypatch.setattr(
        type(model), "read", lambda self, embeddings, **rest: read.append(embeddings.shape[0]) or plain_read(self, embeddings, **rest)
    )
    return encoded, read


@pytest.mark.parametrize("full_enough", [0.01, 0.75])
def test_prompts_read_together_are_those_read_alone_to_float64(full_enough, exact_model, layouts, monkeypatch):
    monkeypatch.setattr(state, "FULL_ENOUGH", full_enough)
    _, read = passes(exact_model, monkeypatch)
    found = together(exact_model, layouts)
    assert len(read) < len(layouts)  # some were read together
    for one, layout in zip(found, layouts, strict=True):
        assert_equal(one, alone(exact_model, layout))


def test_what_follows_a_common_reading_follows_a_lonely_one(exact_model, layouts):
    for one, layout in zip(together(exact_model, layouts), layouts, strict=True):
        other = alone(exact_model, layout)
        for token in (7, exact_model.config.begin_image_token_id):
            one.append_token(token)
            other.append_token(token)
        one.append_image(picture(9).array())
        other.append_image(picture(9).array())
        assert_equal(one, other)


def test_a_bounded_cache_forgets_the_same_pictures_in_company(exact_model, layouts):
    room = alone(exact_model, layouts[1]).features.nbytes * 3 // 2  # for one picture, not for two
    for one, layout in zip(together(exact_model, layouts, cache_bytes=room), layouts, strict=True):
        assert len(one.features) <= 1
        assert_equal(one, alone(exact_model, layout, cache_bytes=room))


def test_the_pictures_of_all_prompts_are_encoded_in_bounded_batches(exact_model, layouts, monkeypatch):
    encoded, _ = passes(exact_model, monkeypatch)
    together(exact_model, layouts)
    assert encoded == [4, 2]
    monkeypatch.setitem(encoding.ENCODED_TOGETHER, "cpu", 5)
    together(exact_model, layouts)
    assert encoded == [4, 2, 5, 1]


def test_the_passes_over_the_words_are_bounded_too(exact_model, layouts, monkeypatch):
    _, read = passes(exact_model, monkeypatch)
    same = [layouts[1]] * 4
    together(exact_model, same)
    monkeypatch.setattr(state, "READ_TOGETHER", 2 * len(layouts[1]))
    together(exact_model, same)
    assert read == [4, 2, 2]


def test_memory_of_a_document_does_not_hold_that_of_its_company(exact_model, layouts):
    first, *_ = together(exact_model, [layouts[1]] * 4)
    single = alone(exact_model, layouts[1])
    assert first.nbytes == single.nbytes
    for name, tensor in (("hidden", first.hidden()), ("keys", first.tokens.layers[0].keys), ("values", first.features.text_values()[0])):
        assert tensor.untyped_storage().nbytes() <= 2 * first.nbytes, name
    assert first.hidden().untyped_storage().nbytes() == single.hidden().untyped_storage().nbytes()


def test_a_reading_that_fails_leaves_every_state_whole_or_untouched(exact_model, layouts, processor, monkeypatch):
    states = [DocumentState(exact_model) for _ in layouts]
    full = processor.open_layout(Document([*(picture(number) for number in range(8)), "a"]))
    with pytest.raises(GenerationError, match="8 pictures"):
        read_prompts([*states, DocumentState(exact_model)], [*layouts, full])
    assert [one.position for one in states] == [0] * len(states)

    plain, calls = type(exact_model).read, []

    def read(self, embeddings, **rest):
        calls.append(embeddings.shape[0])
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no memory")
        return plain(self, embeddings, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(type(exact_model), "read", read)
        with pytest.raises(torch.OutOfMemoryError):
            read_prompts(states, layouts)
    whole = [number for number, one in enumerate(states) if one.position]
    assert 0 < len(whole) < len(states)
    for number, layout in enumerate(layouts):
        if number in whole:
            assert_equal(states[number], alone(exact_model, layout))
        else:
            assert states[number].nbytes == 0
