"""A judge that reads: optical character recognition by rapidocr, whose networks come inside its package and never saw this corpus.

It reads the word in the red circle of a handwritten page, or all words of a picture. Its accuracy on true pages is the ceiling that
stands beside what a model reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from mm_interleaved.errors import DataError, ShapeError

READ_SIDE = 512
"""Side in pixels at which whole pictures are read."""
WORD_HEIGHT = 96
"""Height in pixels at which one word is read."""
RING_SHARE = 0.0015
"""Least share of red pixels that makes a ring."""


class TextJudge:
    """Reads printed and handwritten words, English and Chinese."""

    def __init__(self) -> None:
        """Opens the networks.

        Raises:
            DataError: rapidocr or what it needs is not installed.
        """
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise DataError(f"reading text needs rapidocr ({error}); run `pip install 'mm-interleaved[judge]'`.") from error
        self._read: Any = RapidOCR(params={"Global.log_level": "critical"})

    def words(self, picture: np.ndarray) -> list[str]:
        """All texts of a picture, in the order in which they were found.

        Args:
            picture: H W 3 uint8 sRGB.
        """
        _check(picture)
        scale = READ_SIDE / max(picture.shape[:2])
        large = Image.fromarray(picture).resize(
            (round(picture.shape[1] * scale), round(picture.shape[0] * scale)), Image.Resampling.BICUBIC
        )
        return [text.strip() for text in self._read(_as_bgr(large)).txts or ()]

    def circled(self, page: np.ndarray) -> str | None:
        """The word inside the red ring of a page, without blanks; None when there is no ring or nothing can be read in it.

        Args:
            page: H W 3 uint8 sRGB.
        """
        _check(page)
        red = ring(page)
        if red is None:
            return None
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        paper = np.median(page.reshape(-1, 3), axis=0).astype(np.uint8)
        plain = np.where(_grown(red)[..., None], paper, page)
        word = Image.fromarray(plain[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        word = word.resize((max(1, round(word.width * WORD_HEIGHT / word.height)), WORD_HEIGHT), Image.Resampling.BICUBIC)
        found = self._read(_as_bgr(word), use_det=False, use_cls=False).txts or ()
        return "".join("".join(found).split()) or None


def ring(page: np.ndarray) -> np.ndarray | None:
    """Where a page is red, or None when hardly anywhere.

    Returns:
        H W bool.
    """
    channels = page.astype(np.int16)
    red = (channels[..., 0] > 130) & (channels[..., 0] - np.maximum(channels[..., 1], channels[..., 2]) > 60)
    return red if red.mean() >= RING_SHARE else None


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and its neighbours: the ring's soft edges."""
    grown = mask.copy()
    for step in (-1, 1):
        grown |= np.roll(mask, step, 0) | np.roll(mask, step, 1)
    return grown


def _as_bgr(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)[..., ::-1].copy()


def _check(picture: np.ndarray) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or min(picture.shape[:2]) < 16:
        raise ShapeError(f"the judge reads H W 3 uint8 pictures of at least 16 pixels a side; this is {picture.shape} {picture.dtype}.")
