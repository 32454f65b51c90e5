"""Products of a few rows by blocks of the weight."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from mm_interleaved.ops import few_rows, processor
from mm_interleaved.ops.few_rows import FEW, IN_FRONT, LONG, LONG_IN_FRONT, FewRowsLinear, for_few_rows, linear


@pytest.fixture(params=[False, True], ids=["other", "intel"])
def intel(request, monkeypatch):
    """Which form is taken depends on the processor; every machine tests both."""
    monkeypatch.setattr(few_rows, "is_intel", lambda: request.param)
    return request.param


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(1, 256), (3, 1, 256), (2, 4, 256), (FEW, 256), (FEW + 1, 256), (0, 256), (256,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("wide", [384, 331])
@torch.no_grad()
def test_blocks_equal_one_product(shape, dtype, wide, threads, intel):
    x, weight, bias = torch.randn(shape, dtype=dtype), torch.randn(wide, 256, dtype=dtype), torch.randn(wide, dtype=dtype)
    near = {"rtol": 2**-7, "atol": 2**-7} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-4}  # bfloat16: its last digit
    for shift in (None, bias):
        expected = functional.linear(x, weight, shift)
        torch.testing.assert_close(linear(x, weight, shift), expected, **near)
        assert linear(x, weight, shift).is_contiguous()


@pytest.mark.parametrize(("rows", "narrow"), [(IN_FRONT - 1, 256), (IN_FRONT, 256), (LONG_IN_FRONT - 1, LONG), (LONG_IN_FRONT, LONG)])
@torch.no_grad()
def test_rows_in_front_and_behind_give_one_product(rows, narrow, threads, intel):
    x, weight = torch.randn(rows, narrow), torch.randn(384, narrow)
    found = linear(x, weight)
    torch.testing.assert_close(found, functional.linear(x, weight), rtol=1e-5, atol=3e-4)
    assert found.is_contiguous() and found.untyped_storage().nbytes() == found.nbytes  # nothing else is kept alive


@torch.no_grad()
def test_one_row_in_bfloat16_is_added_up_in_float32(intel):
    pytest.importorskip("numba")
    row, weight, shift = torch.rand(1, 4096).bfloat16(), torch.rand(64, 4096).bfloat16(), torch.rand(64).bfloat16()
    exact = functional.linear(row.double(), weight.double(), shift.double())
    torch.testing.assert_close(linear(row, weight, shift).double(), exact, rtol=2**-8, atol=0)


@pytest.mark.parametrize(("rows", "left", "on_intel"), [(2, (2, 256, 256), False), (IN_FRONT, (2, IN_FRONT, 256), True)])
def test_few_rows_are_computed_in_blocks_and_only_without_gradients(monkeypatch, intel, rows, left, on_intel):
    products = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *sides: products.append(sides[0].shape) or bmm(*sides))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    layer = FewRowsLinear(nn.Linear(256, 512))
    x = torch.randn(rows, 256, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None and not products
    with torch.no_grad():
        layer(x)
    assert products == ([left] if on_intel or not intel else [])


def test_layers_keep_their_parameters_and_names_and_others_stay():
    class Other(nn.Linear):
        pass

    network = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 8), nn.ReLU()), "b": Other(8, 8), "fetched": nn.Linear(8, 8)})
    network["fetched"].forward = lambda x: x  # as layers that wait elsewhere do
    before = copy.deepcopy(network.state_dict())
    first = network["a"][0].weight
    for_few_rows(network)
    assert type(network["a"][0]) is FewRowsLinear and network["a"][0].weight is first
    assert type(network["b"]) is Other and type(network["fetched"]) is nn.Linear
    assert list(network.state_dict()) == list(before)
    network.load_state_dict(before)


@pytest.mark.parametrize(("text", "expected"), [("vendor_id : GenuineIntel", True), ("vendor_id : AuthenticAMD", False), (None, False)])
def test_the_maker_of_the_processor_is_read_where_linux_tells_it(tmp_path, monkeypatch, text, expected):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(processor, "_CPUINFO", path)
    monkeypatch.setattr(processor.sys, "platform", "linux")
    assert processor.is_intel.__wrapped__() is expected
