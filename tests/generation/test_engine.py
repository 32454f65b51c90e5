"""Continuing a document: nothing is computed twice, nothing is lost, and the seed decides."""

from dataclasses import asdict, replace

import pytest
import torch

from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import ConfigError, GenerationError, LayoutError
from mm_interleaved.generation.engine import continue_document, stream
from mm_interleaved.generation.events import Finished, ImageDone, ImageProgress, TextDelta
from mm_interleaved.generation.options import SAMPLERS, Options
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.testing import tiny_model, tiny_processor
from tests.generation.conftest import QUICK, follow, picture


def images_of(document):
    return [image.sha256 for image in document.images if image.origin == "generated"]


def test_decoding_with_cache_equals_decoding_without(exact_model, processor, prompt):
    run = follow(stream(exact_model, processor, prompt, steps=2), " a cat", None, "画一只猫。", None, " and a dog")
    for _ in run:
        pass
    run.settle()
    assert len(run.document.images) == 3

    afresh = DocumentState(exact_model)
    afresh.read(processor.open_layout(run.document))

    # One row per decoded token; float64, so only the order of additions differs (measured below 1e-13).
    torch.testing.assert_close(run.state.hidden(), afresh.hidden(), rtol=0, atol=1e-9)
    torch.testing.assert_close(run.state.next_logits(), afresh.next_logits(), rtol=0, atol=1e-9)


def test_reading_a_prompt_equals_the_training_pass(exact_model, processor, prompt):
    state = DocumentState(exact_model)
    state.read(processor.open_layout(prompt))
    batch = processor.batch([prompt], closed=False, targets=False)
    with torch.no_grad():
        expected = exact_model.forward_batch(replace(batch, pixels=batch.pixels.double()), None).last_hidden_state
    torch.testing.assert_close(state.hidden(), expected, rtol=0, atol=1e-9)


def test_words_before_the_first_picture_read_alike_with_and_without_later_pictures(exact_model, processor):
    words = Document(["draw a 3D camel"])
    alone, followed = DocumentState(exact_model), DocumentState(exact_model)
    alone.read(processor.open_layout(words))
    followed.read(processor.open_layout(words + picture()))
    length = alone.position
    torch.testing.assert_close(alone.hidden(), followed.hidden()[:, :length], rtol=0, atol=1e-9)


@pytest.mark.parametrize("noise", ["flow", "ddpm"])
def test_same_seed_gives_the_same_pictures(noise, processor, prompt):
    model = tiny_model(noise=noise)
    first, second = (continue_document(model, processor, prompt, force_image=True, seed=7, **QUICK) for _ in range(2))
    assert images_of(first) == images_of(second) != []
    assert first == second


@pytest.mark.parametrize("noise", ["flow", "ddpm"])
def test_another_seed_gives_other_pictures(noise, processor, prompt):
    model = tiny_model(noise=noise)
    first, second = (continue_document(model, processor, prompt, force_image=True, seed=seed, **QUICK) for seed in (7, 8))
    assert images_of(first) != images_of(second)


def test_two_pictures_of_one_document_are_different(model, processor, prompt):
    run = follow(stream(model, processor, prompt, steps=2), None, None)
    list(run)
    assert len(set(images_of(run.document))) == 2


def test_guidance_and_steps_and_earlier_pictures_change_the_picture(model, processor, prompt):
    def paint(document=prompt, **options):
        return images_of(continue_document(model, processor, document, force_image=True, max_tokens=1, **{"steps": 2, **options}))

    other = Document([prompt[0], picture(2), prompt[2]])
    assert len({*paint(), *paint(guidance=1.0), *paint(guidance=4.0), *paint(steps=3), *paint(other)}) == 5


def test_a_generated_image_enters_the_context_as_a_given_one_would(exact_model, processor, prompt):
    run = follow(stream(exact_model, processor, prompt, steps=2), " a cat", None)
    list(run)
    run.settle()
    shown = Image.from_bytes(run.document.images[-1].data)  # saved and given again

    given = DocumentState(exact_model)
    given.read(processor.open_layout(Document([*prompt, " a cat", shown])))

    torch.testing.assert_close(run.state.next_logits(), given.next_logits(), rtol=0, atol=1e-9)


def test_every_picture_depends_only_on_what_stands_before_it(exact_model, processor, prompt):
    run = follow(stream(exact_model, processor, prompt, steps=2, seed=3), None, " a dog", None)
    list(run)
    before = Document(run.document.segments[: run.document.segments.index(run.document.images[-1])])

    again = continue_document(exact_model, processor, before, force_image=True, steps=2, seed=3, max_tokens=1)

    assert again.images[-1].sha256 == run.document.images[-1].sha256


def test_a_document_continued_in_two_runs_is_the_document_of_one_run(exact_model, processor, prompt):
    settings = {"temperature": 1.0, "seed": 5, "steps": 2}
    whole = continue_document(exact_model, processor, prompt, max_tokens=16, **settings)
    half = continue_document(exact_model, processor, prompt, max_tokens=7, **settings)
    assert continue_document(exact_model, processor, half, max_tokens=9, **settings) == whole


