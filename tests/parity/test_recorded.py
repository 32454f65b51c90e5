"""The recorded set holds every kind of case and no other, and each of its cases is one test."""

from __future__ import annotations

from importlib import import_module

import pytest

from tests.parity.conftest import COMPARED, FIXTURES, cases, published_record, published_weights

pytestmark = pytest.mark.parity

WEIGHTS = "model"
"""Folder of the weights that cases without their own share."""


def test_the_set_holds_these_kinds_and_no_others() -> None:
    assert {path.name for path in FIXTURES.iterdir() if path.is_dir()} == {WEIGHTS, *COMPARED}


def test_the_shared_weights_are_the_recorded_ones() -> None:
    found = {name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in published_weights().items()}
    assert found == published_record()["tensors"]


@pytest.mark.parametrize("kind", COMPARED)
def test_every_case_of_the_folder_is_exactly_one_test(kind: str) -> None:
    module = {"mmfs_op": "mmfs_op", "llama_mmfs": "language_model", "sd_unet_mmfs": "image_decoder"}.get(kind, kind)
    marks = [mark for mark in import_module(f"tests.parity.test_{module}").test_case.pytestmark if mark.name == "parametrize"]
    assert [mark.args for mark in marks] == [("path", cases(kind))]
