"""Words in a picture: nothing is cut off, and every script is drawn."""

import numpy as np
import pytest

from mm_interleaved.data.playground.material.lettering import faces
from mm_interleaved.export.lettering import lettered

CHINESE = [face.at(15) for face in faces("screen", "zh")]


def ink(picture):
    """How dark each pixel is."""
    return 255 - np.asarray(picture.convert("L")).astype(int)


@pytest.mark.parametrize("text", ["looked at picture 1: 45 % " * 12, "设置" * 80, "a" * 300])
def test_a_long_text_is_broken_into_lines_inside_the_width(text):
    whole, broken = lettered(text, 10_000, fonts=CHINESE), lettered(text, 240, fonts=CHINESE)
    assert broken.width == 240
    assert broken.height > 3 * whole.height
    assert ink(broken).sum() == pytest.approx(ink(whole).sum(), rel=0.02)  # every letter is there; antialiasing differs by place


def test_characters_that_the_first_font_lacks_come_from_another(monkeypatch):
    monkeypatch.setattr("mm_interleaved.export.lettering._system", lambda size: ())
    with_fonts = lettered("设", 100, fonts=CHINESE)
    boxes = lettered("设", 100), lettered("置", 100)
    assert not np.array_equal(ink(with_fonts), ink(lettered("置", 100, fonts=CHINESE)))
    assert np.array_equal(ink(boxes[0]), ink(boxes[1]))  # without a font both are the same empty box
    assert not np.array_equal(ink(with_fonts), ink(boxes[0]))
