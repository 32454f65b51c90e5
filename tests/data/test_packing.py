from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.data.sources.conftest import picture_bytes

from mm_interleaved.batch import IGNORED_TARGET
from mm_interleaved.data.kinds import make_source
from mm_interleaved.data.mixture import Mixture
from mm_interleaved.data.packing import Shorten, cut_at, published_row_reader
from mm_interleaved.data.sources import Example, Skip, Skips
from mm_interleaved.document import Document, Image, Text
from mm_interleaved.processing.layout import lay_out
from mm_interleaved.testing import tiny_processor

IMAGE = Image.from_bytes(picture_bytes(1))


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(context=64)


# A picture is its begin token and three placeholders: four tokens.
CUTS = {
    "a full row": ([0, 8, 16], [3, 11, 19], 24, 20, 9, "sample", 16),  # position 19 begins a picture that does not fit
    "a full row, pictures kept whole": ([0, 8, 16], [3, 11, 19], 24, 20, 9, "image", 19),
    "a picture that just fits": ([0, 8, 16], [3, 11, 16], 24, 20, 9, "image", 20),
    "a cut inside a text": ([0, 30], [3, 33], 40, 20, 9, "sample", 20),
    "a surplus picture, by samples, in a new sample": ([0, 8, 16], [3, 11, 19], 24, 24, 2, "sample", 16),
    "a surplus picture, by samples, in the same sample": ([0, 8], [3, 11, 17], 24, 24, 2, "sample", 17),
    "a surplus picture, by pictures": ([0, 8, 16], [3, 11, 19], 24, 24, 2, "image", 15),
    "less than a row": ([0], [3], 9, 20, 9, "image", 9),
    "a first sample that does not fit is cut in front of its picture": ([0], [18], 24, 20, 9, "sample", 18),
}


@pytest.mark.parametrize("case", CUTS)
def test_rows_are_cut_by_the_rules_of_the_publication(case):
    starts, begins, total, length, most, level, expected = CUTS[case]
    assert cut_at(starts, begins, total, length=length, image_tokens=3, most_images=most, level=level) == expected


def test_what_is_short_enough_stays_as_it_is(processor):
    example = Example(Document(["a cat", IMAGE]))
    assert Shorten(processor.tokens, 64, 7)(example) is example


@pytest.mark.parametrize("words_first", [True, False])
def test_a_pair_that_is_too_long_loses_words_and_keeps_its_picture(processor, words_first):
    long = "draw a flat cat. " * 20
    example = Example(Document([long, IMAGE] if words_first else [IMAGE, long]))
    shorter = Shorten(processor.tokens, 40, 7)(example)
    layout = processor.lay_out(shorter.segments, closed=shorter.closed, limit=40)
    assert len(layout) == 40 if words_first else 39
    assert len(shorter.images) == 1
    assert long.startswith(shorter.document.texts[0].text)
    # With the words first the end is still there; behind a picture it is cut off.
    assert (layout.token_ids[-1] == processor.tokens.end) == words_first


def test_a_given_part_is_never_cut(processor):
    example = Example(Document(["draw a flat cat. " * 20, "answer"]), prompt=1)
    with pytest.raises(Skip, match="too long"):
        Shorten(processor.tokens, 40, 7)(example)


def test_too_many_pictures_are_skipped(processor):
    with pytest.raises(Skip, match="too many images"):
        Shorten(processor.tokens, 640, 2)(Example(Document([IMAGE, IMAGE, IMAGE])))


@pytest.fixture
def pages(tmp_path: Path):
    """Twenty documents of one to three pictures."""
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture_bytes(number))
    entries = []
    for number in range(20):
        images = [f"{(number + place) % 4}.png" for place in range(1 + number % 3)]
        texts = [f"cat {number} {place} " + "dog " * (number % 5) for place in range(len(images))]
        pairs = [pair for text, image in zip(texts, images, strict=True) for pair in ((text, None), (None, image))]
        entries.append({"texts": [text for text, _ in pairs], "images": [image for _, image in pairs]})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return make_source("obelics", {"name": "a", "files": [str(tmp_path / "a.jsonl")], "images": str(tmp_path)})


def rows_of(source, processor, length, skips=None):
    reader = published_row_reader(lambda example: lay_out(example.segments, processor.tokens), processor.tokens, length)
    return Mixture([source], seed=0, window=4, reader=reader, skips=skips)


def take(mixture, start, stop):
    return mixture.take([(index, "a") for index in range(start, stop)])


def tokens(rows):
    return [token for row in rows for piece in row.pieces for token in piece.token_ids]


def test_published_rows_are_the_documents_laid_end_to_end(pages, processor):
    rows = take(rows_of(pages, processor, 30), 0, 25)
    documents = Mixture([pages], seed=0, window=4).take([(index, "a") for index in range(60)])
    line = [token for example in documents for token in lay_out(example.segments, processor.tokens).token_ids]
    found = tokens(rows)
    # Rows without a picture are dropped, so rows may leave gaps, but never change the order.
    position = 0
    for row in rows:
        own = tokens([row])
        position = next(start for start in range(position, len(line)) if line[start : start + len(own)] == own) + len(own)
    assert len(found) > 25 * 20
    begin = processor.tokens.begin
    assert any(row.pieces[0].token_ids[0] != begin for row in rows), "a row may begin in the middle of a document"
    for row in rows:
        assert sum(len(piece) for piece in row.pieces) <= 30
        assert all(piece.targets[-1] == IGNORED_TARGET for piece in row.pieces)
        for piece in row.pieces:
            assert len(piece.images) == piece.token_ids.count(processor.tokens.begin_image)
            assert piece.token_ids.count(processor.tokens.image) == 4 * len(piece.images)


def test_published_rows_go_on_at_the_exact_token(pages, processor):
    whole = take(rows_of(pages, processor, 30), 0, 30)
    for moment in (1, 7, 18):
        first = rows_of(pages, processor, 30)
        take(first, 0, moment)
        skips = Skips()
        second = rows_of(pages, processor, 30, skips)
        second.load(json.loads(json.dumps(first.state())))
        assert tokens(take(second, moment, 30)) == tokens(whole[moment:])
        assert not skips.counts


def test_text_that_was_cut_keeps_its_very_tokens(processor):
    cut = Shorten(processor.tokens, 40, 7)(Example(Document([IMAGE, "画一只猫。" * 30]))).document.texts[0]
    assert isinstance(cut, Text)
    assert processor.lay_out([cut], closed=False).token_ids[1:] == cut.token_ids
