"""Pictures on their way into a document: encoded in batches, kept one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mm_interleaved.document import Pixels
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.visual_tokenizer import VisualFeatures
from mm_interleaved.processing.images import stack_pixels

ENCODED_TOGETHER = {"cpu": 4}
"""Pictures that go through the encoder in one batch, by device. On a CPU more do not fit into its caches, nor into the memory that
the process keeps between two calls."""

ENCODED_TOGETHER_ELSEWHERE = 16
"""The same for any other device: enough to fill it, few enough to bound the memory of a prompt with many pictures."""


@torch.no_grad()
def encode_pictures(model: MMInterleavedForConditionalGeneration, pictures: Sequence[Pixels]) -> list[VisualFeatures]:
    """Tokens and maps of each picture; encoded in batches of a bounded number.

    Raises:
        ShapeError: an array that is no picture.
    """
    most = ENCODED_TOGETHER.get(model.device.type, ENCODED_TOGETHER_ELSEWHERE)
    found = []
    for first in range(0, len(pictures), most):
        part = pictures[first : first + most]
        batch = model.encode_images(stack_pixels(part, model.config.image_side).to(model.device, model.dtype))
        for index in range(len(part)):
            one = slice(index, index + 1)
            found.append(VisualFeatures(batch.tokens[one], tuple(level[one] for level in batch.maps)))
    return found
