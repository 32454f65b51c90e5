"""Many documents at once: as one by one, in any company, and one that fails or is slow fails or is slow alone."""

import numpy as np
import pytest
import torch

from mm_interleaved.document import Document
from mm_interleaved.errors import ConfigError, LayoutError
from mm_interleaved.generation import scheduler as scheduler_module
from mm_interleaved.generation.engine import continue_document
from mm_interleaved.generation.events import Failed, Finished, ImageDone, ImageProgress, TextDelta
from mm_interleaved.generation.rows import TextRows
from mm_interleaved.generation.scheduler import Scheduler
from mm_interleaved.testing import tiny_model
from tests.generation.conftest import picture

SETTINGS = {"steps": 3, "max_images": 2, "max_tokens": 14, "temperature": 1.0}


def prompts():
    return {
        "words": Document(["draw a cat."]),
        "picture": Document([picture(1), "draw a dog."]),
        "two": Document(["what is this? ", picture(2), "and this? ", picture(3), "draw a flat tree."]),
        "forced": Document(["draw a 3D camel on a white ground."]),
        "long": Document(["draw a flat cat. " * 12]),
    }


def options(name, number):
    return {**SETTINGS, "seed": number, "force_image": name != "words", "guidance": 1.0 if name == "two" else 2.0}


def run(model, processor, documents, **limits):
    """Each document's events."""
    scheduler = Scheduler(model, processor, **limits)
    for number, (name, document) in enumerate(documents.items()):
        scheduler.add(name, document, **options(name, number))
    found = {name: [] for name in documents}
    for name, event in scheduler:
        found[name].append(event)
    return found


def alone(model, processor, documents):
    return {
        name: continue_document(model, processor, document, **options(name, number))
        for number, (name, document) in enumerate(documents.items())
    }


@pytest.mark.parametrize("noise", ["flow", "ddpm"])
def test_documents_continued_together_are_those_continued_alone(noise, processor):
    model = tiny_model(noise=noise).double()
    expected = alone(model, processor, prompts())
    found = run(model, processor, prompts())
    assert sum(len(document.images) for document in expected.values()) >= 6  # the case is a real one
    for name, document in expected.items():
        made = found[name][-1].document
        assert [text.text for text in made.texts] == [text.text for text in document.texts]
        assert [one.sha256 for one in made.images] == [one.sha256 for one in document.images]


@pytest.mark.parametrize("places", [1, 4])
def test_documents_decoded_through_recorded_passes_are_those_continued_alone(places, exact_model, processor, monkeypatch):
    recorded = []
    # Without a CUDA device the pass itself is repeated on what stands in its tensors.
    monkeypatch.setattr("mm_interleaved.generation.rows.record", lambda run, device: recorded.append(run) or run)
    expected = alone(exact_model, processor, prompts())
    found = run(exact_model, processor, prompts(), places=places, recorded=True)
    assert recorded
    for name, document in expected.items():
        assert [text.text for text in found[name][-1].document.texts] == [text.text for text in document.texts]


@pytest.mark.parametrize("limits", [{"places": 2}, {"places": 3, "painted_together": 1}, {"places": 1}])
def test_the_company_does_not_matter(limits, exact_model, processor):
    expected = alone(exact_model, processor, prompts())
    found = run(exact_model, processor, prompts(), **limits)
    assert {name: events[-1].document for name, events in found.items()} == expected


def test_states_after_a_batch_are_those_of_one_document_to_float64(exact_model, processor):
    scheduler = Scheduler(exact_model, processor)
    documents = prompts()
    for number, (name, document) in enumerate(documents.items()):
        scheduler.add(name, document, **options(name, number))
    runs, checked = {}, 0
    for name, event in scheduler:
        runs |= {place.name: place.run for place in scheduler._running}
        if isinstance(event, Finished):
            one = runs[name]
            scheduler._part([place for place in scheduler._running if place.name == name])
            one.settle()
            afresh = type(one.state)(exact_model)
            afresh.read(processor.open_layout(one.document))
            torch.testing.assert_close(one.state.hidden(), afresh.hidden(), rtol=0, atol=1e-9)
            for kept, new in zip(one.state.tokens.layers, afresh.tokens.layers, strict=True):
                torch.testing.assert_close(kept.keys, new.keys, rtol=0, atol=1e-9)
            checked += 1
    assert checked == len(documents)


