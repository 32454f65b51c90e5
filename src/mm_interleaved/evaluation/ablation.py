"""The model without its synchronizers: what is left when earlier pictures come through their few tokens alone.

The weights stay those that were trained with synchronizers, so a figure with closed ones says how much the trained model takes from the
feature maps, not how well a model does that was trained without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.language_model import Synchronizer


@contextmanager
def closed_synchronizers(network: MMInterleavedForConditionalGeneration) -> Iterator[None]:
    """While this lasts, every gate of the language model is 0 and every synchronizer of the UNet adds 0."""
    unet = network.image_decoder.unet
    convolutions = [each.output_convolution for each in (*unet.skip_synchronizers, unet.middle_synchronizer)]
    parameters = [*_gates(network), *(parameter for convolution in convolutions for parameter in convolution.parameters())]
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
        try:
            yield
        finally:
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def _gates(network: MMInterleavedForConditionalGeneration) -> list[nn.Parameter]:
    language = network.language_model
    return [cast("Synchronizer", language.layers[layer].synchronizer).gate for layer in language.mmfs_layers]
