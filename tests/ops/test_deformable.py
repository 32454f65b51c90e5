"""Every backend of deformable attention against its definition, and the definition against a naive loop."""

import math

import pytest
import torch

from mm_interleaved.errors import BackendError, ShapeError
from mm_interleaved.ops import deformable
from mm_interleaved.ops.deformable import BACKENDS, deformable_attention, reasons

SHAPES = {
    "one_level": ((4, 4),),
    "odd_sides": ((5, 3), (2, 7), (1, 1)),
    "three_images": ((4, 4), (2, 2)) * 3,
}
RUNNABLE = {name: module.unsupported(torch.zeros(1, 1, 1, 8)) for name, module in BACKENDS.items()}
BACKENDS_HERE = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)), id=name)
    for name, reason in RUNNABLE.items()
    if name != "triton"  # has its own tests, in the interpreter
]
FAST = [backend for backend in BACKENDS_HERE if backend.id != "reference"]


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
@pytest.mark.parametrize("backend", BACKENDS_HERE)
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


def headed(values):
    """The same numbers, but in memory head follows head."""
    return values.detach().transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_the_order_of_the_values_in_memory_changes_no_number(backend, rows, dtype, monkeypatch):
    monkeypatch.setattr(deformable.gather, "TAPS_AT_ONCE", 150)  # cut between heads
    shapes = SHAPES["odd_sides"]
    values, points_xy, weights = inputs(shapes, rows=rows, dtype=dtype)
    orders = {"cells": values, "heads": headed(values), "neither": torch.stack([values, values], dim=-1)[..., 0]}
    found = {}
    for name, table in orders.items():
        arguments = [tensor.detach().requires_grad_() for tensor in (table, points_xy, weights)]
        result = deformable_attention(arguments[0], shapes, *arguments[1:], backend=backend)
        found[name] = [result, *torch.autograd.grad(result.square().sum(), arguments)]
    assert not headed(values).is_contiguous()
    for name in ("heads", "neither"):
        for ours, expected in zip(found[name], found["cells"], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_gradients_agree_with_finite_differences(backend):
    shapes = ((3, 2), (2, 2))
    arguments = [tensor.requires_grad_() for tensor in inputs(shapes, rows=1, queries=2, heads=2, width=3, points=2)]
    assert torch.autograd.gradcheck(lambda *tensors: deformable_attention(tensors[0], shapes, *tensors[1:], backend=backend), arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_half_precision_stays_close_to_float64(backend, dtype):
    # Values and weights are rounded to 8 or 11 bits, points are not: a relative 2^-8 per term, 24 terms that add up.
    shapes = SHAPES["odd_sides"]
    exact = inputs(shapes)
    rounded = (exact[0].to(dtype), exact[1].float(), exact[2].to(dtype))
    expected = deformable_attention(exact[0], shapes, *exact[1:], backend="reference")
    found = deformable_attention(rounded[0], shapes, *rounded[1:], backend=backend)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
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


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_points_outside_every_map_read_nothing(backend):
    shapes = ((3, 3),)
    values, points_xy, weights = inputs(shapes)
    found = deformable_attention(values, shapes, points_xy + 5, weights, backend=backend)
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_points_that_are_no_numbers_read_nothing_and_spoil_no_other(backend):
    shapes = ((3, 3), (2, 2))
    values, points_xy, weights = inputs(shapes)
    expected = deformable_attention(values, shapes, points_xy, weights, backend="reference")
    points_xy[:, 0] = float("nan")
    points_xy[:, 1] = float("inf")
    found = deformable_attention(values, shapes, points_xy, weights, backend=backend)
    torch.testing.assert_close(found[:, 2:], expected[:, 2:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_no_query_gives_no_result_and_a_gradient_of_zero(backend):
    shapes = ((3, 3),)
    values, points_xy, weights = inputs(shapes, queries=0)
    found = deformable_attention(values.requires_grad_(), shapes, points_xy.requires_grad_(), weights, backend=backend)
    assert found.shape == (2, 0, 3, 8)
    assert torch.equal(torch.autograd.grad(found.sum(), values)[0], torch.zeros_like(values))


@pytest.mark.parametrize("backend", FAST)
def test_values_that_ask_for_no_gradient_get_none(backend):
    shapes = SHAPES["odd_sides"]
    gradients = []
    for name in ("reference", backend):
        values, points_xy, weights = inputs(shapes)
        result = deformable_attention(values, shapes, points_xy.requires_grad_(), weights.requires_grad_(), backend=name)
        gradients.append(torch.autograd.grad(result.square().sum(), (points_xy, weights)))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", FAST)
def test_work_that_is_cut_into_pieces_or_shared_by_threads_gives_the_same(backend, monkeypatch):
    shapes = ((8, 8), (4, 4), (2, 2))
    arguments = inputs(shapes, queries=64, heads=4, width=32, dtype=torch.float32)
    expected = deformable_attention(arguments[0], shapes, *arguments[1:], backend="reference")
    monkeypatch.setattr("mm_interleaved.ops.deformable.gather.TAPS_AT_ONCE", 64 * 48)  # one row and one head at a time
    monkeypatch.setattr("mm_interleaved.ops.loops.WORTH_A_THREAD", 1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = deformable_attention(arguments[0], shapes, *arguments[1:], backend=backend)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # float32 sums of 48 terms of order 1


@pytest.mark.parametrize("name", [name for name in ("compiled", "gather") if RUNNABLE[name] is None])
def test_the_operator_is_described_to_the_compiler_as_it_is(name):
    shapes = SHAPES["odd_sides"]
    values, points_xy, weights = inputs(shapes)
    sides = [side for shape in shapes for side in shape]
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    operator = getattr(torch.ops.mm_interleaved, f"deformable_{name}").default
    torch.library.opcheck(operator, (values.requires_grad_(), sides, points_xy, weights), test_utils=checks)


def test_the_first_path_without_a_reason_is_the_one_that_runs(caplog):
    deformable._log_once.cache_clear()
    values, points_xy, weights = inputs(((3, 3),))
    found = reasons(values)
    assert list(found) == list(BACKENDS) and found["reference"] is None
    with caplog.at_level("INFO"):
        deformable_attention(values, ((3, 3),), points_xy, weights)
    assert f"runs '{next(name for name, reason in found.items() if reason is None)}'" in caplog.text


def test_without_numba_the_next_path_is_taken_and_says_why(monkeypatch):
    monkeypatch.setattr("mm_interleaved.ops.deformable.compiled.missing", lambda: "compiled: numba is not installed")
    found = reasons(torch.zeros(1, 4, 1, 64))
    assert found["compiled"] == "compiled: numba is not installed"
    assert found["gather"] is None
    with pytest.raises(BackendError, match="numba is not installed; use backend='auto'"):
        deformable_attention(*_arguments(inputs(((2, 2),)), ((2, 2),)), backend="compiled")


def _arguments(tensors, shapes):
    return tensors[0], shapes, *tensors[1:]


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
    with pytest.raises(BackendError, match="there are triton, compiled, gather, reference"):
        deformable_attention(values, ((3, 3),), points_xy, weights, backend="cuda")
