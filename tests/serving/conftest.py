"""A tiny model that always draws, at a desk of its own."""

from itertools import count

import numpy as np
import pytest
from PIL import Image as pillow

from mm_interleaved.cli.prompts import EXAMPLES
from mm_interleaved.generation.load import Model
from mm_interleaved.serving.session import Desk
from mm_interleaved.testing import tiny_model, tiny_processor
from tests.single_thread import one_thread as one_thread

DEMONSTRATIONS = sorted(EXAMPLES.glob("*.md"))


class Eager(Model):
    """Begins every continuation with a picture; `steps` decides how long it takes, `begun` is told that the painter works."""

    steps = 3

    def begun(self):
        pass

    def stream(self, document, *, stop, **options):
        asked = count()

        def ask():
            if next(asked) == 3:
                self.begun()
            return stop()

        options |= {"force_image": True, "max_tokens": 4, "steps": self.steps, "preview_every": 0}
        self.asked = options
        return super().stream(document, stop=ask, **options)


@pytest.fixture(scope="package")
def tiny():
    return tiny_model(), tiny_processor()


@pytest.fixture
def model(tiny):
    return Eager(*tiny)


@pytest.fixture
def desk(model, tmp_path):
    desk = Desk(model, tmp_path / "out", DEMONSTRATIONS)
    desk.uploads = tmp_path.resolve()
    return desk


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    pillow.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return path
