"""MMFS: its cheaper forms give what the published order of operations gives."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mm_interleaved.errors import ShapeError
from mm_interleaved.model.configuration import MMFSConfig
from mm_interleaved.model.mmfs import MMFS

CONFIG = MMFSConfig(level_sides=(4, 2), base_side=4, heads=2, points=3, value_width=8, max_images=6)
ROWS = 2 * 3 * 2 + 2 * 2 * 4
"""Rows of the projections to offsets and logits; with more queries the projections are multiplied first."""


def module(dtype=torch.float64, config=CONFIG):
    torch.manual_seed(0)
    mmfs = MMFS(config, query_width=6, feature_width=5).to(dtype)
    for parameter in mmfs.parameters():
        nn.init.normal_(parameter, std=0.5)
    return mmfs


def inputs(queries, *, images=3, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1)
    query = torch.randn(2, queries, 6, generator=draw, dtype=dtype)
    features = torch.randn(2, images, 20, 5, generator=draw, dtype=dtype)
    visible = torch.rand(2, queries, images, generator=draw) < 0.6
    visible[0, 0] = False
    return query, torch.rand(2, queries, 2, generator=draw, dtype=dtype), features, visible


@pytest.mark.parametrize("queries", [3, ROWS], ids=["few_queries", "many_queries"])
def test_the_cheaper_form_gives_the_result_and_gradients_of_the_published_order(queries):
    found = []
    for backend in ("auto", "reference"):
        mmfs = module()
        query, reference_xy, features, visible = inputs(queries)
        result = mmfs(query.requires_grad_(), reference_xy, mmfs.project(features.requires_grad_()), visible, backend=backend)
        result.square().sum().backward()
        found.append([result, query.grad, features.grad, *(parameter.grad for parameter in mmfs.parameters())])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_many_queries_at_once_read_what_they_read_one_by_one():
    mmfs = module()
    query, reference_xy, features, visible = inputs(ROWS)
    values = mmfs.project(features)
    together = mmfs(query, reference_xy, values, visible)
    alone = [mmfs(query[:, [q]], reference_xy[:, [q]], values, visible[:, [q]]) for q in range(ROWS)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-9, atol=1e-9)


def test_one_row_of_visibility_may_stand_for_all_queries():
    mmfs = module()
    query, reference_xy, features, visible = inputs(5)
    shared = visible[:, 1:2].expand(-1, 5, -1)
    found = mmfs(query, reference_xy, mmfs.project(features), shared)
    torch.testing.assert_close(found, mmfs(query, reference_xy, mmfs.project(features), shared.contiguous()), rtol=0, atol=0)


def test_an_image_that_is_not_visible_changes_nothing():
    mmfs = module()
    query, reference_xy, features, _ = inputs(4)
    visible = torch.tensor([True, False, True]).expand(2, 4, -1)
    found = mmfs(query, reference_xy, mmfs.project(features), visible)
    without = mmfs(query, reference_xy, mmfs.project(features[:, [0, 2]]), visible[..., [0, 2]])
    torch.testing.assert_close(found, without, rtol=1e-12, atol=1e-12)


def test_a_query_that_sees_no_image_receives_the_null_value():
    mmfs = module()
    query, reference_xy, features, visible = inputs(3)
    found = mmfs(query, reference_xy, mmfs.project(features), visible)
    torch.testing.assert_close(found[0, 0], mmfs.output_projection(mmfs.null_value), rtol=1e-12, atol=1e-12)
    none = mmfs(query, reference_xy, mmfs.project(features[:, :0]), visible[..., :0])
    torch.testing.assert_close(none, mmfs.output_projection(mmfs.null_value).expand(2, 3, -1), rtol=1e-12, atol=1e-12)


def test_no_query_gives_an_empty_result():
    mmfs = module()
    query, reference_xy, features, visible = inputs(3)
    assert mmfs(query[:, :0], reference_xy[:, :0], mmfs.project(features), visible[:, :0]).shape == (2, 0, 6)


def test_levels_share_their_points_where_they_are_read_at_the_same_place():
    mmfs = module()
    query, reference_xy, _, visible = inputs(3)
    same, _, _ = mmfs.attend(query, reference_xy, visible)
    assert same.shape == (2, 3, 2, 3, 1, 3, 2)
    different, _, _ = mmfs.attend(query, reference_xy, visible, ((4, 4), (3, 3)))
    assert different.shape == (2, 3, 2, 3, 2, 3, 2)
    torch.testing.assert_close(different[:, :, :, :, 0], same[:, :, :, :, 0], rtol=1e-12, atol=1e-12)


class _Adapted(nn.Linear):
    """What an adapter does: the module's product is not that of its weight."""

    def forward(self, input):
        return super().forward(input) + input.sum(-1, keepdim=True)


