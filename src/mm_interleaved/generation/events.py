"""What happens while a document is continued, in the order it happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mm_interleaved.document import Document, Image, Pixels

FinishReason: TypeAlias = Literal["end", "max_images", "max_tokens", "context_full", "stopped"]
"""Why a continuation ended.

`end`: the model ended the document. `max_images`: it ended it, but had wanted to draw more pictures than it was allowed to.
`max_tokens`: the token limit. `context_full`: no room for the next token or picture. `stopped`: the caller stopped it.
"""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More words. A character whose bytes lie in several tokens comes whole, with the last of them."""

    text: str
    """The new characters; the deltas between two pictures add up to the text between them."""
    token_ids: tuple[int, ...]
    """The tokens that these characters come from."""


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """A picture is being painted."""

    step: int
    """Denoising steps done, from 0, when the model decided to draw, to `steps`."""
    steps: int
    """Denoising steps in all."""
    preview: Pixels | None = None
    """What the picture looks like so far, (height, width, 3), 8 bits; only if previews were asked for."""


@dataclass(frozen=True, slots=True)
class ImageDone:
    """A picture is finished and has joined the context."""

    image: Image
    """The picture with its seed, model, steps and guidance."""


@dataclass(frozen=True, slots=True)
class UnknownWord:
    """A word of the prompt that the model never learnt."""

    word: str
    """As the user wrote it."""
    nearest: tuple[str, ...]
    """Known words that look like it, nearest first; may be empty."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event."""

    document: Document
    """The prompt and everything made."""
    reason: FinishReason
    """Why it ended here."""
    unknown_words: tuple[UnknownWord, ...] = ()
    """Words of the prompt that the model never learnt."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a document that could not be continued, where many are continued together; the others go on."""

    error: Exception
    """Why."""
    document: Document
    """The prompt and everything made before."""


Event: TypeAlias = TextDelta | ImageProgress | ImageDone | Finished
