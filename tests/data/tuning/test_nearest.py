"""Solved examples are those with the most similar pictures, and never the same picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.data.sources.conftest import images, number_of, read, shape_of  # noqa: F401  (fixtures)

from mm_interleaved.data.tuning.nearest import neighbours, write_neighbours
from mm_interleaved.errors import ConfigError, DataError

ANGLES = {0: 0.0, 1: 0.3, 2: 0.1, 3: 2.0, 4: 0.0}
"""Direction of each picture's vector; the fourth is the very picture of the first."""


@pytest.fixture
def asked(tmp_path):
    """A file of questions about five pictures, and one of their vectors."""
    neighbours.cache_clear()
    entries = [{"image_id": str(number), "question": f"Q{number}?", "answers": [f"A{number}"]} for number in ANGLES]
    (tmp_path / "a.json").write_text(json.dumps({"data": entries}))
    vectors = np.array([[np.cos(angle), np.sin(angle)] for angle in ANGLES.values()]) * 7
    write_neighbours(tmp_path / "vectors.safetensors", [f"{tmp_path / 'a.json'}[{number}]" for number in ANGLES], vectors)
    return tmp_path


def test_the_most_similar_pictures_stand_before_the_question_the_most_similar_last(read, asked):  # noqa: F811
    options = {"image_name": "{image_id}.png", "shots": 2, "nearest": str(asked / "vectors.safetensors")}
    examples = read("textvqa", asked / "a.json", **options).examples
    shown = [[number_of(image) for image in example.images] for example in examples]
    assert shown == [[1, 2, 0], [0, 2, 1], [4, 0, 2], [2, 1, 3], [1, 2, 4]]
    assert shape_of(examples[0])[-1] == " A0"


def test_a_record_without_a_vector_and_a_file_that_is_none_are_told(read, asked):  # noqa: F811
    places = [f"{asked / 'a.json'}[{number}]" for number in range(4)]
    write_neighbours(asked / "few.safetensors", places, np.eye(4))
    options = {"image_name": "{image_id}.png", "shots": 1}
    reading = read("textvqa", asked / "a.json", **options, nearest=str(asked / "few.safetensors"))
    assert len(reading.examples) == 4 and reading.reasons == {"left out by rule": 1}
    with pytest.raises(DataError, match="mmi data embed"):
        read("textvqa", asked / "a.json", **options, nearest=str(asked / "a.json"))
    with pytest.raises(ConfigError, match="shots is 0"):
        read("textvqa", asked / "a.json", nearest=str(asked / "vectors.safetensors"))
