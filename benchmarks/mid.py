"""The model that the whole-model benchmarks run: the published architecture at 126 million parameters, with random weights.

Its sizes are those that the release's own code was measured at: 8 layers of 512, 12 vision layers of 256 at 224 px, 64 tokens a picture,
16 MMFS heads of 64 with 8 points, a UNet of 64-256 channels for 256 px, DDPM. All gates are open, so that a picture changes every
later number. The tokenizer is a small one; the vocabulary keeps its 32,002 entries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mm_interleaved.checkpoint.published import config_from_published
from mm_interleaved.document import Document, Image
from mm_interleaved.generation.engine import Continuation
from mm_interleaved.generation.load import Model, choose_fast_forms
from mm_interleaved.model.configuration import Behaviour
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.processing.tokenizer import train_tokenizer

WORDS = "a picture of a camel that looks for an apple and finds a tree, a house, a boat and a friend on the way home. "
CONTROL = {"begin_image_token_id": 3, "image_token_id": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE_SIDE = 256

SIZES = Path(__file__).with_name("mid_size.json")
"""The constructor arguments that the release's own code was measured with."""


def mid_network(*, published: bool = True, control: Mapping[str, int] | None = None) -> MMInterleavedForConditionalGeneration:
    """The network alone, as `mmi train` holds it.

    Args:
        published: the behaviour of the release (a picture is painted from the one before); else of new training (from all).
        control: ids of the control tokens; None keeps those of the release.
    """
    config = config_from_published(json.loads(SIZES.read_text(encoding="utf-8")))
    for name, token in (control or {}).items():
        setattr(config, name, token)
    if not published:
        config.behaviour = {name: getattr(Behaviour(), name) for name in config.behaviour}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MMInterleavedForConditionalGeneration(config)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if bool((parameter == 0).all()) and not name.startswith("image_decoder.vae"):
                    parameter.normal_(std=0.05)
    return network


def mid_model(*, published: bool = True, dtype: torch.dtype = torch.float32) -> Model:
    """The model with its processor, in the forms that are faster without gradients.

    Args:
        published: the behaviour of the release (a picture is painted from the one before); else of new training (from all).
        dtype: in which it computes; the autoencoder stays float32.
    """
    network = mid_network(published=published, control=CONTROL)
    network.to(dtype).image_decoder.vae.float()
    choose_fast_forms(network)
    processor = MMInterleavedProcessor(
        train_tokenizer([WORDS], 280),
        image_side=network.config.image_side,
        target_side=IMAGE_SIDE,
        image_tokens=network.config.image_tokens,
        context_limit=2048,
        known_words=[],
    )
    return Model(network.eval(), processor)


def prompt(pictures: int, words: int = 16) -> Document:
    """Pictures of noise, and so many tokens of words behind them."""
    drawn = [Image.from_array(np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)) for seed in range(pictures)]
    return Document([*drawn, WORDS[:words]])


class Scripted:
    """Chooses as the model would, then writes what the script says: so many words, a picture, so many words, a picture …"""

    def __init__(self, run: Continuation, words: int, pictures: int) -> None:
        self._chooser = run._chooser
        self._script = iter(([260] * words + [CONTROL["begin_image_token_id"]]) * pictures if pictures else [260] * words)

    def choose(self, logits: torch.Tensor, *, written: list[int], suppressed: frozenset[int], position: int) -> torch.Tensor | int:
        self._chooser.choose(logits, written=written, suppressed=suppressed, position=position)
        return next(self._script, CONTROL["eos_token_id"])


def scripted(run: Continuation, words: int, pictures: int) -> Continuation:
    """Makes a continuation follow the script: a random model would not know when to draw."""
    run._chooser = Scripted(run, words, pictures)  # type: ignore[assignment]
    return run
