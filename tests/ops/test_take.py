import torch

from mm_interleaved.ops.take import take


def test_rows_taken_and_their_gradient_equal_those_of_indexing():
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(5, 3, 2, generator=draw, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, 4, 4], [2, 0, 4]])
    wanted = torch.randn(2, 3, 3, 2, generator=draw, dtype=torch.float64)
    (expected,) = torch.autograd.grad(table[index], table, wanted)
    found = take(table, index)
    assert torch.equal(found, table[index])
    torch.testing.assert_close(torch.autograd.grad(found, table, wanted)[0], expected, rtol=0, atol=1e-15)


def test_no_rows_give_nothing():
    assert take(torch.zeros(4, 3), torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 3)
