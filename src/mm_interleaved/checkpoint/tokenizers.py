"""A processor around the tokenizer of an upstream language model: the two control tokens are added to it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.processing.tokenizer import BEGIN_IMAGE, IMAGE


def read_tokenizer(folder: Path, *, gguf_file: str | None = None) -> PreTrainedTokenizerFast:
    """Reads the tokenizer of a language model and adds `<|beginofimage|>` and `<|image|>` behind its entries.

    The control tokens swallow the spaces around them, as the released tokenizer's do.

    Args:
        gguf_file: name of the GGUF file in the folder that holds the tokenizer.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, legacy=True, **options)
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder} holds no readable tokenizer ({error}); give the folder of the language model.") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(f"{folder}: {type(tokenizer).__name__} has no tokenizer.json form; convert it to a fast tokenizer first.")
    known = tokenizer.get_vocab()
    for name in (BEGIN_IMAGE, IMAGE):
        if name not in known:
            tokenizer.add_tokens([AddedToken(name, lstrip=True, rstrip=True, special=True, normalized=False)], special_tokens=True)
    return tokenizer


def make_processor(tokenizer: PreTrainedTokenizerFast, config: MMInterleavedConfig, *, where: str) -> MMInterleavedProcessor:
    """Joins a tokenizer with the picture sizes of a model.

    Args:
        where: what the tokenizer was read from, for messages.

    Raises:
        ConfigError: the tokenizer has other ids than the model.
    """
    for role in ("bos", "eos", "pad"):
        token = tokenizer.convert_ids_to_tokens(getattr(config, f"{role}_token_id"))
        if token is None:
            raise ConfigError(f"{where}: the tokenizer has no entry {getattr(config, f'{role}_token_id')}, the model's {role} token.")
        setattr(tokenizer, f"{role}_token", token)
    processor = MMInterleavedProcessor(
        tokenizer,
        image_side=cast("int", config.vision_config.image_size),
        target_side=config.image_decoder_part.image_side,
        image_tokens=config.image_tokens,
        context_limit=config.text_config.max_position_embeddings,
        isolate_documents=config.behaviour_part.isolate_documents,
        minimum_context=config.behaviour_part.minimum_context,
        strip_texts=config.behaviour_part.strip_texts,
    )
    tokens = processor.tokens
    for name, found in (("begin_image_token_id", tokens.begin_image), ("image_token_id", tokens.image)):
        if getattr(config, name) != found:
            raise ConfigError(
                f"{where}: the control token has the id {found}, the model's {name} is {getattr(config, name)}; "
                "give the tokenizer that the model was trained with."
            )
    return processor
