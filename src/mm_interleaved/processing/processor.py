"""The processor: a tokenizer and the picture sizes of one model, saved beside its weights.

It joins what the other files of this folder do — `layout`, `collate`, `images`, `words` — under the sizes of one model, so
that documents become tokens in the same way in training, evaluation and generation.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from PIL import Image as pillow
from torch import Tensor
from transformers import AutoProcessor, PreTrainedTokenizerFast
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from mm_interleaved.batch import Batch
from mm_interleaved.document import Document, Image
from mm_interleaved.errors import ConfigError, DocumentError
from mm_interleaved.processing import layout as layouts
from mm_interleaved.processing.collate import collate
from mm_interleaved.processing.images import to_pixels
from mm_interleaved.processing.layout import Layout, Segments, TokenIds
from mm_interleaved.processing.tokenizer import BEGIN_IMAGE, IMAGE, decode_text, encode_text
from mm_interleaved.processing.words import Words

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}"
    "{%- elif part.type in ('image', 'image_url') -%}" + BEGIN_IMAGE + "{{ '" + IMAGE + "' * image_tokens }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}{%- endfor -%}"
)
"""For people to read: contents one after the other, without roles, which the model never saw. Tokens are made by `layout`."""


class MMInterleavedProcessor(ProcessorMixin):
    """Documents → batches of tensors.

    Args:
        tokenizer: has a bos, an eos and a pad token and the two picture tokens.
        image_side: side of the encoder view of a picture in pixels.
        target_side: side of painted pictures in pixels.
        image_tokens: placeholder tokens of one picture.
        context_limit: largest number of tokens of one document; None sets no limit.
        known_words: all words of the corpus, small ones too, for `unknown_words`.
        isolate_documents: positions restart at each document of a row (`Behaviour.isolate_documents`).
        minimum_context: a picture with fewer tokens before it has no image loss (`Behaviour.minimum_context`).
        strip_texts: texts lose white space at both ends (`Behaviour.strip_texts`).
        begin_image_token: name of the token that announces a picture.
        image_token: name of the placeholder.
        chat_template: Jinja text for `apply_chat_template(tokenize=False)`.

    Raises:
        ConfigError: the tokenizer lacks a control token, or a size is not positive.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        image_side: int = 224,
        target_side: int = 512,
        image_tokens: int = 64,
        context_limit: int | None = None,
        known_words: Iterable[str] = (),
        isolate_documents: bool = True,
        minimum_context: int = layouts.MINIMUM_CONTEXT,
        strip_texts: bool = False,
        begin_image_token: str = BEGIN_IMAGE,
        image_token: str = IMAGE,
        chat_template: str | None = None,
    ) -> None:
        for name, value in (("image_side", image_side), ("target_side", target_side), ("image_tokens", image_tokens)):
            if value < 1:
                raise ConfigError(f"processor: {name}: expected at least 1, got {value}.")
        self.image_side = image_side
        self.target_side = target_side
        self.image_tokens = image_tokens
        self.context_limit = context_limit
        self.known_words = list(known_words)
        self.isolate_documents = isolate_documents
        self.minimum_context = minimum_context
        self.strip_texts = strip_texts
        self.begin_image_token = begin_image_token
        self.image_token = image_token
        super().__init__(tokenizer, chat_template=CHAT_TEMPLATE if chat_template is None else chat_template)  # type: ignore[no-untyped-call]
        _ = self.tokens  # a tokenizer without control tokens fails here, not at the first picture

    @cached_property
    def tokens(self) -> TokenIds:
        """What the layout has to know: control ids, placeholders of a picture, how text becomes ids.

        Raises:
            ConfigError: the tokenizer lacks a control token.
        """
        tokenizer = self.tokenizer
        vocabulary = tokenizer.get_vocab()
        names = {
            "bos": tokenizer.bos_token,
            "eos": tokenizer.eos_token,
            "pad": tokenizer.pad_token,
            "begin-of-image": self.begin_image_token,
            "image": self.image_token,
        }
        for role, name in names.items():
            if name is None or name not in vocabulary:
                raise ConfigError(f"tokenizer: expected a {role} token, got {name!r}; add it before making the processor.")
        return TokenIds(
            begin=vocabulary[names["bos"]],
            end=vocabulary[names["eos"]],
            pad=vocabulary[names["pad"]],
            begin_image=vocabulary[names["begin-of-image"]],
            image=vocabulary[names["image"]],
            image_tokens=self.image_tokens,
            encode=self.encode,
            decode=self.decode_text,
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text; control tokens typed in it stay text."""
        return encode_text(self.tokenizer, text.strip() if self.strip_texts else text)

    def decode_text(self, token_ids: Iterable[int]) -> str:
        """The text of ids; control tokens leave no trace."""
        return decode_text(self.tokenizer, token_ids)

    def lay_out(
        self, segments: Segments, *, prompt: int = 0, closed: bool = True, limit: int | None = None, last_unread: bool = False
    ) -> Layout:
        """Lays out one document under the sizes of this model (`layout.lay_out`); `limit` None is `context_limit`.

        Raises:
            LayoutError: nothing in the document, or more tokens than the limit.
        """
        return layouts.lay_out(
            segments,
            self.tokens,
            prompt=prompt,
            closed=closed,
            limit=self.context_limit if limit is None else limit,
            minimum_context=self.minimum_context,
            last_unread=last_unread,
        )

    def open_layout(self, segments: Segments, *, limit: int | None = None) -> Layout:
        """Lays out a prompt: no end token, nothing trained.

        Raises:
            LayoutError: nothing in the document, or more tokens than the limit.
        """
        return layouts.open_layout(segments, self.tokens, limit=self.context_limit if limit is None else limit)

    def collate(
        self, laid_out: Sequence[Layout], *, targets: bool = True, pack: Sequence[Sequence[int]] | None = None, length: int | None = None
    ) -> Batch:
        """Makes a batch of layouts; `targets` False leaves the decoder views out (`collate.collate`).

        Raises:
            LayoutError: see `collate.collate`.
        """
        return collate(
            laid_out,
            image_side=self.image_side,
            target_side=self.target_side if targets else None,
            pad_id=self.tokens.pad,
            isolate=self.isolate_documents,
            pack=pack,
            length=length,
        )

    def batch(
        self,
        documents: Sequence[Segments],
        *,
        prompts: Sequence[int] | None = None,
        closed: bool = True,
        targets: bool = True,
        last_unread: Sequence[bool] | None = None,
    ) -> Batch:
        """Lays out documents, each in a row of its own, and makes a batch of them.

        Args:
            prompts: how many leading segments of each document are not trained; None trains all.
            closed: end the documents with the end token.
            targets: make the decoder views of trained pictures.
            last_unread: which documents leave a last picture unread (`layout.lay_out`); None leaves none.

        Raises:
            LayoutError: see `lay_out`.
        """
        given = [0] * len(documents) if prompts is None else prompts
        unread = [False] * len(documents) if last_unread is None else last_unread
        laid_out = [
            self.lay_out(document, prompt=prompt, closed=closed, last_unread=last)
            for document, prompt, last in zip(documents, given, unread, strict=True)
        ]
        return self.collate(laid_out, targets=targets)

    def pixels(self, picture: npt.NDArray[np.uint8] | Image) -> Float[Tensor, "3 side side"]:
        """Encoder view of one picture, in [0, 1]."""
        return to_pixels(picture.array() if isinstance(picture, Image) else picture, self.image_side)

    def unknown_words(self, text: str) -> list[tuple[str, tuple[str, ...]]]:
        """Words of a text that the model never learnt, each with the nearest known ones; nothing without `known_words`."""
        return Words(self.known_words).unknown(text)

    def to_dict(self) -> dict[str, Any]:
        """What is saved in the processor's JSON."""
        self.__dict__.pop("tokens", None)  # the base class copies all attributes; this one holds the tokenizer and is made again
        return super().to_dict()

    def document(self, messages: Sequence[Mapping[str, Any]]) -> Document:
        """Reads chat messages (`{"role": …, "content": …}`) as a document: their contents one after the other.

        A content is a string or a list of parts as in a document's JSON form; the "image" of a part may also be a picture
        in memory (`Image`, an array, a Pillow picture). Roles and system messages leave no mark: no model here saw any.

        Raises:
            DocumentError: a message without content, or a part that cannot be read.
        """
        parts: list[object] = []
        for number, message in enumerate(messages):
            content = message.get("content")
            if isinstance(content, str):
                parts.append(content)
            elif isinstance(content, Sequence):
                parts.extend(_in_memory(part) for part in content)
            else:
                raise DocumentError(f"messages[{number}]: expected content as text or a list of parts, got {type(content).__name__}.")
        return Document.from_json(parts)

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Any, chat_template: str | None = None, *, tokenize: bool = False, **kwargs: Any
    ) -> Any:
        """Chat messages as text for people to read, or (`tokenize=True`) as the tensors of an open document.

        Args:
            conversation: messages, or a list of such lists; see `document`.
        """
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template, tokenize=False, image_tokens=self.image_tokens, **kwargs)
        conversations = conversation if conversation and isinstance(conversation[0], Sequence) else [conversation]
        return self([self.document(messages) for messages in conversations], closed=False)

    def __call__(self, documents: Segments | Sequence[Segments], *, closed: bool = True) -> BatchFeature:
        """The fields of `Batch` as a mapping, for `model(**processor(document))`.

        Args:
            documents: one document (or a text, or a list of segments), or several as a list of documents or of lists of segments.
            closed: end the documents with the end token; False for prompts.

        Raises:
            LayoutError: see `lay_out`.
        """
        several = isinstance(documents, list | tuple) and all(isinstance(member, Document | list | tuple) for member in documents)
        made = self.batch(documents if several else [documents], closed=closed)  # type: ignore[arg-type, list-item]
        return BatchFeature({field.name: getattr(made, field.name) for field in fields(made)})

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that `__call__` gives."""
        return [field.name for field in fields(Batch)]

    @classmethod
    def from_args_and_dict(cls, args: Sequence[Any], processor_dict: dict[str, Any], **kwargs: Any) -> MMInterleavedProcessor:
        """Makes a processor of a loaded tokenizer and the saved values, which `kwargs` override.

        The base class reads the parameters' names from the code object of `__init__`; behind a decorator it would find none and
        silently go on with the defaults.
        """
        known = inspect.signature(cls.__init__).parameters
        values = {name: value for name, value in {**processor_dict, **kwargs}.items() if name in known and name != "tokenizer"}
        return cls(*args, **values)

    @classmethod
    def register(cls, config_class: type) -> None:
        """Makes `AutoProcessor.from_pretrained` find this class for models of a configuration class."""
        AutoProcessor.register(config_class, cls, exist_ok=True)  # type: ignore[no-untyped-call]


def _in_memory(part: object) -> object:
    """A chat part whose picture is already in memory as an `Image`; any other part as it came."""
    if not isinstance(part, Mapping) or part.get("type") != "image":
        return part
    picture = part.get("image")
    if isinstance(picture, Image):
        return picture
    if isinstance(picture, pillow.Image):
        return Image.from_array(np.asarray(picture.convert("RGB")), alt=part.get("alt", ""))
    if isinstance(picture, np.ndarray):
        return Image.from_array(picture, alt=part.get("alt", ""))
    return part
