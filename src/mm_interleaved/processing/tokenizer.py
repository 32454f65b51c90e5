"""The tokenizer of models that are trained here: byte-level BPE, so that any Unicode text comes back exactly.

Three rules decide where tokens may not reach across: every digit stands alone, every Han character stands alone (a thing's
Chinese name is the same tokens in every sentence), and elsewhere GPT-2's rule holds: a word with the one space before it,
so that " camel" is one token once the corpus has it often enough.

Released checkpoints bring their own tokenizer; only the names of the five control tokens are shared with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mm_interleaved.errors import ConfigError

PAD = "<|pad|>"
BEGIN = "<|begin|>"
END = "<|end|>"
BEGIN_IMAGE = "<|beginofimage|>"
IMAGE = "<|image|>"
CONTROL_TOKENS = (PAD, BEGIN, END, BEGIN_IMAGE, IMAGE)
"""In the order of their ids, from 0."""

SMALLEST_VOCABULARY = len(CONTROL_TOKENS) + 256
"""Control tokens and the 256 bytes; a larger vocabulary has room for merges."""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learns a byte-level BPE from texts; the same texts give the same tokenizer, in whichever order they come.

    Args:
        texts: read once; may be a generator.
        vocabulary: largest number of tokens, control tokens included. A small corpus fills fewer.

    Raises:
        ConfigError: no room for the bytes and the control tokens.
    """
    if vocabulary < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"vocabulary: expected at least {SMALLEST_VOCABULARY} (256 bytes and {len(CONTROL_TOKENS)} control tokens), got {vocabulary}."
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=[BEGIN_IMAGE, IMAGE],
        padding_side="right",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # what a user types is text, never a control token
    )


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a text: no begin, no end, and control tokens typed in it stay text."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def decode_text(tokenizer: PreTrainedTokenizerFast, token_ids: Iterable[int]) -> str:
    """The text of ids, exactly; control tokens leave no trace."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
