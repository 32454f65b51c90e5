"""A tiny model and its processor; documents with words and pictures; a chooser that follows a script."""

import numpy as np
import pytest

from mm_interleaved.document import Document, Image
from mm_interleaved.testing import tiny_model, tiny_processor
from tests.single_thread import one_thread as one_thread

QUICK = {"steps": 2, "max_tokens": 12}


class Script:
    """Stands in for the model's taste: writes these tokens one after another, then the end."""

    def __init__(self, tokens, end):
        self.tokens = list(tokens)
        self.end = end
        self.suppressed = []

    def choose(self, logits, *, written, suppressed, position):
        self.suppressed.append(frozenset(suppressed))
        return self.tokens.pop(0) if self.tokens else self.end


def follow(run, *parts):
    """Makes a continuation write these texts and pictures (None), then end."""
    tokens = run.processor.tokens
    script = [token for part in parts for token in ([tokens.begin_image] if part is None else tokens.encode(part))]
    run._chooser = Script(script, tokens.end)
    return run


def picture(seed=0, side=40):
    return Image.from_array(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture(scope="package")
def processor():
    return tiny_processor()


@pytest.fixture(scope="package")
def model():
    return tiny_model()


@pytest.fixture(scope="package")
def exact_model():
    return tiny_model().double()


@pytest.fixture
def prompt():
    return Document(["what is this? ", picture(1), "draw a 3D camel on a white ground."])