def test_generated_text_keeps_its_token_ids(model, processor, prompt):
    run = follow(stream(model, processor, prompt, steps=1), " a cat", None, "画一只猫。")
    list(run)
    before, after = (segment for segment in run.document if isinstance(segment, Text) and segment.origin == "generated")
    assert before == Text(" a cat", "generated", tuple(processor.encode(" a cat")))
    assert after == Text("画一只猫。", "generated", tuple(processor.encode("画一只猫。")))


def test_generated_text_at_the_end_of_the_prompt_grows_on_in_one_segment(model, processor):
    first = follow(stream(model, processor, Document(["draw"])), " a")
    list(first)
    second = follow(stream(model, processor, first.document), " cat")
    list(second)
    ids = (*processor.encode(" a"), *processor.encode(" cat"))
    assert second.document.segments == (Text("draw"), Text(" a cat", "generated", ids))


def test_characters_split_over_tokens_are_streamed_whole(model, processor, prompt):
    text = "é 骆驼 🐫!"
    deltas = [event for event in follow(stream(model, processor, prompt), text) if isinstance(event, TextDelta)]
    assert "".join(delta.text for delta in deltas) == text
    assert not any("\ufffd" in delta.text for delta in deltas)
    assert [token for delta in deltas for token in delta.token_ids] == list(processor.encode(text))


def test_bytes_that_never_become_a_character_are_shown_as_such(model, processor, prompt):
    run = stream(model, processor, prompt)
    follow(run, "驼")
    run._chooser.tokens = run._chooser.tokens[:2]
    deltas = [event.text for event in run if isinstance(event, TextDelta)]
    assert "".join(deltas) == run.document[-1].text == "\ufffd"


def test_events_tell_the_whole_story_in_order(model, processor, prompt):
    events = list(follow(stream(model, processor, prompt, steps=3, preview_every=2), " a", None))
    kinds = [type(event) for event in events]
    assert kinds == [TextDelta, ImageProgress, ImageProgress, ImageProgress, ImageProgress, ImageDone, Finished]
    assert [(event.step, event.preview is not None) for event in events if isinstance(event, ImageProgress)] == [
        (0, False),
        (1, False),
        (2, True),
        (3, False),
    ]
    assert events[-1].document.images[-1] == events[-2].image
    assert events[-1].reason == "end"


def test_a_generated_picture_knows_how_it_was_made(model, processor, prompt):
    document = continue_document(model, processor, prompt, model_hash="abc", force_image=True, seed=9, steps=2, guidance=3.0, max_tokens=1)
    made = document.images[-1]
    assert (made.origin, made.generation.seed, made.generation.model_hash) == ("generated", 9, "abc")
    assert (made.generation.steps, made.generation.guidance) == (2, 3.0)
    assert made.alt == "draw a 3D camel on a white ground."
    assert document.images[0] == prompt.images[0]


def test_a_picture_is_made_again_from_its_record_alone(model, processor, prompt):
    def paint(**record):
        return continue_document(model, processor, prompt, model_hash="abc", force_image=True, max_tokens=1, **record).images[-1]

    made = [paint(seed=4, steps=3, guidance=1.5, sampler=sampler) for sampler in SAMPLERS]
    assert len({image.sha256 for image in made}) == len(SAMPLERS)
    for image in made:
        record = asdict(image.generation)
        assert record.pop("model_hash") == "abc"
        assert paint(**record) == image


def test_begin_image_is_suppressed_after_max_images(model, processor, prompt):
    begin = processor.tokens.begin_image
    run = follow(stream(model, processor, prompt, max_images=1, steps=1), " a", None, " cat")
    list(run)
    suppressed = run._chooser.suppressed
    assert begin not in suppressed[0]
    assert suppressed[-1] == suppressed[0] | {begin}
    assert len(images_of(run.document)) == 1


def test_a_document_that_wanted_more_pictures_says_so(processor, prompt):
    model = tiny_model()
    with torch.no_grad():  # the likeliest token is always begin-of-image, then the end
        hidden = DocumentState(model)
        hidden.read(processor.open_layout(prompt))
        last = hidden.hidden()[0, -1]
        model.text_head.head.weight[processor.tokens.begin_image] = 10 * last
        model.text_head.head.weight[processor.tokens.end] = 9 * last
    *_, finished = stream(model, processor, prompt, max_images=0, max_tokens=3)
    assert finished.reason == "max_images"
    assert images_of(finished.document) == []


def test_placeholders_padding_and_ids_without_a_token_are_never_written(model, processor, prompt):
    run = follow(stream(model, processor, prompt), " a")
    list(run)
    tokens = processor.tokens
    assert {tokens.begin, tokens.pad, tokens.image} <= run._chooser.suppressed[0]
    assert not {tokens.end, tokens.begin_image} & run._chooser.suppressed[0]


