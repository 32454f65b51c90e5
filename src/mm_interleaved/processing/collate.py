"""Laid-out documents → one Batch: rows padded on the right, optionally several documents in a row.

Axes: see `batch.py`. Nothing here knows a tokenizer; the layout has already placed every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from mm_interleaved.batch import IGNORED_TARGET, NO_DOCUMENT, NO_IMAGE, Batch
from mm_interleaved.errors import LayoutError
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.processing.layout import Layout


def collate(
    layouts: Sequence[Layout],
    *,
    image_side: int,
    target_side: int | None,
    pad_id: int,
    isolate: bool = True,
    pack: Sequence[Sequence[int]] | None = None,
    length: int | None = None,
) -> Batch:
    """Makes a batch of laid-out documents.

    Args:
        image_side: side of the encoder view in pixels.
        target_side: side of the decoder view in pixels, made of the pictures that are trained; None where no image loss is wanted.
        pad_id: fills rows on the right.
        isolate: positions restart at each document (`Behaviour.isolate_documents`); False counts through the row.
        pack: the layouts of each row, as indices; None puts each document into a row of its own.
        length: tokens of every row, for shapes that stay the same from batch to batch; None takes the longest row.

    Raises:
        LayoutError: no documents, a packing that does not name every layout once, a row longer than `length`, or a picture
            that is still to be painted.
    """
    rows = _rows(layouts, pack)
    lengths = [sum(len(layouts[index]) for index in row) for row in rows]
    width = max(lengths) if length is None else length
    if max(lengths) > width:
        raise LayoutError(f"row {int(np.argmax(lengths)) + 1} has {max(lengths)} tokens, rows hold {width}; put fewer documents into it.")

    token_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    document_index = np.full((len(rows), width), NO_DOCUMENT, dtype=np.int64)
    position_ids = np.zeros((len(rows), width), dtype=np.int64)
    targets = np.full((len(rows), width), IGNORED_TARGET, dtype=np.int64)
    read, unread = _Images(), _Images()
    for row, members in enumerate(rows):
        start = 0
        for document, index in enumerate(members):
            layout = layouts[index]
            stop = start + len(layout)
            token_ids[row, start:stop] = layout.token_ids
            document_index[row, start:stop] = document
            position_ids[row, start:stop] = np.arange(len(layout)) + (0 if isolate else start)
            targets[row, start:stop] = layout.targets
            for number, (image, begin) in enumerate(zip(_painted(layout, index), layout.image_begin, strict=True)):
                last = number == len(layout.images) - 1
                (unread if layout.last_unread and last else read).append(image, row, start + begin, layout.image_trained[number])
            start = stop
    # Encoded pictures come first, so that their features have the same numbers as the pictures themselves.
    encoded = len(read.pixels)
    read.extend(unread)
    painted = [] if target_side is None else [index for index, trained in enumerate(read.trained) if trained]
    return Batch(
        token_ids=torch.from_numpy(token_ids),
        document_index=torch.from_numpy(document_index),
        position_ids=torch.from_numpy(position_ids),
        targets=torch.from_numpy(targets),
        pixels=stack_pixels(read.pixels[:encoded], image_side),
        target_pixels=stack_pixels([read.pixels[index] for index in painted], image_side if target_side is None else target_side),
        target_image=torch.tensor(painted, dtype=torch.int64),
        target_weight=torch.ones(len(painted), dtype=torch.float32),
        image_row=torch.tensor(read.row, dtype=torch.int64),
        image_begin=torch.tensor(read.begin, dtype=torch.int64),
        row_images=torch.from_numpy(_row_images(read.row[:encoded], len(rows))),
    ).check()


class _Images:
    """Pictures of a batch in order: pixels, row, position of begin-of-image, trained or not."""

    def __init__(self) -> None:
        self.pixels: list[npt.NDArray[np.uint8]] = []
        self.row: list[int] = []
        self.begin: list[int] = []
        self.trained: list[bool] = []

    def append(self, pixels: npt.NDArray[np.uint8], row: int, begin: int, trained: bool) -> None:
        self.pixels.append(pixels)
        self.row.append(row)
        self.begin.append(begin)
        self.trained.append(trained)

    def extend(self, other: _Images) -> None:
        for name in ("pixels", "row", "begin", "trained"):
            getattr(self, name).extend(getattr(other, name))


def pack_rows(lengths: Sequence[int], limit: int) -> tuple[tuple[int, ...], ...]:
    """Fills rows of at most `limit` tokens with documents, longest first, each into the fullest row that still has room.

    Returns:
        The documents of each row as indices, for `collate(pack=…)`; the same lengths give the same rows.

    Raises:
        LayoutError: a document is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda document: (-lengths[document], document)):
        if lengths[index] > limit:
            raise LayoutError(f"document {index + 1} has {lengths[index]} tokens, rows hold {limit}; shorten it or make the rows longer.")
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[index]]
        if fitting:
            row = min(fitting, key=room.__getitem__)
        else:
            row = len(rows)
            rows.append([])
            room.append(limit)
        rows[row].append(index)
        room[row] -= lengths[index]
    return tuple(tuple(row) for row in rows)


def _rows(layouts: Sequence[Layout], pack: Sequence[Sequence[int]] | None) -> list[Sequence[int]]:
    if not layouts:
        raise LayoutError("batch: expected at least one document, got none.")
    if pack is None:
        return [(index,) for index in range(len(layouts))]
    if sorted(chain.from_iterable(pack)) != list(range(len(layouts))) or not all(pack):
        raise LayoutError(f"pack: expected every index from 0 to {len(layouts) - 1} once and no empty row, got {tuple(map(tuple, pack))}.")
    return list(pack)


def _painted(layout: Layout, index: int) -> list[npt.NDArray[np.uint8]]:
    """The pictures of a layout, all of them present."""
    present = [image for image in layout.images if image is not None]
    if len(present) != len(layout.images):
        missing = next(number for number, image in enumerate(layout.images) if image is None)
        raise LayoutError(
            f"document {index + 1}: picture {missing + 1} is still to be painted; a batch needs all pictures of its documents."
        )
    return present


def _row_images(image_row: Sequence[int], rows: int) -> npt.NDArray[np.int64]:
    """Flat index of the n-th image of each row, `NO_IMAGE` where a row has fewer. `image_row` is ascending."""
    counts = np.bincount(np.asarray(image_row, dtype=np.int64), minlength=rows)
    first = np.cumsum(counts) - counts
    nth = np.arange(counts.max(initial=0))
    return np.where(nth[None, :] < counts[:, None], first[:, None] + nth[None, :], NO_IMAGE).astype(np.int64)
