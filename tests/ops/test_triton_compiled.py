"""The kernels of `ops/deformable/triton.py` through Triton's compiler, for a GPU that need not be there."""

from __future__ import annotations

import os

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


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_kernels_compile_for_hopper(kernel, name):
    values, places = (f"*{kind}" for kind in TYPES[name])
    told = {"values": values, "levels": "*i32", "points": places, "weights": values}
    told |= (
        {"result": values} if kernel == "forward" else {"gradient": values, "to_values": places, "to_points": places, "to_weights": places}
    )
    fixed = {"POINTS": 8, "COLUMNS": 64, "SUM": tl.float64 if name == "float64" else tl.float32}
    fixed |= {} if kernel == "forward" else {"WITH_VALUES": True}
    signature = told | dict.fromkeys(SIZES, "i32") | dict.fromkeys(fixed, "constexpr")

    source = ASTSource(fn=getattr(triton_kernels, kernel), signature=signature, constexprs=fixed)
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": 1})

    assert ".target sm_90" in compiled.asm["ptx"]