@pytest.mark.parametrize("queries", [3, ROWS], ids=["few_queries", "many_queries"])
@pytest.mark.parametrize("name", ["query_projection", "offsets", "attention_weights"])
def test_an_adapted_projection_is_called_as_a_module(name, queries):
    mmfs = module()
    query, reference_xy, features, visible = inputs(queries)
    linear = getattr(mmfs, name)
    adapted = _Adapted(linear.in_features, linear.out_features, dtype=torch.float64)
    adapted.load_state_dict(linear.state_dict())
    setattr(mmfs, name, adapted)
    values = mmfs.project(features)
    expected = mmfs(query, reference_xy, values, visible, backend="reference")
    torch.testing.assert_close(mmfs(query, reference_xy, values, visible), expected, rtol=1e-9, atol=1e-9)


def test_values_kept_in_bfloat16_stay_close():
    # Eight bits of a value of order 1, averaged over the points: 2^-9 relative at worst.
    mmfs = module(torch.float32)
    query, reference_xy, features, visible = inputs(4, dtype=torch.float32)
    values = mmfs.project(features)
    exact = mmfs(query, reference_xy, values, visible)
    kept = mmfs(query, reference_xy, values.bfloat16(), visible)
    assert kept.dtype == torch.float32
    assert (kept - exact).abs().max() <= 0.02 * exact.abs().max()


def test_cells_that_do_not_add_up_are_named():
    mmfs = module()
    query, reference_xy, features, visible = inputs(3)
    with pytest.raises(ShapeError, match="one image has 19 cells"):
        mmfs(query, reference_xy, mmfs.project(features[:, :, :19]), visible)


FAR = 2**19
"""Bytes of a head's cells from which on they are asked for before they are read (`ops/deformable/numba_kernels.py`)."""


def both_ways(mmfs, query, reference_xy, features, visible):
    """Without gradients: sampled after `attend`, and read in one loop."""
    pytest.importorskip("numba")
    with torch.no_grad():
        values = mmfs.project(features)
        assert mmfs._at_once(query, reference_xy, values)
        return (mmfs(query, reference_xy, values, visible, backend=backend) for backend in ("gather", "auto"))


@pytest.mark.parametrize("queries", [3, ROWS], ids=["few_queries", "many_queries"])
def test_reading_at_once_gives_what_sampling_after_attending_gives(queries):
    mmfs = module()
    query, reference_xy, features, visible = inputs(queries)
    for places, seen in ((reference_xy, visible), (reference_xy[:1], visible[:, 1:2].expand(-1, queries, -1))):
        expected, found = both_ways(mmfs, query, places, features, seen)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("head_width", "dtype", "near"), [(16, torch.float32, 1e-5), (48, torch.float32, 1e-5), (32, torch.float64, 1e-12)]
)
def test_cells_that_lie_far_away_are_the_same_cells(head_width, dtype, near):
    mmfs = module(dtype, replace(CONFIG, level_sides=(64, 32), value_width=2 * head_width))
    query, reference_xy, _, visible = inputs(7, dtype=dtype)
    features = torch.randn(2, 3, 64**2 + 32**2, 5, dtype=dtype)
    assert 3 * features.shape[2] * head_width * dtype.itemsize > FAR
    expected, found = both_ways(mmfs, query, reference_xy, features, visible)
    torch.testing.assert_close(found, expected, rtol=near, atol=near)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_reading_at_once_in_narrower_numbers_stays_near(dtype, bound):
    query, reference_xy, features, visible = inputs(ROWS)
    expected, _ = both_ways(module(), query, reference_xy, features, visible)
    _, found = both_ways(module().to(dtype), query.to(dtype), reference_xy.float(), features.to(dtype), visible)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound * float(expected.detach().abs().max()))


@pytest.mark.parametrize("factor", [1e3, 1e5], ids=["logits_of_hundreds", "logits_beyond_the_exponential"])
def test_reading_at_once_bears_logits_of_any_size(factor):
    mmfs = module()
    with torch.no_grad():
        mmfs.attention_weights.weight.mul_(factor)
        mmfs.recency.weight.mul_(1 / factor)  # ranks differ little, queries much
    query, reference_xy, features, visible = inputs(7)
    expected, found = both_ways(mmfs, query, reference_xy, features, visible)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_ranks_with_large_logits_are_read_by_attending():
    mmfs = module()
    with torch.no_grad():
        mmfs.recency.weight.mul_(1e3)
    query, reference_xy, features, visible = inputs(7)
    expected, found = both_ways(mmfs, query, reference_xy, features, visible)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_reading_at_once_notices_that_weights_have_changed():
    mmfs = module()
    query, reference_xy, features, visible = inputs(7)
    list(both_ways(mmfs, query, reference_xy, features, visible))
    with torch.no_grad():
        mmfs.recency.weight.mul_(-2)
    expected, found = both_ways(mmfs, query, reference_xy, features, visible)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    mmfs.offsets.weight = nn.Parameter(mmfs.offsets.weight.detach().flip(0))
    expected, found = both_ways(mmfs, query, reference_xy, features, visible)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
