"""The released tokenizer's behaviour, held to sentencepiece run piece by piece on a small model that is trained here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from mm_interleaved.checkpoint.tokenizers import make_processor, read_tokenizer
from mm_interleaved.errors import CheckpointError
from mm_interleaved.model.configuration import PUBLISHED, MMInterleavedConfig
from mm_interleaved.processing.tokenizer import BEGIN_IMAGE, IMAGE, decode_text, encode_text

CORPUS = (
    "Based on the image, please answer the question. What is the colour of the cat? The answer is: blue.",
    "Please provide an accurate answer within one word. a photo of a dog on a beach",
    "The image depicts two elephants, 12 trees and a wooden house among sunflowers.",
    "Please describe the image in detail. Provide the bounding box (012,345)(678,901)</box>",
    "猫と犬。 éàü — “quoted” text\twith tabs",
)
VOCABULARY = 400

SEGMENTS = {
    "prompt": "Based on the image, please answer the question.",
    "question": "What is the colour of the cat?",
    "no_space_before_punctuation": "The answer is: blue.",
    "digits": "12 trees (012,345)",
    "inner_spaces": "a  photo   of",
    "trailing_space": "a photo of ",
    "new_line": "one\ntwo",
    "tab": "with\ttabs",
    "bytes": "unseen: 骆驼 🐫",
    "accents": "éàü —",
    "empty": "",
    "end_of_text_typed": "</s> and <s>",
}
"""Texts between control tokens; none begins with a space or with the sign for one (docs/deviations.md)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder as Vicuna's: `tokenizer.model` and the settings beside it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "corpus.txt").write_text("\n".join(CORPUS * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=VOCABULARY,
        model_type="bpe",
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def golden(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("text", SEGMENTS.values(), ids=SEGMENTS.keys())
def test_a_text_between_control_tokens_is_what_sentencepiece_makes_of_it(
    folder: Path, golden: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    tokenizer = read_tokenizer(folder)
    ids = encode_text(tokenizer, text)
    assert ids == golden.encode(text)
    assert decode_text(tokenizer, ids) == golden.decode(ids)


def test_a_released_prompt_is_sentencepiece_segment_by_segment_and_control_tokens_swallow_spaces(
    folder: Path, golden: sentencepiece.SentencePieceProcessor
) -> None:
    tokenizer = read_tokenizer(folder)
    picture = BEGIN_IMAGE + IMAGE * 3
    for text in (
        f"Based on the image. {picture} What is the colour? {picture}The answer is:",
        f"{picture}a photo of",
        f"a dog on a beach.{picture}",
    ):
        expected: list[int] = []
        for part in re.split(f"({re.escape(BEGIN_IMAGE)}|{re.escape(IMAGE)})", text):
            if part in (BEGIN_IMAGE, IMAGE):
                expected.append(VOCABULARY + (part == IMAGE))
            else:
                expected.extend(golden.encode(part.strip(" ")))
        assert tokenizer.encode(text, add_special_tokens=False) == expected


def test_a_released_document_is_laid_out_as_the_release_tokenized_its_prompt(
    folder: Path, golden: sentencepiece.SentencePieceProcessor
) -> None:
    ids = {"begin_image_token_id": VOCABULARY, "image_token_id": VOCABULARY + 1, "pad_token_id": VOCABULARY - 1}
    config = MMInterleavedConfig(behaviour=PUBLISHED, text_config={"vocab_size": VOCABULARY + 2}, **ids)
    processor = make_processor(read_tokenizer(folder), config, where="here")
    document = ["Based on the image. ", np.zeros((4, 4, 3), np.uint8), " What is the colour?"]
    placeholders = [VOCABULARY, *[VOCABULARY + 1] * config.image_tokens]
    expected = [1, *golden.encode("Based on the image."), *placeholders, *golden.encode("What is the colour?")]
    assert list(processor.open_layout(document).token_ids) == expected
    ours = make_processor(read_tokenizer(folder), MMInterleavedConfig(text_config={"vocab_size": VOCABULARY + 2}, **ids), where="here")
    assert len(ours.open_layout(document).token_ids) > len(expected)  # the spaces stay


def test_the_control_tokens_stand_behind_the_vocabulary(folder: Path) -> None:
    tokenizer = read_tokenizer(folder)
    assert tokenizer.convert_tokens_to_ids([BEGIN_IMAGE, IMAGE]) == [VOCABULARY, VOCABULARY + 1]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable tokenizer"):
        read_tokenizer(tmp_path)
