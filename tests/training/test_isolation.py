"""Documents that share a row stay apart: nothing of the first reaches the second, forwards or backwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mm_interleaved.batch import IGNORED_TARGET
from mm_interleaved.testing import tiny_model, tiny_processor
from mm_interleaved.training.engines import checkpoint_parts
from mm_interleaved.training.parts import Documents

RANDOM = np.random.default_rng(0)
PICTURES = [RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(5)]


def objective(*parts):
    made = Documents(tiny_model(), tiny_processor())
    checkpoint_parts(made, parts)
    return made.train()


def packed(documents, words, picture):
    """Two documents of two pictures each in one row; the first one says `words` and shows `picture`."""
    processor = tiny_processor()
    first = processor.lay_out([words, picture, "a cat", PICTURES[1]])
    second = processor.lay_out(["a dog", PICTURES[2], "a car", PICTURES[3]])
    batch = processor.collate([first, second], pack=[[0, 1]])
    return batch, documents.draw(batch, 0, [[0, 1]])


@pytest.mark.parametrize("parts", [(), ("visual_tokenizer", "language_model", "image_decoder")], ids=["kept", "checkpointed"])
def test_a_changed_first_document_leaves_the_second_as_it_was(parts):
    documents = objective(*parts)
    outputs = []
    for words, picture in (("draw a tree", PICTURES[0]), ("what is this", PICTURES[4])):
        batch, draw = packed(documents, words, picture)
        own = batch.document_index[0] == 1
        # Only the second document's words and pictures count.
        batch = replace(
            batch,
            targets=torch.where(own, batch.targets, IGNORED_TARGET),
            target_weight=torch.tensor([0.0, 0.0, 1.0, 1.0]),
        )
        found = documents.model.forward_batch(batch, draw)
        outputs.append((found.logits[0, own], found.text_loss, found.image_loss))
    for one, other in zip(*outputs, strict=True):
        # The words of the first one have other lengths, so matrix products may be summed in another order.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", [(), ("visual_tokenizer", "language_model", "image_decoder")], ids=["kept", "checkpointed"])
def test_no_gradient_of_the_second_document_reaches_the_first(parts):
    documents = objective(*parts)
    batch, draw = packed(documents, "draw a tree", PICTURES[0])
    own = batch.document_index[0] == 1
    pixels = batch.pixels.clone().requires_grad_()
    weight = torch.tensor([0.0, 0.0, 1.0, 1.0])
    batch = replace(batch, pixels=pixels, targets=torch.where(own, batch.targets, IGNORED_TARGET), target_weight=weight)
    embedded = []

    def keep(module, inputs, output):
        output.retain_grad()
        embedded.append(output)

    documents.model.language_model.embed_tokens.register_forward_hook(keep)
    documents.model.forward_batch(batch, draw).loss.backward()
    (words,) = embedded
    assert (words.grad[0, ~own] == 0).all() and (pixels.grad[:2] == 0).all()
    begin = (batch.token_ids[0] == 3).nonzero()[2]
    assert words.grad[0, begin].abs().sum() > 0 and (pixels.grad[2:].flatten(1).abs().sum(dim=1) > 0)[0]
