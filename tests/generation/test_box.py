"""The model in the box: it is there, it is small, and the code still makes of it what it made."""

import pytest

from mm_interleaved.document import Document
from mm_interleaved.generation.golden import drift
from mm_interleaved.generation.load import BOX, load

LARGEST = 30 * 2**20


@pytest.fixture(scope="module")
def model():
    return load()


def test_the_weights_in_the_box_are_small_enough_to_travel():
    assert 0 < sum(path.stat().st_size for path in BOX.glob("*.safetensors")) <= LARGEST


def test_the_box_says_what_it_holds():
    assert {"README.md", "config.json", "recipe.yaml", "golden.json"} <= {path.name for path in BOX.iterdir()}


def test_the_code_still_makes_the_golden_output(model):
    assert drift(model, BOX) == []


def test_the_model_in_the_box_decides_by_itself_to_draw(model):
    page = model.continue_document(Document(["draw a cartoon fish on a blue ground."]), steps=2, max_images=2, max_tokens=20)
    assert len(page.images) == 1
