"""Documents become these tokens and targets: ids are written out by hand, two placeholders a picture, a = 10, b = 11, …"""

import numpy as np
import pytest

from mm_interleaved.batch import IGNORED_TARGET
from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import LayoutError
from mm_interleaved.processing.layout import TokenIds, lay_out, open_layout
from mm_interleaved.processing.tokenizer import decode_text, encode_text, train_tokenizer

PICTURE = np.zeros((4, 4, 3), np.uint8)
PAD, BOS, EOS, SOI, IMG = 0, 1, 2, 3, 4
A, B, C, SPACE = 10, 11, 12, 36
X = IGNORED_TARGET
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def encode(text):
    return [10 + LETTERS.index(letter) for letter in text]


def decode(token_ids):
    return "".join(LETTERS[token - 10] for token in token_ids)


TOKENS = TokenIds(begin=BOS, end=EOS, pad=PAD, begin_image=SOI, image=IMG, image_tokens=2, encode=encode, decode=decode)

CASES = {
    # segments, prompt, token ids, targets
    "text_only": (["ab"], 0, [BOS, A, B, EOS], [A, B, EOS, X]),
    "picture_only_is_not_predicted": ([PICTURE], 0, [BOS, SOI, IMG, IMG, EOS], [X, X, X, EOS, X]),
    "picture_after_text_is_predicted": (["a", PICTURE], 0, [BOS, A, SOI, IMG, IMG, EOS], [A, SOI, X, X, EOS, X]),
    "last_placeholder_predicts_what_follows": ([PICTURE, "a"], 0, [BOS, SOI, IMG, IMG, A, EOS], [X, X, X, A, EOS, X]),
    "picture_after_picture_is_predicted": ([PICTURE, PICTURE], 0, [BOS, SOI, IMG, IMG, SOI, IMG, IMG, EOS], [X, X, X, SOI, X, X, EOS, X]),
    "prompt_text_is_not_trained": (["a", "bc"], 1, [BOS, A, B, C, EOS], [X, B, C, EOS, X]),
    "prompt_picture_is_not_trained": (["a", PICTURE, "b"], 2, [BOS, A, SOI, IMG, IMG, B, EOS], [X, X, X, X, B, EOS, X]),
    "whole_prompt_trains_the_end": (["a"], 1, [BOS, A, EOS], [X, EOS, X]),
    "texts_are_verbatim_around_pictures":
        (["a ", PICTURE, " b"], 0, [BOS, A, SPACE, SOI, IMG, IMG, SPACE, B, EOS], [A, SPACE, SOI, X, X, SPACE, B, EOS, X]),
    "empty_texts_leave_no_token": (["", "a", ""], 0, [BOS, A, EOS], [A, EOS, X]),
    "empty_text_before_a_picture_starts_nothing": (["", PICTURE], 0, [BOS, SOI, IMG, IMG, EOS], [X, X, X, EOS, X]),
}  # fmt: skip


@pytest.mark.parametrize(("segments", "prompt", "token_ids", "targets"), CASES.values(), ids=CASES.keys())
def test_document_has_these_tokens_and_targets(segments, prompt, token_ids, targets):
    layout = lay_out(segments, TOKENS, prompt=prompt)
    assert layout.token_ids == tuple(token_ids)
    assert layout.targets == tuple(targets)


def test_every_trained_target_is_the_next_token():
    layout = lay_out(["ab", PICTURE, "c", PICTURE, PICTURE, "a"], TOKENS, prompt=1)
    following = (*layout.token_ids[1:], None)
    assert all(target in (X, token) for target, token in zip(layout.targets, following, strict=True))
    assert not {IMG, BOS, PAD} & set(layout.targets)


def test_open_layout_has_no_end_and_trains_nothing():
    layout = open_layout(["a", PICTURE], TOKENS)
    assert layout.token_ids == (BOS, A, SOI, IMG, IMG)
    assert set(layout.targets) == {X}
    assert layout.image_trained == (False,)


def test_open_layout_is_the_closed_one_without_its_end():
    segments = ["ab", PICTURE, "c"]
    assert (*open_layout(segments, TOKENS).token_ids, EOS) == lay_out(segments, TOKENS).token_ids


def test_text_alone_is_one_segment_and_not_its_letters():
    assert lay_out("ab", TOKENS) == lay_out(["ab"], TOKENS)


def test_document_and_its_plain_parts_have_the_same_tokens():
    plain = lay_out(["ab", PICTURE], TOKENS)
    document = lay_out(Document([Text("ab"), Image.from_array(PICTURE)]), TOKENS)
    assert document.token_ids == plain.token_ids
    np.testing.assert_array_equal(document.images[0], PICTURE)


IMAGE_LOSS = {
    # segments, prompt, which pictures count in the image loss
    "no_context": ([PICTURE], 0, (False,)),
    "one_word_is_context": (["a", PICTURE], 0, (True,)),
    "a_picture_is_context": ([PICTURE, PICTURE], 0, (False, True)),
    "prompt_pictures_do_not_count": (["a", PICTURE, "b", PICTURE], 3, (False, True)),
    "empty_text_is_no_context": (["", PICTURE], 0, (False,)),
    "unpainted_does_not_count": (["a", None], 0, (False,)),
}


@pytest.mark.parametrize(("segments", "prompt", "trained"), IMAGE_LOSS.values(), ids=IMAGE_LOSS.keys())
def test_pictures_count_in_the_image_loss(segments, prompt, trained):
    assert lay_out(segments, TOKENS, prompt=prompt).image_trained == trained


