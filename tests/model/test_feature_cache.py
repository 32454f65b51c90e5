"""What is kept of pictures: once, bounded, and in fewer bits if asked."""

import pytest
import torch

from mm_interleaved.errors import GenerationError
from mm_interleaved.model.feature_cache import FeatureCache

CELLS, WIDTH = 6, 4


class Counting:
    """A projection that counts the pictures it projects."""

    def __init__(self, layers, factor):
        self.layers, self.factor, self.pictures = layers, factor, 0

    def __call__(self, maps):
        self.pictures += maps.shape[1]
        return tuple((maps * self.factor + layer).unflatten(-1, (2, 2)) for layer in range(self.layers))


def cache(**bounds):
    text, image = Counting(2, 1.0), Counting(3, 10.0)
    return FeatureCache(text, image, **bounds), text, image


def picture(number):
    return torch.full((1, CELLS, WIDTH), float(number))


def fill(kept, count):
    for number in range(count):
        kept.append(picture(number), picture(number))


def seen(values):
    """Numbers of the pictures that the first layer holds."""
    return values[0][0, :, 0, 0, 0].tolist()


def test_each_picture_is_projected_once_for_words_and_once_for_painting():
    kept, text, image = cache()
    for number in range(4):
        kept.append(picture(number), picture(number))
        for _ in range(3):
            kept.text_values()
            kept.image_values()
    assert (text.pictures, image.pictures) == (4, 4)
    assert seen(kept.text_values()) == [0, 1, 2, 3]
    assert seen(kept.image_values()) == [0, 10, 20, 30]


def test_values_are_not_joined_again_when_they_are_read():
    kept, *_ = cache()
    fill(kept, 3)
    assert all(one is other for one, other in zip(kept.text_values(), kept.text_values(), strict=True))
    assert all(one is other for one, other in zip(kept.image_values(), kept.image_values(), strict=True))


def test_where_only_the_previous_picture_is_read_only_its_values_are_kept():
    kept, _, image = cache(previous_only=True)
    fill(kept, 3)
    assert seen(kept.image_values()) == seen(kept.image_values()) == [20]
    assert image.pictures == 1
    kept.drop_last(1)
    assert seen(kept.image_values()) == [10]


def test_the_oldest_pictures_leave_first():
    kept, *_ = cache(max_images=2)
    fill(kept, 2)
    kept.image_values()
    kept.append(picture(2), picture(2))
    assert len(kept) == 2
    assert seen(kept.text_values()) == [1, 2]
    assert seen(kept.image_values()) == [10, 20]


def test_memory_stays_below_its_bound():
    whole, *_ = cache()
    fill(whole, 1)
    whole.image_values()
    bound = 3 * whole.nbytes
    kept, *_ = cache(max_bytes=bound)
    for number in range(8):
        kept.append(picture(number), picture(number))
        kept.image_values()
        assert kept.nbytes <= bound
    assert seen(kept.text_values()) == [5, 6, 7]


def test_a_picture_that_does_not_fit_is_refused_with_the_numbers():
    kept, *_ = cache(max_bytes=100)
    with pytest.raises(GenerationError, match="one picture needs"):
        fill(kept, 1)


def test_bfloat16_halves_the_memory():
    full, *_ = cache()
    half, *_ = cache(dtype=torch.bfloat16)
    for kept in (full, half):
        fill(kept, 2)
        kept.image_values()
    assert half.nbytes == full.nbytes / 2
    assert half.text_values()[0].dtype == torch.bfloat16


@pytest.mark.parametrize("projected", [0, 1, 3])
def test_the_last_pictures_can_be_taken_back(projected):
    kept, *_ = cache()
    fill(kept, projected)
    kept.image_values()
    for number in range(projected, 3):
        kept.append(picture(number), picture(number))
    branch = kept.branch()
    kept.drop_last(2)
    assert seen(kept.text_values()) == [0]
    assert seen(kept.image_values()) == [0]
    assert seen(branch.text_values()) == [0, 1, 2]
    assert seen(branch.image_values()) == [0, 10, 20]


def test_what_is_kept_can_be_written_and_read():
    kept, *_ = cache()
    fill(kept, 2)
    kept.image_values()
    kept.append(picture(2), picture(2))
    other, text, image = cache()
    other.restore(kept.tensors())
    assert seen(other.text_values()) == [0, 1, 2]
    assert seen(other.image_values()) == [0, 10, 20]
    assert (text.pictures, image.pictures) == (0, 1)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_head_follows_head_in_memory_whatever_happened_before(dtype):
    kept, *_ = cache(max_images=3, dtype=dtype)
    fill(kept, 4)
    other, *_ = cache()
    other.restore(kept.tensors())
    fewer = kept.branch()
    fewer.drop_last(1)
    for one in (kept, fewer, other):
        for values in (*one.text_values(), *one.image_values()):
            heads_first = values.flatten(1, 2).transpose(1, 2)
            assert heads_first.is_contiguous()
            assert heads_first.data_ptr() == values.data_ptr()  # flattened without a copy
