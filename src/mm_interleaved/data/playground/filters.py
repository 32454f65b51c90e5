"""Ways of drawing that no pack has: filters over a whole picture, each with settings, in integer arithmetic.

A third of the settings, by a salted hash of their names, is never shown in training.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from mm_interleaved.data.playground.world import fraction
from mm_interleaved.errors import ConfigError

HELD_OUT_SETTINGS = 1 / 3
SETTINGS: dict[str, tuple[int, ...]] = {
    "pixelate": (8, 12, 16, 20, 24),
    "posterise": (1, 2),
    "duotone": (0, 1, 2, 3, 4, 5),
    "invert": (0,),
    "edges": (0, 1),
    "hatch": (8, 12, 16),
    "dots": (8, 12, 16),
    "tiles": (14, 20, 28),
    "lines": (6, 10, 14),
}
"""Filter -> settings: a width in pixels at 224, bits, or the number of a pair of colours."""
DUOTONES = (
    ((60, 30, 10), (255, 236, 200)),
    ((10, 20, 80), (210, 236, 255)),
    ((10, 60, 20), (230, 255, 210)),
    ((90, 0, 60), (255, 220, 240)),
    ((0, 60, 70), (255, 244, 160)),
    ((120, 20, 0), (255, 220, 120)),
)
Filter = tuple[str, int]


def filters(*, held_out: bool) -> list[Filter]:
    """All filters with their settings on one side of the held-out line."""
    every = [(name, setting) for name, settings in SETTINGS.items() for setting in settings]
    return [each for each in every if (fraction("filter", each[0], str(each[1])) < HELD_OUT_SETTINGS) == held_out]


def apply_filter(picture: np.ndarray, filtered: Filter) -> np.ndarray:
    """The picture through a filter, H W 3 uint8.

    Raises:
        ConfigError: no filter has this name.
    """
    name, setting = filtered
    if name not in SETTINGS:
        raise ConfigError(f"no filter is called {name!r}; there are {', '.join(SETTINGS)}.")
    side = picture.shape[0]
    image = Image.fromarray(picture)
    width = max(1, setting * side // 224)
    rows, columns = np.mgrid[0:side, 0 : picture.shape[1]]
    if name == "pixelate":
        return _blocks(image, width)
    if name == "posterise":
        return np.asarray(ImageOps.posterize(image, setting))
    if name == "duotone":
        dark, light = DUOTONES[setting]
        return np.asarray(ImageOps.colorize(image.convert("L"), dark, light))
    if name == "invert":
        return 255 - picture
    if name == "edges":
        found = np.asarray(image.convert("L").filter(ImageFilter.FIND_EDGES)) if side > 8 else np.zeros(picture.shape[:2], np.uint8)
        lines = np.where(found > 40, 255, 0).astype(np.uint8)
        return np.repeat((lines if setting else 255 - lines)[..., None], 3, axis=2)
    grey = np.asarray(image.convert("L")).astype(np.int32)
    if name == "hatch":
        tone = (grey < 205) & ((rows + columns) % width < max(1, width // 4))
        tone |= (grey < 120) & ((rows - columns) % width < max(1, width // 4))
        return np.repeat(np.where(tone | (grey < 50), 30, 250)[..., None], 3, axis=2).astype(np.uint8)
    if name == "dots":
        mean = np.asarray(Image.fromarray(_blocks(image, width)).convert("L")).astype(np.int32)
        distance = (rows % width * 2 - width + 1) ** 2 + (columns % width * 2 - width + 1) ** 2
        return np.where((distance * 160 < (255 - mean) * width * width)[..., None], picture * 2 // 3, 252).astype(np.uint8)
    if name == "tiles":
        seams = (rows % width < max(1, width // 8)) | (columns % width < max(1, width // 8))
        return np.where(seams[..., None], 70, _blocks(image, width)).astype(np.uint8)
    width = max(2, width)
    return np.where((rows % width < max(1, width // 3))[..., None], picture // 3, picture).astype(np.uint8)


def _blocks(image: Image.Image, width: int) -> np.ndarray:
    side = max(1, -(-image.width // width))
    # Reduced to whole blocks, enlarged again; the last block of an odd width is narrower.
    small = image.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((side * width, side * width), Image.Resampling.NEAREST).crop((0, 0, image.width, image.height)))
