"""Laid-out documents become these rows; a row of several documents keeps them apart."""

import numpy as np
import pytest
import torch

from mm_interleaved.batch import IGNORED_TARGET, NO_DOCUMENT, NO_IMAGE
from mm_interleaved.errors import LayoutError
from mm_interleaved.processing.collate import collate, pack_rows
from mm_interleaved.processing.layout import TokenIds, lay_out

X = IGNORED_TARGET
TOKENS = TokenIds(begin=1, end=2, pad=0, begin_image=3, image=4, image_tokens=2, encode=lambda text: [10 + ord(c) - ord("a") for c in text])


def picture(value):
    return np.full((4, 4, 3), value, np.uint8)


WORDS = lay_out(["ab"], TOKENS)  # begin a b end
PAIR = lay_out(["a", picture(10)], TOKENS)  # begin a SOI IMG IMG end
STORY = lay_out([picture(20), "b", picture(30)], TOKENS, prompt=1)  # begin SOI IMG IMG b SOI IMG IMG end


def make(layouts, **options):
    return collate(layouts, **{"image_side": 4, "target_side": 8, "pad_id": 0, **options})


def test_rows_are_padded_on_the_right():
    batch = make([WORDS, PAIR])
    assert batch.token_ids.tolist() == [[1, 10, 11, 2, 0, 0], [1, 10, 3, 4, 4, 2]]
    assert batch.targets.tolist() == [[10, 11, 2, X, X, X], [10, 3, X, X, 2, X]]
    assert batch.document_index.tolist() == [[0, 0, 0, 0, NO_DOCUMENT, NO_DOCUMENT], [0] * 6]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 0], [0, 1, 2, 3, 4, 5]]


def test_pictures_are_in_reading_order():
    batch = make([WORDS, PAIR, STORY])
    assert (batch.pixels[:, 0, 0, 0] * 255).round().tolist() == [10, 20, 30]
    assert batch.image_row.tolist() == [1, 2, 2]
    assert batch.image_begin.tolist() == [2, 1, 5]
    assert batch.row_images.tolist() == [[NO_IMAGE, NO_IMAGE], [0, NO_IMAGE], [1, 2]]
    assert (batch.token_ids[batch.image_row, batch.image_begin] == 3).all()


def test_only_trained_pictures_have_a_decoder_view():
    batch = make([PAIR, STORY])
    assert batch.target_image.tolist() == [0, 2]
    assert batch.target_weight.tolist() == [1, 1]
    assert batch.target_pixels.shape == (2, 3, 8, 8)
    assert (batch.target_pixels[:, 0, 0, 0] * 255).round().tolist() == [10, 30]


def test_pictures_that_are_only_painted_come_last():
    unread = lay_out(["a", picture(40)], TOKENS, last_unread=True)
    batch = make([unread, PAIR, STORY])
    assert (batch.pixels[:, 0, 0, 0] * 255).round().tolist() == [10, 20, 30]
    assert (batch.target_pixels[:, 0, 0, 0] * 255).round().tolist() == [10, 30, 40]
    assert batch.target_image.tolist() == [0, 2, 3]
    assert batch.image_row.tolist() == [1, 2, 2, 0]
    assert batch.row_images.tolist() == [[NO_IMAGE, NO_IMAGE], [0, NO_IMAGE], [1, 2]]


def test_without_target_side_nothing_is_painted():
    batch = make([PAIR], target_side=None)
    assert len(batch.pixels) == 1
    assert len(batch.target_pixels) == len(batch.target_image) == len(batch.target_weight) == 0


def test_batch_without_pictures_has_empty_tensors():
    batch = make([WORDS, WORDS])
    assert batch.pixels.shape == (0, 3, 4, 4)
    assert batch.row_images.shape == (2, 0)
    assert batch.visible().shape == (2, 4, 0)


PACKED = {
    "isolated": (True, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]),
    "published": (False, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
}


@pytest.mark.parametrize(("isolate", "positions"), PACKED.values(), ids=PACKED.keys())
def test_documents_of_one_row_follow_each_other(isolate, positions):
    batch = make([WORDS, PAIR], pack=[(1, 0)], isolate=isolate)
    assert batch.token_ids.tolist() == [[1, 10, 3, 4, 4, 2, 1, 10, 11, 2]]
    assert batch.targets.tolist() == [[10, 3, X, X, 2, X, 10, 11, 2, X]]  # the end of one does not predict the begin of the next
    assert batch.document_index.tolist() == [[0] * 6 + [1] * 4]
    assert batch.position_ids.tolist() == [positions]


def test_packed_documents_do_not_see_each_others_pictures():
    batch = make([PAIR, STORY], pack=[(0, 1)])
    visible = batch.visible()[0]  # T N
    assert not visible[6:, 0].any()
    assert not visible[:6, 1:].any()
    assert batch.context_start().tolist() == [0, 6]  # of the two painted pictures


def test_packing_changes_only_where_documents_stand():
    apart, packed = make([WORDS, PAIR, STORY]), make([WORDS, PAIR, STORY], pack=[(0, 1, 2)])
    for name in ("token_ids", "position_ids", "targets"):
        torch.testing.assert_close(getattr(packed, name)[0], getattr(apart, name)[apart.token_mask])
    torch.testing.assert_close(packed.pixels, apart.pixels)


def test_rows_have_the_length_asked_for():
    assert make([WORDS], length=7).token_ids.tolist() == [[1, 10, 11, 2, 0, 0, 0]]


REFUSED = {
    "no_documents": ([], {}, "at least one document"),
    "row_too_long": ([WORDS, PAIR], {"length": 5}, "row 2 has 6 tokens, rows hold 5"),
    "document_left_out": ([WORDS, PAIR], {"pack": [(0,)]}, "every index from 0 to 1 once"),
    "document_twice": ([WORDS], {"pack": [(0,), (0,)]}, "every index"),
    "empty_row": ([WORDS], {"pack": [(0,), ()]}, "no empty row"),
    "unpainted": ([PAIR, lay_out(["a", picture(0), None], TOKENS)], {}, "document 2: picture 2 is still to be painted"),
}


@pytest.mark.parametrize(("layouts", "options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_makes_no_batch_is_refused(layouts, options, message):
    with pytest.raises(LayoutError, match=message):
        make(layouts, **options)


def test_rows_are_filled_longest_first_without_passing_the_limit():
    assert pack_rows([3, 9, 4, 5, 1], 10) == ((1, 4), (3, 2), (0,))


def test_document_longer_than_a_row_is_refused():
    with pytest.raises(LayoutError, match="document 2 has 11 tokens, rows hold 10"):
        pack_rows([3, 11], 10)
