"""A few fixed numbers on the device that computes with them.

Copying them there makes the device wait, and must not happen while a CUDA graph is recorded: so they are copied once and kept.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

KEPT = 1024
"""Different sets of numbers that are kept; a model asks for some dozens."""


def numbers_on(device: torch.device, numbers: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """`torch.tensor(numbers)`, to be read only: later calls give the same tensor.

    Args:
        device: where it lies.
        numbers: a row of them, or rows of rows.
        dtype: of the tensor.
    """
    if torch.compiler.is_compiling():  # there they become part of the program
        return torch.tensor(numbers, dtype=dtype, device=device)
    return _kept(device, _frozen(numbers), dtype)


@lru_cache(maxsize=KEPT)
def _kept(device: torch.device, numbers: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # else it could never take part in training
        return torch.tensor(numbers, dtype=dtype, device=device)


def _frozen(numbers: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_frozen(part) if isinstance(part, Sequence) else part for part in numbers)
