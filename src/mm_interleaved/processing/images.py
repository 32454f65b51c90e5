"""Pictures as the encoder and the decoder see them: a centred square, resized once, in [0, 1].

Both views are made from the original picture independently, so the decoder's target is not a blown-up encoder view.

Source: release `custom_datasets/utils.py` (spec §5.2). Deviations: one. A picture that is so
elongated that resizing would need more than `MAX_PIXELS` (a line of 50 million pixels, 1 high) is cropped first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from PIL import Image as pillow
from torch import Tensor

from mm_interleaved.errors import ShapeError
from mm_interleaved.picture_file import MAX_PIXELS


def to_square(array: npt.NDArray[np.generic], side: int) -> npt.NDArray[np.uint8]:
    """Crops a picture (H W 3, RGB, 8 bits) to its centred square and resizes it to `side` pixels.

    Halved with a box filter while the short side is at least twice the target, then bicubic, then cropped: large pictures
    are averaged rather than sampled. A picture that already is a square of this side is returned as it is.

    Raises:
        ShapeError: another shape or type.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ShapeError(f"picture: expected uint8 of shape (height, width, 3), got {array.dtype} {array.shape}.")
    height, width = array.shape[:2]
    if height == side and width == side:
        return np.asarray(array, dtype=np.uint8)  # the same array
    picture = pillow.fromarray(array)
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), resample=pillow.Resampling.BOX)
    scale = side / min(picture.size)
    scaled_width, scaled_height = round(picture.width * scale), round(picture.height * scale)
    if scaled_width * scaled_height > MAX_PIXELS:
        return np.asarray(picture.resize((side, side), resample=pillow.Resampling.BICUBIC, box=_centre(picture)))
    picture = picture.resize((scaled_width, scaled_height), resample=pillow.Resampling.BICUBIC)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(picture)[top : top + side, left : left + side]


def _centre(picture: pillow.Image) -> tuple[float, float, float, float]:
    """The centred square of a picture: left, top, right, bottom."""
    short = min(picture.size)
    left, top = (picture.width - short) / 2, (picture.height - short) / 2
    return left, top, left + short, top + short


def to_pixels(array: npt.NDArray[np.generic], side: int) -> Float[Tensor, "3 side side"]:
    """One view of a picture (H W 3, RGB, 8 bits): centred square of `side` pixels, float32 in [0, 1].

    Raises:
        ShapeError: another shape or type.
    """
    return stack_pixels([array], side)[0]


def stack_pixels(arrays: Sequence[npt.NDArray[np.generic]], side: int) -> Float[Tensor, "I 3 side side"]:
    """Views of many pictures at once; I may be 0.

    Raises:
        ShapeError: another shape or type.
    """
    stacked = np.empty((len(arrays), 3, side, side), dtype=np.uint8)
    for index, array in enumerate(arrays):
        stacked[index] = to_square(array, side).transpose(2, 0, 1)
    return torch.from_numpy(stacked).to(torch.float32).div_(255)


def from_pixels(pixels: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """A painted picture in 8 bits, as it will be saved: clipped to [0, 1] and rounded.

    What is painted enters the context through these 8 bits, so that a document goes on in the same way after it was saved.
    `to_pixels` of the result at the same side differs from `pixels` by at most 1/510.
    """
    rounded = pixels.detach().to(device="cpu", dtype=torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(1, 2, 0).numpy())
