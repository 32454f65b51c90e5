"""Linear layers for a few rows on a CPU: what a decoding step multiplies.

Such a product reads each weight once and does little with it, so only how the cores share the reading counts. On processors that are not
Intel's, MKL runs the usual product of a few rows with a transposed weight on one core; the same product as a batch of blocks of the
weight's rows runs on all of them: two cores read a head of 32,002 × 512 for one row in 1.7 instead of 5.5 ms, for eight rows in 4.1
instead of 9.8 ms. With more rows, or with long ones, it counts which side is transposed: eight rows times 2,048 × 5,632 take 2.7 instead
of 4.7 ms where the rows stand in front. One row times a weight in bfloat16 is a compiled loop where numba is installed: 0.5 instead of
1.6 ms. On Intel's processors MKL shares a few rows out by itself (1.4 ms for one row, in blocks 3.3), and only from `IN_FRONT` rows on
blocks are faster (6.8 instead of 10.7 ms for sixteen). Equal to the usual form but for rounding.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mm_interleaved.ops.loops import missing, share_out, unit
from mm_interleaved.ops.processor import is_intel

FEW = 32
"""Rows up to which the blocks were faster (two cores, widths of 256 to 4,096)."""
IN_FRONT = 16
"""Rows from which on they stand in front of the transposed blocks, and not behind the blocks."""
LONG_IN_FRONT = 4
"""The same for long rows."""
LONG = 1024
"""Length from which on a row is long."""
WORTH_SHARING = 2**16
"""Elements of the smallest weight for which they were."""
NARROWEST = 32
"""A row in bfloat16 goes through the loop where its width is a multiple of this."""


def linear(x: Float[Tensor, "*any I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None = None) -> Float[Tensor, "*any O"]:
    """`functional.linear`; on a CPU and without gradients in the form that is faster for a few rows."""
    wide, narrow = weight.shape
    rows = x.numel() // narrow
    plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu" or rows == 0 or rows > FEW
    if plain or x.dtype != weight.dtype or weight.numel() < WORTH_SHARING or not weight.is_contiguous():
        return functional.linear(x, weight, bias)
    if is_intel() and (rows < IN_FRONT or x.dtype != torch.float32):
        return functional.linear(x, weight, bias)
    if x.dtype == torch.bfloat16 and rows == 1 and narrow % NARROWEST == 0 and missing() is None:
        return _one_row(x, weight, bias)
    blocks = math.gcd(wide, torch.get_num_threads())
    if x.dtype != torch.float32 or blocks == 1:
        return functional.linear(x, weight, bias)
    shares, flat = weight.view(blocks, wide // blocks, narrow), x.reshape(rows, narrow)
    if rows >= (LONG_IN_FRONT if narrow >= LONG else IN_FRONT):
        result = torch.bmm(flat.expand(blocks, -1, -1), shares.transpose(1, 2)).transpose(0, 1).reshape(*x.shape[:-1], wide)
    else:
        result = torch.bmm(shares, flat.T.expand(blocks, -1, -1)).view(wide, rows).T.contiguous().view(*x.shape[:-1], wide)
    return result if bias is None else result.add_(bias)


def _one_row(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from mm_interleaved.ops.numba_products import row_product  # numba takes half a second to import: only when it is used

    wide, narrow = weight.shape
    result = torch.empty(wide)
    lanes = unit(narrow // 2, torch.float32)[:32]
    arrays = (weight.detach().view(torch.uint16).flatten().numpy(), x.flatten().float().numpy(), lanes, result.numpy())
    share_out(row_product, arrays, parts=wide, work=weight.numel())
    return (result if bias is None else result.add_(bias)).to(x.dtype).view(*x.shape[:-1], wide)


class FewRowsLinear(nn.Linear):
    """A Linear layer by `linear`; it shares the parameters of the layer in whose place it stands."""

    def __init__(self, other: nn.Linear) -> None:
        super().__init__(other.in_features, other.out_features, bias=False, device="meta")
        self.weight, self.bias = other.weight, other.bias
        self.train(other.training)

    def forward(self, input: Float[Tensor, "*any I"]) -> Float[Tensor, "*any O"]:
        return linear(input, self.weight, self.bias)


def for_few_rows(module: nn.Module) -> None:
    """Puts a `FewRowsLinear` in the place of every plain Linear layer inside `module`: same parameters, same names.

    Layers of other kinds (quantised, with an adapter, fetched from elsewhere before they compute) stay as they are.
    """
    for name, child in module.named_children():
        if type(child) is nn.Linear and type(child.weight) is nn.Parameter and "forward" not in vars(child):
            setattr(module, name, FewRowsLinear(child))
        else:
            for_few_rows(child)
