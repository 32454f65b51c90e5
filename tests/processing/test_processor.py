"""The processor survives saving, reads chat messages, and knows which words were never learnt."""

import numpy as np
import pytest
import torch
from PIL import Image as pillow
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedTokenizerFast

from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import ConfigError, DocumentError, LayoutError
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.processing.tokenizer import train_tokenizer

PICTURE = np.full((6, 8, 3), 50, np.uint8)
KNOWN = ("draw", "a", "camel", "hot air balloon", "骆驼", "一只", "画")


@pytest.fixture(scope="module")
def processor():
    return MMInterleavedProcessor(
        train_tokenizer(["draw a camel", "画一只骆驼"], 300),
        image_side=4,
        target_side=8,
        image_tokens=2,
        context_limit=40,
        known_words=KNOWN,
    )


def messages(picture):
    parts = [{"type": "text", "text": "draw "}, {"type": "image", "image": picture}]
    return [{"role": "user", "content": parts}, {"role": "user", "content": "again"}]


def test_saved_processor_comes_back_equal(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = MMInterleavedProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.known_words == list(KNOWN)
    assert loaded.chat_template == processor.chat_template
    text = "draw <|image|> 骆驼"
    assert loaded.lay_out([text]) == processor.lay_out([text])


def test_saved_values_can_be_overridden_on_loading(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = MMInterleavedProcessor.from_pretrained(tmp_path, context_limit=7)
    assert (loaded.context_limit, loaded.image_side) == (7, 4)


def test_auto_processor_finds_it_by_the_configuration(processor, tmp_path):
    class ProcessorTestConfig(PreTrainedConfig):
        model_type = "mm_interleaved_processor_test"

    AutoConfig.register(ProcessorTestConfig.model_type, ProcessorTestConfig, exist_ok=True)
    MMInterleavedProcessor.register(ProcessorTestConfig)
    processor.save_pretrained(tmp_path)
    ProcessorTestConfig().save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), MMInterleavedProcessor)


def test_control_tokens_typed_by_a_user_stay_text(processor):
    layout = processor.lay_out(["draw <|beginofimage|>"])
    assert layout.image_begin == ()
    assert processor.decode_text(layout.token_ids) == "draw <|beginofimage|>"


def test_batch_has_the_sizes_of_the_model(processor):
    batch = processor.batch([["draw", PICTURE], ["a camel"]], prompts=[0, 0])
    assert batch.pixels.shape == (1, 3, 4, 4)
    assert batch.target_pixels.shape == (1, 3, 8, 8)
    assert (batch.token_ids == processor.tokens.image).sum() == 2


def test_prompts_and_decoder_views_can_be_left_out(processor):
    batch = processor.batch([["draw", PICTURE]], prompts=[2], closed=False, targets=False)
    assert len(batch.target_pixels) == 0
    assert (batch.targets < 0).all()


def test_published_positions_count_through_the_row():
    published = MMInterleavedProcessor(train_tokenizer([], 261), isolate_documents=False)
    layouts = [published.lay_out(["a"]), published.lay_out(["b"])]
    assert published.collate(layouts, pack=[(0, 1)]).position_ids.tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("given", ["draw", ["draw"], Document(["draw"]), [["draw"]], [Document(["draw"])]], ids=str)
def test_one_document_may_be_given_in_every_form(processor, given):
    expected = processor.batch([["draw"]])
    inputs = processor(given)
    torch.testing.assert_close(inputs["token_ids"], expected.token_ids)
    assert list(inputs) == processor.model_input_names


def test_the_context_limit_of_the_model_holds(processor):
    with pytest.raises(LayoutError, match="at most 40"):
        processor.open_layout(["draw a camel" * 40])
    assert len(processor.lay_out(["x" * 50], limit=60)) == 52


def test_encoder_view_is_that_of_the_batch(processor):
    torch.testing.assert_close(processor.pixels(Image.from_array(PICTURE)), processor.batch([[PICTURE]]).pixels[0])


PICTURES = {"array": PICTURE, "pillow": pillow.fromarray(PICTURE), "image": Image.from_array(PICTURE)}
PICTURES["data_uri"] = Document([PICTURES["image"]]).to_json()["segments"][0]["image"]


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_chat_messages_are_read_as_a_document(processor, picture):
    document = processor.document(messages(picture))
    assert [type(segment) for segment in document] == [Text, Image, Text]
    np.testing.assert_array_equal(document.images[0].array(), PICTURE)


def test_chat_template_shows_the_text_and_gives_the_tokens_of_an_open_document(processor):
    shown = processor.apply_chat_template(messages(PICTURE))
    assert shown == "draw <|beginofimage|><|image|><|image|>again"
    inputs = processor.apply_chat_template(messages(PICTURE), tokenize=True)
    assert tuple(inputs["token_ids"][0].tolist()) == processor.open_layout(["draw ", PICTURE, "again"]).token_ids
    both = processor.apply_chat_template([messages(PICTURE), messages(PICTURE)], tokenize=True)
    assert both["token_ids"].shape[0] == 2


@pytest.mark.parametrize("content", [None, 3])
def test_message_without_content_is_refused(processor, content):
    with pytest.raises(DocumentError, match=r"messages\[0\]: expected content"):
        processor.document([{"role": "user", "content": content}])


UNKNOWN = {
    # text, unknown words with the nearest known ones
    "all_known": ("Draw a CAMEL, 12 times", [("times", ())]),
    "misspelt": ("draw a camle", [("camle", ("camel",))]),
    "part_of_a_name_is_known": ("a balloon", []),
    "each_once": ("camle camle", [("camle", ("camel",))]),
    "chinese_known": ("画一只骆驼", []),
    "chinese_unknown_between_known": ("画一只骆马", [("骆马", ("骆驼",))]),
    "chinese_unknown_before_known": ("狗骆驼", [("狗", ())]),
    "mixed": ("draw 狗", [("狗", ())]),
}


@pytest.mark.parametrize(("text", "expected"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_words_never_learnt_are_listed_with_the_nearest(processor, text, expected):
    assert processor.unknown_words(text) == expected


def test_without_known_words_nothing_is_called_unknown():
    assert MMInterleavedProcessor(train_tokenizer([], 261)).unknown_words("anything 任何") == []


def test_tokenizer_without_picture_tokens_is_refused():
    backend = train_tokenizer([], 261).backend_tokenizer
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>")
    with pytest.raises(ConfigError, match="expected a image token"):
        MMInterleavedProcessor(plain, image_token="<image>")


@pytest.mark.parametrize("size", ["image_side", "target_side", "image_tokens"])
def test_sizes_below_one_are_refused(size):
    with pytest.raises(ConfigError, match=size):
        MMInterleavedProcessor(train_tokenizer([], 261), **{size: 0})
