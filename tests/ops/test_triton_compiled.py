"""The kernels of `ops/deformable/triton.py` through Triton's compiler, for a GPU that need not be there."""

from __future__ import annotations

import os
from itertools import product

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed; its kernels cannot be compiled")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("with TRITON_INTERPRET=1 triton compiles nothing", allow_module_level=True)

from triton import language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from mm_interleaved.ops.deformable import triton_kernels  # noqa: E402

HOPPER = GPUTarget("cuda", 90, 32)

TYPES = {"float32": ("fp32", "fp32"), "bfloat16": ("bf16", "fp32"), "float16": ("fp16", "fp32"), "float64": ("fp64", "fp64")}
"""Of the values and of the places."""

SIZES = ("row_step", "cell_step", "head_step", "queries", "heads", "width", "count", "share", "per_level")

GRADIENTS = ("to_values", "to_points", "to_weights")


KERNELS = {
    "forward": {"POINTS": 8},
    "backward": {"POINTS": 8, "WITH_VALUES": True},
    "add_to_cells": {"QUERIES": 64, "CELLS": 64},
}


@pytest.mark.parametrize(
    ("kernel", "name"), [*product(("forward", "backward"), TYPES), ("add_to_cells", "float32"), ("add_to_cells", "bfloat16")]
)
def test_kernels_compile_for_hopper(kernel, name):
    values, places = (f"*{kind}" for kind in TYPES[name])
    told = {"values": values, "levels": "*i32", "tiles": "*i32", "points": places, "weights": values, "gradient": values, "result": values}
    told |= dict.fromkeys(GRADIENTS, places) | dict.fromkeys((*SIZES, "most", "span"), "i32")
    fixed = KERNELS[kernel] | {"COLUMNS": 64, "SUM": tl.float64 if name == "float64" else tl.float32}
    function = getattr(triton_kernels, kernel)
    signature = {argument: told.get(argument, "constexpr") for argument in function.arg_names}

    compiled = triton.compile(ASTSource(fn=function, signature=signature, constexprs=fixed), target=HOPPER, options={"num_warps": 4})

    assert ".target sm_90" in compiled.asm["ptx"]
