"""The tokenizer keeps every text, learns whole words, and never takes a user's words for control tokens."""

import pytest

from mm_interleaved.errors import ConfigError
from mm_interleaved.processing.tokenizer import CONTROL_TOKENS, SMALLEST_VOCABULARY, decode_text, encode_text, train_tokenizer

TEXTS = ("draw a camel in the style of line art.", "a red camel and 12 dogs", "画一只骆驼。红色的骆驼")

STRANGE = {
    "empty": "",
    "only_spaces": "   ",
    "spaces_at_both_ends": "  a camel  ",
    "line_ends": "a\r\n\n\tb\n",
    "digits": "12 dogs, 3.50",
    "chinese": "画一只骆驼。",
    "mixed_scripts": "一只camel和2只dogs",
    "emoji": "a 👩\u200d👩\u200d👧 and 🐫",
    "combining": "e\u0301 ﬁ Å",
    "right_to_left": "جمل",
    "control_characters": "a\x00b\x7f",
    "control_tokens": "<|pad|><|begin|><|end|> <|beginofimage|> <|image|>",
    "punctuation": "don't , . ! it 's",
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
def test_decoding_gives_back_the_text_exactly(tokenizer, text):
    assert decode_text(tokenizer, encode_text(tokenizer, text)) == text


@pytest.mark.parametrize("text", ["<|image|>", "a <|beginofimage|> b", "<|end|><|pad|><|begin|>"])
def test_control_tokens_typed_by_a_user_stay_text(tokenizer, text):
    assert not set(encode_text(tokenizer, text)) & set(tokenizer.all_special_ids)


def test_control_tokens_have_the_first_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_a_word_of_the_corpus_is_one_token_with_the_space_before_it(tokenizer):
    assert len(encode_text(tokenizer, " camel")) == 1
    assert len(encode_text(tokenizer, "draw a camel")) == 3


def test_digits_stand_alone(tokenizer):
    assert len(encode_text(tokenizer, "12")) == 2


def test_a_chinese_name_is_the_same_tokens_in_every_sentence(tokenizer):
    name = encode_text(tokenizer, "骆驼")
    assert len(name) == 2
    assert encode_text(tokenizer, "红色的骆驼")[-2:] == name
    assert encode_text(tokenizer, "骆驼。")[:2] == name


def test_the_same_texts_give_the_same_tokenizer_in_any_order(tokenizer):
    again = train_tokenizer(reversed(TEXTS), 400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_vocabulary_is_never_larger_than_asked(tokenizer):
    assert len(train_tokenizer(TEXTS, SMALLEST_VOCABULARY + 3)) == SMALLEST_VOCABULARY + 3
    assert len(tokenizer) <= 400


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ConfigError, match=f"at least {SMALLEST_VOCABULARY}"):
        train_tokenizer(TEXTS, SMALLEST_VOCABULARY - 1)
