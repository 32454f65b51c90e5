"""The state of a document: branched, rolled back, saved and gone on with, always without reading the prefix again."""

import pytest
import torch

from mm_interleaved.document import Image, Text
from mm_interleaved.errors import CheckpointError, GenerationError
from mm_interleaved.generation.engine import continue_document, stream
from mm_interleaved.generation.events import ImageDone, ImageProgress, TextDelta
from mm_interleaved.generation.saving import DOCUMENT, load_continuation, save_continuation
from mm_interleaved.generation.state import DocumentState
from tests.generation.conftest import follow

SETTINGS = {"temperature": 1.0, "seed": 5, "steps": 2, "max_tokens": 16}


def count_reads(model, monkeypatch):
    """Tokens that each pass of the language model reads from here on."""
    lengths = []
    plain = type(model).read
    monkeypatch.setattr(
        type(model), "read", lambda self, embeddings, **rest: lengths.append(embeddings.shape[1]) or plain(self, embeddings, **rest)
    )
    return lengths


def assert_read_like(run, processor):
    """The state is that of somebody who read the whole document afresh."""
    run.settle()
    afresh = DocumentState(run.model)
    afresh.read(processor.open_layout(run.document))
    # float64: only the order of additions differs.
    torch.testing.assert_close(run.state.hidden(), afresh.hidden(), rtol=0, atol=1e-9)
    torch.testing.assert_close(run.state.next_logits(), afresh.next_logits(), rtol=0, atol=1e-9)
    assert (run.state.position, run.state.images) == (afresh.position, afresh.images)


def up_to(run, kind, number=1):
    for event in run:
        number -= isinstance(event, kind)
        if not number:
            return run
    raise AssertionError("it ended before")


@pytest.mark.parametrize("kind", [None, TextDelta, ImageProgress, ImageDone])
def test_a_saved_document_goes_on_as_if_it_had_not_been_saved(kind, model, processor, prompt, tmp_path):
    whole = continue_document(model, processor, prompt, force_image=True, **SETTINGS)
    run = stream(model, processor, prompt, force_image=True, **SETTINGS)
    if kind is not None:  # None: nothing was read yet
        up_to(run, kind)
    resumed = load_continuation(model, processor, save_continuation(run, tmp_path / "paused"))
    for _ in resumed:
        pass
    assert resumed.document == whole
    for _ in run:  # the one that was saved goes on as well
        pass
    assert run.document == whole


def test_nothing_of_the_prefix_is_read_again(model, processor, prompt, tmp_path, monkeypatch):
    run = up_to(stream(model, processor, prompt, force_image=True, **SETTINGS), ImageDone)
    save_continuation(run, tmp_path)
    read = count_reads(model, monkeypatch)
    monkeypatch.setattr(model, "encode_images", lambda pixels: pytest.fail("a picture was encoded again"))
    resumed = load_continuation(model, processor, tmp_path, max_images=1)
    branched = run.branch(seed=8, max_images=1)
    for one in (resumed, branched):
        for _ in one:
            pass
    assert set(read) == {1}


def test_a_branch_leaves_its_origin_as_it_was(exact_model, processor, prompt):
    run = up_to(follow(stream(exact_model, processor, prompt, steps=2), " a cat", None, " and a dog"), TextDelta)
    branch = follow(run.branch(), " bird", None)
    for _ in branch:
        pass
    for _ in run:
        pass
    assert [text.text for text in branch.document.texts[-2:]] != [text.text for text in run.document.texts[-2:]]
    assert len(branch.document.images) == len(run.document.images) == 2
    assert_read_like(branch, processor)
    assert_read_like(run, processor)


def test_branches_with_another_seed_differ_and_with_the_same_do_not(model, processor, prompt):
    run = up_to(stream(model, processor, prompt, force_image=True, **SETTINGS), ImageProgress)
    first, second, third = (run.branch(), run.branch(), run.branch(seed=6))
    for one in (first, second, third):
        for _ in one:
            pass
    assert first.document == second.document != third.document


def test_every_segment_can_be_taken_back(exact_model, processor, prompt):
    run = follow(stream(exact_model, processor, prompt, steps=2), " a cat", None, "画一只猫。", None)
    for _ in run:
        pass
    kinds = []
    while len(run.document) > 1:
        kinds.append(type(run.roll_back()))
        assert_read_like(run, processor)
    assert kinds == [Image, Text, Image, Text, Text, Image]
    with pytest.raises(GenerationError, match="one segment"):
        run.roll_back()


def test_a_segment_taken_back_can_be_made_again(model, processor, prompt):
    whole = up_to(stream(model, processor, prompt, force_image=True, max_images=1, **SETTINGS), ImageDone)
    document = whole.document
    taken = whole.roll_back()
    assert whole.document == prompt
    again = up_to(whole, ImageDone)
    assert again.document == document and again.document.images[-1] == taken


def test_an_unfinished_picture_can_be_taken_back(exact_model, processor, prompt):
    run = up_to(follow(stream(exact_model, processor, prompt, steps=3), " a", None), ImageProgress, 2)
    assert run.roll_back() is None
    assert run.document[-1].text == " a"
    assert_read_like(run, processor)


def test_a_damaged_or_foreign_state_is_named(model, processor, prompt, tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        load_continuation(model, processor, tmp_path)
    run = up_to(stream(model, processor, prompt, **SETTINGS), TextDelta)
    save_continuation(run, tmp_path)
    with pytest.raises(CheckpointError, match="without a hash"):
        load_continuation(model, processor, tmp_path, model_hash="other")
    content = (tmp_path / DOCUMENT).read_text()
    (tmp_path / DOCUMENT).write_text(content[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_continuation(model, processor, tmp_path)
    (tmp_path / DOCUMENT).write_text(content)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_continuation(model, processor, tmp_path)


def test_saving_again_leaves_one_state(model, processor, prompt, tmp_path):
    run = stream(model, processor, prompt, force_image=True, **SETTINGS)
    for kind in (ImageProgress, ImageDone):
        save_continuation(up_to(run, kind), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