def test_events_of_a_document_come_in_their_own_order(model, processor):
    for events in run(model, processor, prompts()).values():
        assert isinstance(events[-1], Finished)
        steps = [event.step for event in events if isinstance(event, ImageProgress)]
        assert steps == [0, 1, 2, 3] * (len(steps) // 4)
        words = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert words == "".join(text.text for text in events[-1].document.texts if text.origin == "generated")


def test_documents_write_and_are_painted_in_common_batches(model, processor, monkeypatch):
    written, painted = [], []
    plain_read, plain_predict = TextRows.read, type(model).predict_noise
    monkeypatch.setattr(TextRows, "read", lambda rows, states, tokens: written.append(len(states)) or plain_read(rows, states, tokens))
    monkeypatch.setattr(
        type(model), "predict_noise", lambda self, latents, *rest: painted.append(latents.shape[0]) or plain_predict(self, latents, *rest)
    )
    documents = {number: Document(["draw a cat."]) for number in range(4)}
    run(model, processor, documents)
    assert max(written) == 4
    assert max(painted) >= 4  # two branches of at least two pictures


def test_prompts_admitted_together_are_read_in_one_batch(model, processor, monkeypatch):
    encoded, plain = [], type(model).encode_images
    monkeypatch.setattr(type(model), "encode_images", lambda self, pixels: encoded.append(pixels.shape[0]) or plain(self, pixels))
    scheduler = Scheduler(model, processor)
    for number in range(6):
        scheduler.add(number, Document([picture(number), "draw a cat."]), max_images=0, max_tokens=2)
    assert sum(isinstance(event, Finished) for _, event in scheduler) == 6
    assert encoded == [4, 2]


def test_those_in_progress_wait_for_one_batch_of_prompts_per_turn(model, processor, monkeypatch):
    monkeypatch.setattr(scheduler_module, "READ_PICTURES", 2)
    read, painted = [], []
    plain_read, plain_predict = scheduler_module.read_prompts, type(model).predict_noise
    monkeypatch.setattr(scheduler_module, "read_prompts", lambda states, layouts: read.append(len(painted)) or plain_read(states, layouts))
    monkeypatch.setattr(
        type(model), "predict_noise", lambda self, latents, *rest: painted.append(latents.shape[0]) or plain_predict(self, latents, *rest)
    )
    scheduler = Scheduler(model, processor, places=7)
    scheduler.add("first", Document(["draw a cat."]), steps=9, force_image=True, max_tokens=1)
    for name, event in scheduler:
        if name == "first" and isinstance(event, ImageProgress) and event.step == 1:
            for number in range(6):
                scheduler.add(number, Document([picture(number), "draw a cat."]), max_images=0, max_tokens=2)
    assert read == [0, 1, 2, 3]  # the first one, then two prompts before each of its steps


def test_a_prompt_that_fails_in_a_batch_fails_alone_and_the_others_are_read_once(exact_model, processor, monkeypatch):
    plain, read = type(exact_model).embed, []

    def embed(self, ids, image_tokens=None):
        if ids.shape[1] > 1:
            if (ids == bad).any():
                raise RuntimeError("a word that cannot be read")
            read.extend(range(ids.shape[0]))
        return plain(self, ids, image_tokens)

    documents = {**prompts(), "bad": Document([picture(7), "draw 7 Zebras!"])}
    known = {token for name in prompts() for token in processor.open_layout(documents[name]).token_ids}
    bad = next(token for token in processor.open_layout(documents["bad"]).token_ids if token not in known)
    scheduler = Scheduler(exact_model, processor)
    for name, document in documents.items():
        scheduler.add(name, document, max_images=0, max_tokens=3)
    expected = {
        name: continue_document(exact_model, processor, document, max_images=0, max_tokens=3) for name, document in prompts().items()
    }
    monkeypatch.setattr(type(exact_model), "embed", embed)
    found = dict(scheduler)
    assert isinstance(found.pop("bad"), Failed)
    assert {name: event.document for name, event in found.items()} == expected
    assert len(read) == len(expected)


def test_a_slow_document_does_not_hold_up_the_others(model, processor):
    scheduler = Scheduler(model, processor)
    scheduler.add("slow", Document(["draw a cat."]), steps=200, force_image=True, max_tokens=1)
    scheduler.add("quick", Document(["draw a dog."]), steps=2, force_image=True, max_tokens=6)
    order = [name for name, event in scheduler if isinstance(event, Finished)]
    assert order == ["quick", "slow"]


def test_a_document_may_come_while_others_are_under_way(model, processor):
    scheduler = Scheduler(model, processor, places=2)
    scheduler.add("first", Document(["draw a cat."]), steps=20, force_image=True, max_tokens=1)
    order = []
    for name, event in scheduler:
        if isinstance(event, ImageProgress) and event.step == 2 and name == "first":
            assert scheduler.free == 1
            scheduler.add("late", Document(["draw a dog."]), max_tokens=2, max_images=0)
            assert scheduler.activities == {"waiting": 1, "writing": 0, "painting": 1}
        if isinstance(event, Finished):
            order.append(name)
    assert order == ["late", "first"]


def test_a_document_can_be_given_up_and_keeps_what_was_made(model, processor):
    scheduler = Scheduler(model, processor)
    for number in range(3):
        scheduler.add(number, Document(["draw a cat."]), force_image=True, **{**SETTINGS, "seed": number})
    kept, finished = None, []
    for name, event in scheduler:
        if isinstance(event, ImageDone) and name == 1 and kept is None:
            kept = scheduler.remove(1)
        assert name != 1 or kept is None or isinstance(event, ImageDone)
        finished += [name] if isinstance(event, Finished) else []
    assert len(kept.images) == 1
    assert sorted(finished) == [0, 2]


def test_each_document_has_its_own_stop(model, processor):
    scheduler = Scheduler(model, processor)
    scheduler.add("stopped", Document(["draw a cat."]), stop=lambda: True, **SETTINGS)
    scheduler.add("free", Document(["draw a cat."]), **SETTINGS)
    reasons = {name: event.reason for name, event in scheduler if isinstance(event, Finished)}
    assert reasons["stopped"] == "stopped" != reasons["free"]


def test_a_document_that_cannot_be_continued_fails_alone(model, processor):
    documents = {**prompts(), "too long": Document(["word " * 400]), "full": Document([*(picture(number) for number in range(8)), "a"])}
    found = run(model, processor, documents)
    assert isinstance(found["too long"][-1], Failed)
    assert isinstance(found["too long"][-1].error, LayoutError)
    assert isinstance(found["full"][-1], Failed)
    assert "8 pictures" in str(found["full"][-1].error)
    assert all(isinstance(found[name][-1], Finished) for name in prompts())


def test_wrong_settings_are_named_when_a_document_is_added(model, processor):
    with pytest.raises(ConfigError, match="steps"):
        Scheduler(model, processor).add("a", Document(["a"]), steps=0)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_batch_too_large_for_the_memory_is_done_in_halves(most, exact_model, processor, monkeypatch):
    expected = alone(exact_model, processor, prompts())
    plain_read, plain_predict = TextRows.read, type(exact_model).predict_noise
    plain_prompts = scheduler_module.read_prompts

    def read_prompts(states, layouts):
        if len(states) > most:
            raise torch.OutOfMemoryError("no memory")
        return plain_prompts(states, layouts)

    def read(rows, states, tokens):
        if len(states) > most:
            raise torch.OutOfMemoryError("no memory")
        return plain_read(rows, states, tokens)

    def predict(self, latents, timestep, condition, caches, rows):
        if len(caches) > most:
            raise torch.OutOfMemoryError("no memory")
        return plain_predict(self, latents, timestep, condition, caches, rows)

    monkeypatch.setattr(scheduler_module, "read_prompts", read_prompts)
    monkeypatch.setattr(TextRows, "read", read)
    monkeypatch.setattr(type(exact_model), "predict_noise", predict)
    found = run(exact_model, processor, prompts())
    assert {name: events[-1].document for name, events in found.items()} == expected


def test_a_document_whose_picture_fails_keeps_its_words_and_leaves_the_others_alone(exact_model, processor, monkeypatch):
    plain = type(exact_model).predict_noise

    def predict(self, latents, timestep, condition, caches, rows):
        if any(len(cache) == 2 for cache in caches):
            raise RuntimeError("no memory for two pictures")
        return plain(self, latents, timestep, condition, caches, rows)

    monkeypatch.setattr(type(exact_model), "predict_noise", predict)
    documents = {name: prompts()[name] for name in ("forced", "two")}
    scheduler = Scheduler(exact_model, processor)
    for name, document in documents.items():
        scheduler.add(name, document, steps=2, force_image=True, max_images=1, max_tokens=4)
    found = dict(scheduler)  # the last one of each
    assert isinstance(found["two"], Failed) and found["two"].document.images == documents["two"].images
    assert isinstance(found["forced"], Finished) and len(found["forced"].document.images) == 1


def test_memory_is_reported_and_given_back(model, processor):
    scheduler = Scheduler(model, processor)
    for number in range(2):
        scheduler.add(number, prompts()["two"], **SETTINGS)
    most = max(scheduler.nbytes for _ in scheduler)
    assert most > 2 * 2 * 84 * 16 * 4  # at least the values of two pictures in two documents
    assert scheduler._running == []
    assert scheduler.documents == {}


def test_float32_batches_differ_by_rounding_only(model, processor):
    expected = alone(model, processor, prompts())
    for name, events in run(model, processor, prompts()).items():
        for one, other in zip(events[-1].document.images, expected[name].images, strict=True):
            assert np.abs(one.array().astype(int) - other.array().astype(int)).max() <= 2