@pytest.mark.parametrize("after", range(4))  # before the first token, … inside the painting
def test_stopping_keeps_what_was_made(after, model, processor, prompt):
    asked = iter(range(100))
    run = follow(stream(model, processor, prompt, steps=3, stop=lambda: next(asked) >= after), " a", None, " cat")
    *_, finished = run
    assert finished.reason == "stopped"
    assert finished.document == run.document
    assert finished.document.segments[:3] == prompt.segments
    assert len(images_of(finished.document)) == 0
    assert finished.document.texts[-1].text == (" a" if after else prompt[-1].text)


def test_an_interrupt_between_two_events_keeps_what_was_made(model, processor, prompt):
    run = follow(stream(model, processor, prompt, steps=2), " a", None, " cat", " dog")
    for event in run:
        if isinstance(event, TextDelta) and images_of(run.document):
            break
    assert run.document.segments[:4] == (*prompt.segments, Text(" a", "generated", tuple(processor.encode(" a"))))
    assert run.document.images[-1].origin == "generated"


def test_an_interrupt_inside_the_painting_keeps_what_was_made(model, processor, prompt):
    calls = iter(range(100))

    def interrupt():
        if next(calls) == 3:
            raise KeyboardInterrupt
        return False

    run = follow(stream(model, processor, prompt, steps=5, stop=interrupt), " a", None)
    with pytest.raises(KeyboardInterrupt):
        list(run)
    assert run.document.texts[-1].text == " a"
    assert images_of(run.document) == []


def test_a_full_context_ends_the_document(processor):
    model = tiny_model(context=24)
    *_, finished = follow(stream(model, processor, Document(["draw"])), "a" * 100)
    assert finished.reason == "context_full"
    assert len(processor.open_layout(finished.document)) == 24


def test_a_picture_that_does_not_fit_is_not_begun(processor):
    model = tiny_model(context=24)
    room = 24 - len(processor.open_layout(Document(["draw"]))) - model.config.image_tokens
    run = follow(stream(model, processor, Document(["draw"])), "?" * room, None)
    *_, finished = run
    assert finished.reason == "context_full"
    assert images_of(finished.document) == []


def test_no_more_pictures_than_the_model_can_look_back_on(model, processor):
    full = Document(["a", *(picture(index) for index in range(7))])
    *_, finished = follow(stream(model, processor, full), None)
    assert finished.reason == "context_full"
    with pytest.raises(GenerationError, match=r"8 pictures.*at most 7"):
        list(stream(model, processor, full + picture(7)))


def test_max_tokens_counts_a_picture_as_one(model, processor, prompt):
    *_, finished = follow(stream(model, processor, prompt, max_tokens=2, steps=1), None, "ab", "cd")
    assert finished.reason == "max_tokens"
    assert images_of(finished.document) != []


def test_an_empty_prompt_is_refused(model, processor):
    with pytest.raises(LayoutError, match="empty prompt"):
        stream(model, processor, Document([]))
    with pytest.raises(LayoutError, match="empty prompt"):
        stream(model, processor, Document([""]))


def test_a_prompt_longer_than_the_context_is_refused_before_anything_is_computed(model, processor):
    with pytest.raises(LayoutError, match="at most 256"):
        stream(model, processor, Document(["word " * 400]))


def test_control_tokens_typed_by_a_user_stay_text(model, processor):
    run = stream(model, processor, Document(["draw <|beginofimage|> <|image|> <|end|>"]))
    assert run._layout.image_begin == ()
    assert not set(run._layout.token_ids[1:]) & processor.tokens.control


def test_unknown_words_are_listed_with_the_nearest_known_ones(model, processor):
    *_, finished = stream(model, processor, Document(["draw a camal and a cat."]), max_tokens=1, max_images=0)
    found = {unknown.word: unknown.nearest for unknown in finished.unknown_words}
    assert "camel" in found["camal"]
    assert "cat" not in found


def test_forced_picture_comes_first(model, processor, prompt):
    events = list(stream(model, processor, prompt, force_image=True, max_images=1, max_tokens=1, steps=1))
    assert [type(event) for event in events] == [ImageProgress, ImageProgress, ImageDone, Finished]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_image": 1}, "nearest is 'max_images'"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"force_image": True, "max_images": 0}, "max_images is 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Options.read(options)


def test_the_random_state_of_the_caller_is_left_alone(model, processor, prompt):
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    continue_document(model, processor, prompt, force_image=True, temperature=1.0, **QUICK)
    assert torch.rand(1) == expected
    assert torch.is_grad_enabled()


def test_gradients_stay_as_the_caller_had_them_between_events(model, processor, prompt):
    for _ in follow(stream(model, processor, prompt, steps=2), " a", None):
        assert torch.is_grad_enabled()


def test_a_fresh_processor_of_the_same_texts_gives_the_same_document(model, prompt, processor):
    again = continue_document(model, tiny_processor(), prompt, **QUICK)
    assert again == continue_document(model, processor, prompt, **QUICK)
