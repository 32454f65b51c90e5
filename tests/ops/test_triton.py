"""The Triton kernels against the definition, run by Triton's interpreter on the CPU.

`scripts/gpu/check_kernels.py` runs the same comparison on a CUDA device.
"""

import os

import pytest
import torch

from mm_interleaved.errors import BackendError
from mm_interleaved.ops.deformable import deformable_attention, reasons
from mm_interleaved.ops.deformable import triton as path

pytest.importorskip("triton", reason="triton is not installed; its kernels cannot be interpreted")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("triton reads TRITON_INTERPRET when it is first imported; run with TRITON_INTERPRET=1", allow_module_level=True)

SHAPES = {"one_level": ((4, 4),), "odd_sides": ((5, 3), (2, 7), (1, 1)), "two_images": ((3, 3), (2, 2)) * 2}


def inputs(shapes, *, share=1, width=10, points=3, queries=2, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(2, sum(height * side for height, side in shapes), 2, width, generator=draw, dtype=torch.float64)
    points_xy = torch.rand(2, queries, 2, len(shapes) // share, points, 2, generator=draw, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, queries, 2, len(shapes), points, generator=draw, dtype=torch.float64)
    return values.to(dtype), points_xy.to(torch.promote_types(dtype, torch.float32)), weights.to(dtype)


def results(shapes, tensors, backend):
    """The result and the gradients of values, points and weights."""
    asked = [tensor.detach().requires_grad_() for tensor in tensors]
    result = deformable_attention(asked[0], shapes, *asked[1:], backend=backend)
    factors = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    return [result, *torch.autograd.grad((result * factors).sum(), asked)]


@pytest.mark.parametrize(("name", "share"), [("one_level", 1), ("odd_sides", 1), ("two_images", 2)])
def test_triton_gives_the_result_and_the_gradients_of_the_definition(name, share):
    tensors = inputs(SHAPES[name], share=share)
    for found, expected in zip(results(SHAPES[name], tensors, "triton"), results(SHAPES[name], tensors, "reference"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_points_without_weight_are_not_read_and_their_weights_still_have_a_gradient():
    shapes = SHAPES["two_images"]
    values, points_xy, weights = inputs(shapes, share=2)
    weights[:, :1, :, 2:] = 0  # the first query does not see the second image
    for found, expected in zip(
        results(shapes, (values, points_xy, weights), "triton"), results(shapes, (values, points_xy, weights), "reference"), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    values[:, 13:] = torch.nan
    result = deformable_attention(values, shapes, points_xy, weights, backend="triton")
    assert result[:, 0].isfinite().all() and result[:, 1].isnan().any()


def test_the_order_of_the_values_in_memory_changes_no_number():
    shapes = SHAPES["odd_sides"]
    values, points_xy, weights = inputs(shapes)
    headed = values.transpose(1, 2).contiguous().transpose(1, 2)
    assert not headed.is_contiguous()
    ours = results(shapes, (headed, points_xy, weights), "triton")
    for found, expected in zip(ours, results(shapes, (values, points_xy, weights), "reference"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06), (torch.float16, 0.01)], ids=str)
def test_narrow_numbers_stay_close_to_float64(dtype, tolerance):
    # Inputs are rounded first, so that what remains is the rounding of the result and of the gradients, relative to the largest.
    shapes = SHAPES["odd_sides"]
    tensors = inputs(shapes, dtype=dtype)
    exact = results(shapes, [tensor.double() for tensor in tensors], "reference")
    for found, expected in zip(results(shapes, tensors, "triton"), exact, strict=True):
        assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_points_that_do_not_fill_a_tile_are_taken_tile_after_tile(monkeypatch):
    monkeypatch.setattr(path, "TILE", 32)  # two points of sixteen columns
    monkeypatch.setattr(path, "BACKWARD_TILE", 32)
    shapes = SHAPES["one_level"]
    tensors = inputs(shapes, points=5)
    for found, expected in zip(results(shapes, tensors, "triton"), results(shapes, tensors, "reference"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_no_query_gives_no_result_and_a_gradient_of_zero():
    shapes = SHAPES["one_level"]
    found = results(shapes, inputs(shapes, queries=0), "triton")
    assert found[0].shape == (2, 0, 2, 10)
    assert torch.equal(found[1], torch.zeros_like(found[1]))


def test_the_interpreter_is_never_taken_by_itself():
    assert "interpreted" in reasons(torch.zeros(1, 4, 1, 64))["triton"]


def test_a_head_that_is_too_wide_is_named_and_the_next_path_taken():
    shapes = SHAPES["one_level"]
    tensors = inputs(shapes, width=520)
    with pytest.raises(BackendError, match="heads are 520 wide, the widest tile is 512"):
        deformable_attention(tensors[0], shapes, *tensors[1:], backend="triton")
    assert deformable_attention(tensors[0], shapes, *tensors[1:]).isfinite().all()


def test_gradients_in_no_fixed_order_are_refused_where_torch_is_told_to_be_deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        assert "no fixed order" in path.unsupported(torch.zeros(1, 4, 1, 8, requires_grad=True))
        assert path.unsupported(torch.zeros(1, 4, 1, 8)) is None
    finally:
        torch.use_deterministic_algorithms(False)


def test_values_on_the_cpu_are_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    assert path.unsupported(torch.zeros(1, 4, 1, 8)) == "triton: made for CUDA tensors, the values are on cpu"
