"""The product of one row with a weight in bfloat16, as a compiled loop: each number of the weight is read once, sums are float32."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from mm_interleaved.ops.numba_lanes import add_product, compiled_loop, load, summed, zeros

Array = NDArray[Any]


@compiled_loop
def row_product(weight: Array, row: Array, unit: tuple[Any, ...], result: Array, begin: int, end: int) -> None:
    """Fills `result`, `O` numbers, from `begin` to `end`.

    Args:
        weight: `O I`, flat, the bits of bfloat16 as uint16.
        row: `I`, float32.
        unit: ones, as many as numbers are taken at a time; twice as many divide I.
    """
    width, lanes = row.shape[0], len(unit)
    for column in range(begin, end):
        base = column * width
        even, odd = zeros(unit), zeros(unit)
        for at in range(0, width, 2 * lanes):
            even = add_product(even, load(weight, base + at, unit), load(row, at, unit))
            odd = add_product(odd, load(weight, base + at + lanes, unit), load(row, at + lanes, unit))
        result[column] = summed(even) + summed(odd)
