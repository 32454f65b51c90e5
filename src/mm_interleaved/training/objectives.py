"""The table of objectives, by the name that a recipe gives."""

from __future__ import annotations

from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.training.concepts import Concepts, Paintings
from mm_interleaved.training.feed import Corpus
from mm_interleaved.training.parts import Autoencoder, Documents, Objective, WordsOnly
from mm_interleaved.training.vision import Vision


def make_objective(name: str, model: MMInterleavedForConditionalGeneration, processor: MMInterleavedProcessor, corpus: Corpus) -> Objective:
    """The objective of a recipe."""
    objectives = {
        "documents": lambda: Documents(model, processor),
        "words": lambda: WordsOnly(model, processor),
        "paintings": lambda: Paintings(model, corpus),
        "concepts": lambda: Concepts(model, processor, corpus),
        "autoencoder": lambda: Autoencoder(model),
        "vision": lambda: Vision(model, corpus),
    }
    return objectives[name]()
