"""Words: from logits to the next token, and from tokens to characters as they come.

Axes: V vocabulary (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mm_interleaved.generation.options import Options
from mm_interleaved.generation.random import generator_for

REPLACEMENT = "\ufffd"
"""What decoding puts for bytes that are no character, or not yet."""


class TokenChooser:
    """Chooses the next token by transformers' logits processors, on the logits' own device and without waiting for it."""

    def __init__(self, options: Options) -> None:
        self.seed = options.seed
        self.sampled = options.temperature > 0
        self.processors = LogitsProcessorList()
        if options.repetition_penalty != 1:
            self.processors.append(RepetitionPenaltyLogitsProcessor(penalty=options.repetition_penalty))
        if self.sampled and options.temperature != 1:
            self.processors.append(TemperatureLogitsWarper(options.temperature))
        if self.sampled and options.top_k > 0:
            self.processors.append(TopKLogitsWarper(top_k=options.top_k))
        if self.sampled and options.top_p < 1:
            self.processors.append(TopPLogitsWarper(top_p=options.top_p))
        self._suppressed: dict[frozenset[int], Tensor] = {}  # there are two sets in a run: with and without begin-of-image

    def choose(self, logits: Float[Tensor, " V"], *, written: list[int], suppressed: frozenset[int], position: int) -> Int[Tensor, ""]:
        """The token that stands at `position`.

        Args:
            logits: of the model, for that position.
            written: tokens that this run has written, for the repetition penalty.
            suppressed: tokens that must not come.
            position: place in the document, which keys the random draw.
        """
        scores = logits.float()
        if suppressed:
            scores = scores.index_fill(0, self._indices(suppressed, logits.device), -torch.inf)
        if len(self.processors):
            seen = torch.tensor([written], dtype=torch.long, device=logits.device)
            scores = self.processors(seen, scores[None])[0]  # type: ignore[arg-type]  # asks for LongTensor
        if not self.sampled:
            return scores.argmax()
        # Dividing by exponential numbers and taking the largest draws from the distribution: what torch.multinomial does on a CPU,
        # here with the numbers of a CPU generator wherever the logits are.
        waits = torch.empty(scores.shape, pin_memory=scores.is_cuda).exponential_(generator=generator_for(self.seed, "text", position))
        return (scores.softmax(dim=0) / waits.to(scores.device, non_blocking=True)).argmax()

    def _indices(self, suppressed: frozenset[int], device: torch.device) -> Tensor:
        found = self._suppressed.get(suppressed)
        if found is None or found.device != device:
            found = self._suppressed[suppressed] = torch.tensor(sorted(suppressed), device=device)
        return found


class IncrementalDecoder:
    """Turns tokens into characters one by one; a character split over tokens comes out whole.

    Only the tokens since the last complete character are decoded, behind those of the piece before: some tokenizers write a word
    differently at the beginning of a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []
        self._pending: list[int] = []

    def add(self, token: int) -> tuple[str, tuple[int, ...]] | None:
        """The new characters and their tokens, or None while the last character is incomplete."""
        self._pending.append(token)
        text = self._new_text()
        return None if text.endswith(REPLACEMENT) else self._release(text)

    def flush(self) -> tuple[str, tuple[int, ...]] | None:
        """What is left, with replacement characters for incomplete bytes; None if nothing is."""
        released = self._release(self._new_text()) if self._pending else None
        self._before = []
        return released

    def _release(self, text: str) -> tuple[str, tuple[int, ...]]:
        released = (text, tuple(self._pending))
        self._before, self._pending = self._pending, []
        return released

    def _new_text(self) -> str:
        return decode(self._tokenizer, [*self._before, *self._pending])[len(decode(self._tokenizer, self._before)) :]


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Collection[int]) -> str:
    """Characters of tokens, exactly: no tidying of spaces; control tokens are left out."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)) if token_ids else ""
