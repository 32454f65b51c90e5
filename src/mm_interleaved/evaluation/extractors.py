"""Features of pictures by the user's own network, and the figures that compare generated with true pictures by them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image as pillow

from mm_interleaved.document import Image
from mm_interleaved.errors import CheckpointError, DataError, ShapeError
from mm_interleaved.evaluation.metrics.frechet import Moments, frechet_distance

SIDE = 299
"""What an extractor reads, in pixels: the Inception network's side."""

INCEPTION = 2048
"""Features of the Inception network; a distance of others is no FID."""

PUBLISHED_SIDE = 64
"""To this the release shrank pictures before it compared them."""

BATCH = 16


class Extractor:
    """A TorchScript network: pictures (B 3 299 299, 0 to 1) → features (B width)."""

    def __init__(self, path: Path, *, width: int | None = None) -> None:
        """
        Args:
            width: features that it must have, `INCEPTION` for what is called FID; None takes what comes.

        Raises:
            CheckpointError: the file cannot be read.
            ShapeError: its features have another form or width.
        """
        try:
            self.network = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be read as TorchScript ({str(error)[:80]}); save the extractor with torch.jit.save."
            ) from error
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        found = self.features([np.zeros((SIDE, SIDE, 3), np.uint8)] * 2)
        if width is not None and found.shape[1] != width:
            raise ShapeError(f"{path}: expected features of width {width}, got {found.shape[1]}; give the right extractor.")

    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Features of pictures of any size, pictures x width.

        Raises:
            ShapeError: the network gives something else.
        """
        rows = [np.asarray(pillow.fromarray(each).resize((SIDE, SIDE), pillow.Resampling.BILINEAR), np.float32) / 255 for each in pictures]
        with torch.inference_mode():
            found = self.network(torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2))
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(pictures):
            raise ShapeError(f"the extractor: expected {len(pictures)} x width, got {getattr(found, 'shape', type(found).__name__)}.")
        return found.double().numpy()


def frechet(extractor: Extractor, made: Callable[[], Iterator[Image]], true: Callable[[], Iterator[Image]]) -> dict[str, float]:
    """Fréchet distances of two sets of pictures: at full size, and shrunk as released.

    The release shrank pictures to 64 pixels first; that figure, `fid_64_published`, is not comparable with any other and never called FID.

    Raises:
        DataError: fewer than two pictures on a side.
    """
    found = {}
    for name, side in (("fid", None), ("fid_64_published", PUBLISHED_SIDE)):
        found[name] = frechet_distance(_moments(extractor, made(), side), _moments(extractor, true(), side))
    return found


def _moments(extractor: Extractor, pictures: Iterator[Image], side: int | None) -> Moments:
    total: Moments | None = None
    batch: list[np.ndarray] = []
    for picture in pictures:
        pixels = picture.array()
        batch.append(pixels if side is None else _shrunk(pixels, side))
        if len(batch) == BATCH:
            some = Moments.of(extractor.features(batch))
            total, batch = some if total is None else total + some, []
    if batch:
        some = Moments.of(extractor.features(batch))
        total = some if total is None else total + some
    if total is None:
        raise DataError("no picture to compare.")
    return total


def _shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """The middle square at another side, as released: shorter side first, then the middle."""
    picture = pillow.fromarray(pixels)
    scale = side / min(picture.size)
    picture = picture.resize(
        (max(side, round(picture.width * scale)), max(side, round(picture.height * scale))), pillow.Resampling.BILINEAR
    )
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)))
