"""Scores of given continuations."""

import pytest
import torch

from mm_interleaved.document import Document
from mm_interleaved.errors import GenerationError, LayoutError
from mm_interleaved.generation.score import score
from mm_interleaved.generation.state import DocumentState
from tests.generation.conftest import picture


@pytest.mark.parametrize("closed", [False, True])
def test_a_score_is_the_sum_of_the_log_probabilities_of_its_tokens(closed, exact_model, processor, prompt):
    found = score(exact_model, processor, prompt, [" a cat", "狗"], closed=closed)
    start = len(processor.open_layout(prompt))
    for option, got in zip([" a cat", "狗"], found, strict=True):
        ids = processor.lay_out((*prompt, option), closed=closed).token_ids
        state = DocumentState(exact_model)
        state.read(processor.lay_out((*prompt, option), closed=closed))
        log_probabilities = exact_model.logits(state.hidden())[0].detach().log_softmax(-1)
        expected = sum(log_probabilities[position - 1, ids[position]] for position in range(start, len(ids)))
        torch.testing.assert_close(got.log_likelihood, float(expected), rtol=0, atol=1e-9)
        assert got.tokens == len(ids) - start


def test_scores_do_not_depend_on_the_other_options(exact_model, processor, prompt):
    options = [" a cat", " a", "狗"]
    together = score(exact_model, processor, prompt, options)
    alone = [score(exact_model, processor, prompt, [option])[0] for option in options]
    assert [one.log_likelihood for one in together] == pytest.approx([one.log_likelihood for one in alone], abs=1e-9)


def test_the_picture_of_the_prompt_matters(exact_model, processor, prompt):
    other = Document([prompt[0], picture(2), prompt[2]])
    assert score(exact_model, processor, prompt, [" a"]) != score(exact_model, processor, other, [" a"])


def test_what_cannot_be_scored_is_refused(model, processor, prompt):
    with pytest.raises(GenerationError, match="at least one"):
        score(model, processor, prompt, [])
    with pytest.raises(GenerationError, match="2 is empty"):
        score(model, processor, prompt, ["a", ""])
    with pytest.raises(GenerationError, match="picture"):
        score(model, processor, prompt, [Document([picture()])])
    with pytest.raises(LayoutError):
        score(model, processor, prompt, ["word " * 400])
