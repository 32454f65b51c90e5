"""Rows of a table by their numbers, with a gradient that adds row after row.

The gradient of `table[index]` sorts single numbers on CPUs and adds them one by one; that of `index_select` adds whole rows.

Axes: R rows of the table.
"""

from jaxtyping import Float, Int
from torch import Tensor


def take(table: Float[Tensor, "R *rest"], index: Int[Tensor, "*any"]) -> Float[Tensor, "..."]:
    """`table[index]`, row by row.

    Args:
        index: which rows, in any shape; each between 0 and R - 1.
    """
    return table.index_select(0, index.reshape(-1)).view(*index.shape, *table.shape[1:])
