"""Kernels run in memory that holds no number: what one does not write, or reads without having written it, is NaN in its result."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _new_memory_holds_no_number(monkeypatch):
    empty, like, new = torch.empty, torch.empty_like, torch.Tensor.new_empty

    def filled(tensor):
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", lambda *size, **options: filled(empty(*size, **options)))
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **options: filled(like(tensor, **options)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda tensor, *size, **options: filled(new(tensor, *size, **options)))
