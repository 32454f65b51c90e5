"""Two small networks that judge pictures: one segments, one names the style. `scripts/train_judges.py` trains them on real composites.

They know every drawing, as the template match does, and have never seen a generated picture or anything of the model they judge. Their
accuracy on real pictures, on pictures through the autoencoder in the box and on swapped labels: docs/data.md, by the same script.
Axes: B pictures; height and width are `PICTURE_SIDE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from mm_interleaved.data.playground.filters import SETTINGS
from mm_interleaved.data.playground.stuff import CLASSES
from mm_interleaved.errors import DataError, ShapeError

PICTURE_SIDE = 64
"""Side in pixels at which pictures are judged: that of the pictures the smallest model makes."""
STYLES = ("3d", "flat", "ink", "cartoon", "sticker", *SETTINGS)
"""What the style judge tells apart: the pack's styles and the families of filters."""
SMALLEST_REGION = 64
"""A class of fewer pixels than this is taken for a mistake and its pixels go to their next likely class; in true maps every class that
occurs has more than 90 (of 4,096)."""
FOLDER = Path(__file__).parent
SEGMENTER, STYLE_JUDGE = "segmenter.safetensors", "style_judge.safetensors"


Network = TypeVar("Network", bound=nn.Module)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Segmenter(nn.Module):
    """A U of three scales that begins at half the side and ends in four classes per cell: class of every pixel."""

    def __init__(self, widths: tuple[int, int, int] = (32, 48, 80)) -> None:
        super().__init__()
        one, two, three = widths
        self.stem = nn.Sequential(nn.Conv2d(3, one, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(one), nn.ReLU(inplace=True))
        self.fine = _block(one, one)
        self.middle = nn.Sequential(_block(one, two), _block(two, two))
        self.coarse = nn.Sequential(_block(two, three), _block(three, three), _block(three, three))
        self.join_middle = _block(three + two, two)
        self.join_fine = _block(two + one, two)
        self.head = nn.Conv2d(two, 4 * len(CLASSES), 1)

    def forward(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B classes height width"]:
        """Logits of the classes of `stuff.CLASSES`.

        Args:
            pixels: sRGB in [0, 1].
        """
        fine = self.fine(self.stem(pixels * 2 - 1))
        middle = self.middle(functional.max_pool2d(fine, 2))
        coarse = self.coarse(functional.max_pool2d(middle, 2))
        middle = self.join_middle(torch.cat([functional.interpolate(coarse, scale_factor=2.0), middle], dim=1))
        fine = self.join_fine(torch.cat([functional.interpolate(middle, scale_factor=2.0), fine], dim=1))
        return functional.pixel_shuffle(self.head(fine), 2)


class StyleJudge(nn.Module):
    """Local patterns, then their mean and spread over the picture: the style, wherever things stand."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patterns = nn.Sequential(
            _block(3, width), nn.MaxPool2d(2), _block(width, 2 * width), nn.MaxPool2d(2), _block(2 * width, 2 * width)
        )
        self.head = nn.Sequential(nn.Linear(4 * width, 64), nn.ReLU(), nn.Linear(64, len(STYLES)))

    def forward(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B classes"]:
        """Logits of `STYLES`.

        Args:
            pixels: sRGB in [0, 1].
        """
        found = self.patterns(pixels * 2 - 1)
        return self.head(torch.cat([found.mean((2, 3)), found.std((2, 3))], dim=1))


def segment(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The class of every pixel of some pictures.

    Args:
        pictures: H W 3 uint8 each, of any side.

    Returns:
        B 64 64 uint8, numbers of `stuff.CLASSES`.

    Raises:
        DataError: the weights are missing or broken.
    """
    with torch.inference_mode():
        logits = segmenter()(as_pixels(pictures))
        sizes = functional.one_hot(logits.argmax(1), len(CLASSES)).sum((1, 2))
        seen = logits.masked_fill((sizes < SMALLEST_REGION)[:, :, None, None], float("-inf"))
        return seen.argmax(1).to(torch.uint8).numpy()


def name_styles(pictures: Sequence[np.ndarray]) -> list[str]:
    """The style of each picture, one of `STYLES`.

    Raises:
        DataError: the weights are missing or broken.
    """
    with torch.inference_mode():
        return [STYLES[int(number)] for number in style_judge()(as_pixels(pictures)).argmax(1)]


def as_pixels(pictures: Sequence[np.ndarray]) -> Float[Tensor, "B 3 64 64"]:
    """Pictures as the networks read them: shrunk to 64 pixels, in [0, 1].

    Raises:
        ShapeError: an array is no picture.
    """
    rows = []
    for picture in pictures:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ShapeError(f"the judges read H W 3 uint8 pictures; this is {picture.shape} {picture.dtype}.")
        image = Image.fromarray(picture)
        if image.size != (PICTURE_SIDE, PICTURE_SIDE):
            image = image.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BOX)
        rows.append(np.asarray(image))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255


def mean_overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Class-aware mean intersection over union of two maps, over the classes that occur in either.

    Args:
        found: H W class numbers.
        wanted: H W class numbers.
    """
    shares = []
    for number in np.union1d(found, wanted):
        one, other = found == number, wanted == number
        shares.append((one & other).sum() / (one | other).sum())
    return float(np.mean(shares))


@lru_cache(maxsize=1)
def segmenter() -> Segmenter:
    """The re-segmenter in the package, in evaluation mode."""
    return _load(Segmenter(), SEGMENTER)


@lru_cache(maxsize=1)
def style_judge() -> StyleJudge:
    """The style judge in the package, in evaluation mode."""
    return _load(StyleJudge(), STYLE_JUDGE)


def _load(network: Network, name: str) -> Network:
    path = FOLDER / name
    try:
        weights = load_file(path)
        network.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in weights.items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the judge's weights {path} cannot be read ({error}); make them with `python scripts/train_judges.py`.") from error
    return network.eval()