UNREAD = {
    # segments, prompt, token ids, targets, whether the last picture is only painted
    "trained_last_picture": (["a", PICTURE], 0, [BOS, A, SOI], [A, SOI, X], True),
    "only_the_last_picture": ([PICTURE, PICTURE], 0, [BOS, SOI, IMG, IMG, SOI], [X, X, X, SOI, X], True),
    "text_comes_after_it": (["a", PICTURE, "b"], 0, [BOS, A, SOI, IMG, IMG, B, EOS], [A, SOI, X, X, B, EOS, X], False),
    "prompt_picture": (["a", PICTURE], 2, [BOS, A, SOI, IMG, IMG, EOS], [X, X, X, X, EOS, X], False),
    "picture_without_context": ([PICTURE], 0, [BOS, SOI, IMG, IMG, EOS], [X, X, X, EOS, X], False),
}


@pytest.mark.parametrize(("segments", "prompt", "token_ids", "targets", "unread"), UNREAD.values(), ids=UNREAD.keys())
def test_last_picture_that_is_only_painted_has_no_placeholders(segments, prompt, token_ids, targets, unread):
    layout = lay_out(segments, TOKENS, prompt=prompt, last_unread=True)
    assert layout.token_ids == tuple(token_ids)
    assert layout.targets == tuple(targets)
    assert layout.last_unread == unread


def test_pictures_are_where_their_begin_token_is():
    layout = lay_out(["ab", PICTURE, "c", PICTURE], TOKENS)
    assert layout.image_begin == (3, 7)
    assert [layout.token_ids[begin] for begin in layout.image_begin] == [SOI, SOI]


def test_every_token_belongs_to_its_segment():
    layout = lay_out(["ab", "", PICTURE, "c"], TOKENS)  # begin a b SOI IMG IMG c end
    assert layout.segment_start == (1, 3, 3, 6)
    assert [layout.segment_of(position) for position in range(len(layout))] == [None, 0, 0, 2, 2, 2, 3, 3]


def test_generated_text_keeps_its_tokens():
    merged = TokenIds(
        begin=BOS, end=EOS, pad=PAD, begin_image=SOI, image=IMG, image_tokens=2, encode=lambda text: [99], decode=lambda ids: "ab"
    )
    assert lay_out([Text("ab", "generated", (A, B))], merged).token_ids == (BOS, A, B, EOS)


REWRITTEN = {
    "given": Text("ab", "given", (C,)),
    "edited_after_generation": Text("ab", "generated", (A, C)),
    "generated_without_tokens": Text("ab", "generated"),
}


@pytest.mark.parametrize("text", REWRITTEN.values(), ids=REWRITTEN.keys())
def test_other_text_is_tokenized(text):
    assert lay_out([text], TOKENS).token_ids == (BOS, A, B, EOS)


@pytest.mark.parametrize("control", [PAD, BOS, EOS, SOI, IMG])
def test_kept_tokens_that_are_control_tokens_are_refused(control):
    with pytest.raises(LayoutError, match=f"segment 2.*control token {control}"):
        lay_out(["a", Text("b", "generated", (B, control))], TOKENS)


def test_control_tokens_typed_by_a_user_stay_text():
    tokenizer = train_tokenizer(["a cat"], 270)
    tokens = TokenIds(
        begin=BOS, end=EOS, pad=PAD, begin_image=SOI, image=IMG, image_tokens=2, encode=lambda text: encode_text(tokenizer, text)
    )
    typed = "<|begin|> a <|beginofimage|><|image|><|image|> cat <|end|><|pad|>"
    layout = lay_out([typed], tokens)
    assert layout.image_begin == ()
    assert not {PAD, BOS, EOS, SOI, IMG} & set(layout.token_ids[1:-1])
    assert decode_text(tokenizer, layout.token_ids[1:-1]) == typed


@pytest.mark.parametrize("segments", [[], [""], ["", ""]])
def test_empty_document_is_refused(segments):
    with pytest.raises(LayoutError, match="empty prompt"):
        lay_out(segments, TOKENS)


TOO_LONG = {
    # segments, limit, what the message says
    "text": (["abc", "abc"], 5, r"8 tokens.*at most 5: segment 2 of 2 \(a text, from token 5\)"),
    "picture": (["a", PICTURE, "b"], 4, r"7 tokens.*at most 4: segment 2 of 3 \(a picture of 3 tokens, from token 3\)"),
    "end": (["abc"], 4, r"5 tokens.*segment 1 of 1"),
}


@pytest.mark.parametrize(("segments", "limit", "message"), TOO_LONG.values(), ids=TOO_LONG.keys())
def test_document_longer_than_the_limit_is_refused_with_its_segment(segments, limit, message):
    with pytest.raises(LayoutError, match=message):
        lay_out(segments, TOKENS, limit=limit)


def test_document_as_long_as_the_limit_fits():
    assert len(lay_out(["abc"], TOKENS, limit=5)) == 5


@pytest.mark.parametrize("prompt", [-1, 2])
def test_prompt_outside_the_document_is_refused(prompt):
    with pytest.raises(LayoutError, match="prompt: expected 0 to 1"):
        lay_out(["a"], TOKENS, prompt=prompt)


@pytest.mark.parametrize("position", [-1, 3])
def test_segment_of_a_position_outside_is_refused(position):
    with pytest.raises(LayoutError, match="position: expected 0 to 2"):
        lay_out(["a"], TOKENS).segment_of(position)
