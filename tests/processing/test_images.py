"""Pictures are cropped to their centre, scaled once, and come back through 8 bits unchanged."""

import numpy as np
import pytest
import torch

from mm_interleaved.errors import ShapeError
from mm_interleaved.processing.images import from_pixels, stack_pixels, to_pixels, to_square


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_square_picture_of_the_side_is_only_scaled_to_one():
    picture = noise(8, 8)
    torch.testing.assert_close(to_pixels(picture, 8), torch.from_numpy(picture).permute(2, 0, 1).float() / 255, rtol=0, atol=0)


SIZES = [(8, 8), (7, 8), (8, 31), (33, 16), (3, 5), (1, 1), (200, 9)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_picture_becomes_a_square_in_zero_to_one(height, width):
    pixels = to_pixels(noise(height, width), 8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_the_centre_is_kept():
    picture = np.zeros((8, 24, 3), np.uint8)
    picture[:, 8:16] = 255  # the centred square is white, both sides are black
    assert to_square(picture, 8).min() == 255


def test_large_picture_is_averaged_in_blocks():
    picture = noise(32, 32)
    means = picture.reshape(8, 4, 8, 4, 3).mean((1, 3))
    # Halved twice, rows and columns rounded to 8 bits each: four roundings of at most 0.5. Bicubic alone is off by tens.
    assert np.abs(to_square(picture, 8) - means).max() <= 2


def test_an_extremely_elongated_picture_does_not_fill_the_memory():
    line = np.full((1, 3_000_000, 3), 9, np.uint8)
    assert (to_square(line, 32) == 9).all()


def test_every_8_bit_value_survives_painting_and_reading():
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(from_pixels(to_pixels(picture, 16)), picture)


def test_painted_values_are_clipped_and_rounded():
    painted = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 1.5]).reshape(1, 2, 2).expand(3, 2, 2)
    np.testing.assert_array_equal(from_pixels(painted)[..., 0], [[0, 0], [1, 255]])


def test_no_pictures_are_an_empty_stack():
    assert stack_pixels([], 8).shape == (0, 3, 8, 8)


WRONG = {
    "grey": np.zeros((4, 4), np.uint8),
    "rgba": np.zeros((4, 4, 4), np.uint8),
    "float": np.zeros((4, 4, 3)),
    "empty": np.zeros((0, 4, 3), np.uint8),
}


@pytest.mark.parametrize("array", WRONG.values(), ids=WRONG.keys())
def test_another_kind_of_array_is_refused(array):
    with pytest.raises(ShapeError, match="expected uint8 of shape"):
        to_pixels(array, 4)
