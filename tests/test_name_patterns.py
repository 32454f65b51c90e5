"""Patterns choose names as recipes mean them."""

import pytest

from mm_interleaved.name_patterns import fits_any, is_chosen


@pytest.mark.parametrize("patterns", [["*", "!painter.vae.*"], ["!painter.vae.*", "*"]])
def test_what_is_left_out_stays_out_wherever_it_stands(patterns):
    assert is_chosen("painter.unet.weight", patterns)
    assert not is_chosen("painter.vae.weight", patterns)


def test_nothing_is_chosen_by_patterns_that_only_leave_out():
    assert not is_chosen("painter.unet.weight", ["!painter.vae.*"])


def test_a_misspelt_pattern_fits_none_whether_it_takes_or_leaves_out():
    names = ["painter.vae.weight", "reader.weight"]
    assert fits_any("!painter.*", names) and fits_any("painter.*", names)
    assert not fits_any("!painters.*", names) and not fits_any("painters.*", names)
