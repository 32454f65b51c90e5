"""Beam search as the release did it: transformers 4.31 with its wider choice of candidates.

    score = Σ log p / (tokens including the placeholder bos, without the stop token) ** length_penalty

It differs from transformers' `generate` of today in what a finished text's length counts, in how many candidates are looked at, and
in which stop token is written behind a text; held to recorded cases in tests/parity.

Source: release `models/utils/monkey_patch/beam_search_monkey_patch.py` over transformers 4.31 (spec §4.1).
Axes: B rows of the prompt · R = B · beams · T tokens so far · V vocabulary (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessorList

Advance = Callable[[Tensor, Tensor], Tensor]
"""(next token of each of R rows, the row that each one continues) → logits of the token after, `R V`."""

UNLIKELY = -1e9
"""Start of all beams but the first, so that the first step does not choose the same token for each."""


class _Finished:
    """The best finished texts of one prompt, at most as many as there are beams."""

    def __init__(self, beams: int, length_penalty: float) -> None:
        self.beams = beams
        self.length_penalty = length_penalty
        self.settled = False
        """No open beam can beat what is here."""
        self._texts: list[tuple[float, list[int]]] = []

    def add(self, token_ids: list[int], log_probability: float) -> None:
        """Keeps a text if it is among the best; `token_ids` begin with the placeholder and end before the stop token."""
        score = log_probability / len(token_ids) ** self.length_penalty
        if len(self._texts) == self.beams:
            worst = self._worst()
            if score <= worst[0]:
                return
            self._texts.remove(worst)
        self._texts.append((score, token_ids))

    def settle(self, best_open: float, length: int) -> None:
        """Compares with what the best open beam has now; a longer text could still score higher, which the release ignores."""
        full = len(self._texts) == self.beams
        self.settled = self.settled or (full and self._worst()[0] >= best_open / length**self.length_penalty)

    def best(self, count: int) -> list[list[int]]:
        return [token_ids for _, token_ids in sorted(self._texts, key=lambda text: text[0])[::-1][:count]]

    def _worst(self) -> tuple[float, list[int]]:
        return min(self._texts, key=lambda text: text[0])


@torch.no_grad()
def beam_search(
    logits: Float[Tensor, "R V"],
    advance: Advance,
    *,
    beams: int,
    processors: LogitsProcessorList,
    begin: int,
    stop: Sequence[int],
    pad: int,
    longest: int,
    length_penalty: float,
    returned: int,
) -> Int[Tensor, "Texts T"]:
    """Finds the likeliest continuations of each prompt.

    Args:
        logits: of the first new token; the beams of a prompt stand together and are still equal.
        advance: reads one token per beam; the caches are to follow the beams.
        processors: applied to log-probabilities, with the placeholder and the new tokens as ids.
        begin: the placeholder that every text begins with.
        stop: tokens that end a text; whichever it was, the first of them is written behind it.
        longest: length of a text at most, counting the placeholder.
        returned: texts per prompt, best first.
    """
    rows, vocabulary = logits.shape[0] // beams, logits.shape[-1]
    tokens = torch.full((rows * beams, 1), begin, dtype=torch.long, device=logits.device)
    totals = torch.full((rows, beams), UNLIKELY, device=logits.device)
    totals[:, 0] = 0.0
    finished = [_Finished(beams, length_penalty) for _ in range(rows)]
    # Each beam can offer every stop token once, so that one more candidate than stop tokens always leaves enough to go on with.
    candidates = max(2, 1 + len(stop)) * beams
    while True:
        scores = processors(tokens, logits.float().log_softmax(dim=-1))  # type: ignore[arg-type]  # asks for LongTensor
        scores = scores.view(rows, beams, vocabulary) + totals[:, :, None]
        top = scores.flatten(1).topk(candidates, dim=1)
        open_beams: list[tuple[float, int, int]] = []  # log-probability, token, the row it continues
        for row, (values, places) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True)):
            if finished[row].settled:
                open_beams += [(0.0, pad, row * beams)] * beams
                continue
            kept: list[tuple[float, int, int]] = []
            for rank, (value, place) in enumerate(zip(values, places, strict=True)):
                origin, token = row * beams + place // vocabulary, place % vocabulary
                if token not in stop:
                    kept.append((value, token, origin))
                elif rank < beams:
                    finished[row].add(tokens[origin].tolist(), value)
                if len(kept) == beams:
                    break
            finished[row].settle(values[0], tokens.shape[1] + 1)
            open_beams += kept
        chosen = torch.tensor([token for _, token, _ in open_beams], device=tokens.device)
        origins = torch.tensor([origin for _, _, origin in open_beams], device=tokens.device)
        totals = torch.tensor([value for value, _, _ in open_beams], device=tokens.device).view(rows, beams)
        tokens = torch.cat([tokens[origins], chosen[:, None]], dim=1)
        if tokens.shape[1] >= longest or all(row.settled for row in finished):
            break
        logits = advance(chosen, origins)

    for row, (texts, values) in enumerate(zip(tokens.view(rows, beams, -1).tolist(), totals.tolist(), strict=True)):
        if not finished[row].settled:
            for text, value in zip(texts, values, strict=True):
                finished[row].add(text, value)
    return _side_by_side([text for row in finished for text in row.best(returned)], stop[0], pad, longest).to(tokens.device)


def _side_by_side(texts: list[list[int]], stop: int, pad: int, longest: int) -> Int[Tensor, "Texts T"]:
    width = min(max(len(text) for text in texts) + 1, longest)
    return torch.tensor([(text + [stop] + [pad] * width)[:width] for text in texts])
