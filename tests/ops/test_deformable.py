"""Every backend of deformable attention against its definition, and the definition against a naive loop."""

import math

import pytest
import torch

from mm_interleaved.errors import BackendError, ShapeError
from mm_interleaved.ops.deformable import BACKENDS, deformable_attention

SHAPES = {
    "one_level": ((4, 4),),
    "odd_sides": ((5, 3), (2, 7), (1, 1)),
    "three_images": ((4, 4), (2, 2)) * 3,
}
FAST = [name for name in BACKENDS if name != "reference"]


def inputs(level_shapes, *, share=1, rows=2, queries=5, heads=3, width=8, points=4, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    cells = sum(height * side for height, side in level_shapes)
    values = torch.randn(rows, cells, heads, width, generator=draw, dtype=torch.float64).to(dtype)
    groups = len(level_shapes) // share
    points_xy = torch.rand(rows, queries, heads, groups, points, 2, generator=draw, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(rows, queries, heads, len(level_shapes), points, generator=draw, dtype=torch.float64).to(dtype)
    return values, points_xy.to(torch.promote_types(dtype, torch.float32)), weights


def naive(values, level_shapes, points_xy, weights):
    """One tap after the other, as eq. 3 of Deformable DETR reads."""
    rows, _, heads, width = values.shape
    result = torch.zeros(rows, points_xy.shape[1], heads, width, dtype=values.dtype)
    for row, query, head in torch.cartesian_prod(*(torch.arange(size) for size in (rows, points_xy.shape[1], heads))).tolist():
        start = 0
        for level, (height, side) in enumerate(level_shapes):
            for point in range(points_xy.shape[4]):
                x = float(points_xy[row, query, head, level, point, 0]) * side - 0.5
                y = float(points_xy[row, query, head, level, point, 1]) * height - 0.5
                for tap_y in (math.floor(y), math.floor(y) + 1):
                    for tap_x in (math.floor(x), math.floor(x) + 1):
                        if 0 <= tap_x < side and 0 <= tap_y < height:
                            share = (1 - abs(x - tap_x)) * (1 - abs(y - tap_y))
                            cell = values[row, start + tap_y * side + tap_x, head]
                            result[row, query, head] += weights[row, query, head, level, point] * share * cell
            start += height * side
    return result


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_equals_the_naive_loop(backend, shapes):
    arguments = inputs(shapes)
    found = deformable_attention(arguments[0], shapes, *arguments[1:], backend=backend)
    torch.testing.assert_close(found, naive(arguments[0], shapes, *arguments[1:]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_a_fast_backend_equal_the_reference(backend, shapes):
    gradients = {}
    for name in ("reference", backend):
        arguments = [tensor.requires_grad_() for tensor in inputs(shapes)]
        result = deformable_attention(arguments[0], shapes, *arguments[1:], backend=name)
        gradients[name] = torch.autograd.grad((result * torch.linspace(-1, 1, result.numel()).view_as(result)).sum(), arguments)
    for ours, expected in zip(gradients[backend], gradients["reference"], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_agree_with_finite_differences(backend):
    shapes = ((3, 2), (2, 2))
    arguments = [tensor.requires_grad_() for tensor in inputs(shapes, rows=1, queries=2, heads=2, width=3, points=2)]
    assert torch.autograd.gradcheck(lambda *tensors: deformable_attention(tensors[0], shapes, *tensors[1:], backend=backend), arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_stays_close_to_float64(backend, dtype):
    # Values and weights are rounded to 8 or 11 bits, points are not: a relative 2^-8 per term, 24 terms that add up.
    shapes = SHAPES["odd_sides"]
    exact = inputs(shapes)
    rounded = (exact[0].to(dtype), exact[1].float(), exact[2].to(dtype))
    expected = deformable_attention(exact[0], shapes, *exact[1:], backend="reference")
    found = deformable_attention(rounded[0], shapes, *rounded[1:], backend=backend)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_levels_that_share_points_equal_levels_with_copies_of_them(backend):
    shapes = SHAPES["three_images"]
    found, expected = [], []
    for repeat, results in ((False, found), (True, expected)):
        values, points_xy, weights = (tensor.requires_grad_() for tensor in inputs(shapes, share=2))
        points = points_xy.repeat_interleave(2, dim=3) if repeat else points_xy
        result = deformable_attention(values, shapes, points, weights, backend="reference" if repeat else backend)
        results += [result, *torch.autograd.grad(result.square().sum(), (values, points_xy, weights))]
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_points_outside_every_map_read_nothing(backend):
    shapes = ((3, 3),)
    values, points_xy, weights = inputs(shapes)
    found = deformable_attention(values, shapes, points_xy + 5, weights, backend=backend)
    assert torch.equal(found, torch.zeros_like(found))


def test_an_empty_batch_gives_an_empty_result():
    shapes = ((3, 3),)
    values, points_xy, weights = (tensor[:0] for tensor in inputs(shapes))
    assert deformable_attention(values, shapes, points_xy, weights).shape == (0, 5, 3, 8)


def test_levels_that_do_not_add_up_are_named():
    values, points_xy, weights = inputs(((3, 3),))
    with pytest.raises(ShapeError, match="has 1 levels of 16 cells, values has 9 cells"):
        deformable_attention(values, ((4, 4),), points_xy, weights)


def test_points_for_half_a_level_are_refused():
    shapes = SHAPES["three_images"]
    values, points_xy, weights = inputs(shapes)
    with pytest.raises(ShapeError, match="weights 6 levels and points_xy 4 groups"):
        deformable_attention(values, shapes, points_xy[:, :, :, :4], weights)


def test_an_unknown_backend_is_refused_with_the_known_ones():
    values, points_xy, weights = inputs(((3, 3),))
    with pytest.raises(BackendError, match="there are compiled, gather, reference"):
        deformable_attention(values, ((3, 3),), points_xy, weights, backend="cuda")
