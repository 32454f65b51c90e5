"""Choosing the next token."""

import torch

from mm_interleaved.generation.options import Options
from mm_interleaved.generation.text import TokenChooser

LOGITS = torch.tensor([0.0, 3.0, 2.0, 1.0])


def choose(position=0, written=(), suppressed=(), **options):
    chooser = TokenChooser(Options(**options))
    return int(chooser.choose(LOGITS, written=list(written), suppressed=frozenset(suppressed), position=position))


def sampled(**options):
    return {choose(position, temperature=2.0, **options) for position in range(300)}


def test_the_likeliest_token_is_the_default():
    assert choose() == 1


def test_a_suppressed_token_is_never_chosen():
    assert choose(suppressed=[1]) == 2
    assert 1 not in sampled(suppressed=[1])


def test_sampling_reaches_every_token_and_top_k_and_top_p_bound_it():
    assert sampled() == {0, 1, 2, 3}
    assert sampled(top_k=2) == {1, 2}
    assert sampled(top_p=0.5) == {1, 2}


def test_a_draw_depends_on_seed_and_position_alone():
    draws = [choose(position, temperature=5.0, seed=seed) for seed in range(8) for position in range(8)]
    assert draws == [choose(position, temperature=5.0, seed=seed) for seed in range(8) for position in range(8)]
    assert len({tuple(draws[start : start + 8]) for start in range(0, 64, 8)}) == 8


def test_repetition_penalty_lowers_what_was_written():
    assert choose(written=[1], repetition_penalty=3.0) == 2
