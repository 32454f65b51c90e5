"""How likely given continuations are: log-probabilities summed over their tokens, for choosing among options.

The prompt is read once; every option is read behind it and forgotten again. Source: arXiv 2401.10208, release
`generate_scores` (spec §4.3). Deviations: any number of pictures in the prompt.
Axes: T tokens of one option · V vocabulary (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mm_interleaved.document import Document, Text
from mm_interleaved.errors import GenerationError
from mm_interleaved.generation.state import DocumentState, context_limit
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.layout import lay_out
from mm_interleaved.processing.processor import MMInterleavedProcessor


@dataclass(frozen=True, slots=True)
class Score:
    """How likely one continuation is."""

    log_likelihood: float
    """Sum of the natural logarithms of its tokens' probabilities."""
    tokens: int
    """How many tokens were summed."""


def score(
    model: MMInterleavedForConditionalGeneration,
    processor: MMInterleavedProcessor,
    document: Document,
    continuations: Sequence[str | Document],
    *,
    closed: bool = False,
) -> list[Score]:
    """Scores each continuation after the document.

    Args:
        document: the prompt.
        continuations: words; no pictures.
        closed: the end of the document counts too, so that an option does not win by being the beginning of another.

    Raises:
        LayoutError: nothing in the prompt, or more tokens than the model can read.
        GenerationError: no continuation, an empty one, or a picture in one.
    """
    if not continuations:
        raise GenerationError("score: expected at least one continuation, got none.")
    limit = context_limit(model.config)
    prompt = lay_out(document, processor.tokens, prompt=len(document), closed=False, limit=limit)
    options: list[tuple[int, ...]] = []
    for number, continuation in enumerate(continuations, start=1):
        segments = (continuation,) if isinstance(continuation, str) else tuple(continuation)
        if not all(isinstance(segment, str | Text) for segment in segments):
            raise GenerationError(f"score: continuation {number} holds a picture; only words have a probability here.")
        whole = lay_out((*document, *segments), processor.tokens, closed=closed, limit=limit)
        option = whole.token_ids[len(prompt) :]
        if not option:
            raise GenerationError(f"score: continuation {number} is empty.")
        options.append(option)

    state = DocumentState(model)
    state.read(prompt)
    return [_score_one(state, option) for option in options]


@torch.no_grad()
def _score_one(state: DocumentState, option: tuple[int, ...]) -> Score:
    logits = state.next_logits()[None]  # 1 V
    if len(option) > 1:
        logits = torch.cat([logits, state.look_ahead(list(option[:-1]))])  # T V
    chosen = logits.double().log_softmax(dim=-1).gather(1, torch.tensor(option, device=logits.device)[:, None])
    return Score(float(chosen.sum()), len(option))
