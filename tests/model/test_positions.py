"""The fixed position tables are what their formulas say, and resizing keeps them."""

import math

import pytest
import torch

from mm_interleaved.errors import ShapeError
from mm_interleaved.model.positions import resize_table, sincos_1d, sincos_2d


def test_line_table_holds_sines_then_cosines_of_falling_frequencies():
    table = sincos_1d(torch.tensor([0, 3]), 4)
    angle = 3 * 10000**-0.5
    expected = torch.tensor([[0.0, 0.0, 1.0, 1.0], [math.sin(3), math.sin(angle), math.cos(3), math.cos(angle)]])
    torch.testing.assert_close(table, expected)
    assert table.dtype == torch.float32


def test_grid_table_holds_the_row_first_and_the_column_second():
    side, width = 3, 8
    table = sincos_2d(side, width)
    line = sincos_1d(torch.arange(side), width // 2)
    for row in range(side):
        for column in range(side):
            torch.testing.assert_close(table[row * side + column], torch.cat([line[row], line[column]]))


def test_resizing_to_the_own_size_changes_nothing():
    table = sincos_2d(4, 8)
    assert torch.equal(resize_table(table, (4, 4)).reshape(16, 8), table)


@pytest.mark.parametrize("shape", [(8, 8), (3, 5), (1, 2)])
def test_resizing_gives_the_asked_shape_and_keeps_constants(shape):
    resized = resize_table(torch.full((16, 8), 2.0, dtype=torch.float64), shape)
    assert resized.shape == (*shape, 8)
    torch.testing.assert_close(resized, torch.full_like(resized, 2.0))


def test_unfit_widths_and_tables_are_refused():
    with pytest.raises(ShapeError, match="even width"):
        sincos_1d(torch.arange(3), 3)
    with pytest.raises(ShapeError, match="multiple of 4"):
        sincos_2d(3, 6)
    with pytest.raises(ShapeError, match="square"):
        resize_table(torch.zeros(5, 4), (2, 2))
