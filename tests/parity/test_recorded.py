"""Every file of the recorded set is a case that some test holds; what is missing, unknown or half there fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.conftest import FIXTURES, case_name, cases, record, tensors

pytestmark = pytest.mark.parity

WEIGHTS = "model"
"""Folder of the weights that cases without their own share."""

COMPARED: dict[str, tuple[str, ...]] = {
    "mmfs_op": ("out.output",),
    "visual_tokenizer": ("out.vis_embed",),
    "llama_mmfs": ("out.logits", "out.prefill_logits"),
    "sd_unet_mmfs": ("out.sample", "out.decoded"),
    "whole_model": ("out.loss",),
    "generate": ("out.text_ids", "out.latents"),
}
"""Kinds of cases, and the results of which each case has one; the tests choose their cases by them."""

CASES = [path for kind in COMPARED for path in cases(kind)]


def test_the_set_holds_these_kinds_and_no_others() -> None:
    assert {path.name for path in FIXTURES.iterdir() if path.is_dir()} == {WEIGHTS, *COMPARED}


@pytest.mark.parametrize("path", [*CASES, *cases(WEIGHTS)], ids=case_name)
def test_a_case_has_both_its_files_and_they_agree(path: Path) -> None:
    shapes = {name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in tensors(path).items()}
    assert shapes == record(path)["tensors"]


@pytest.mark.parametrize("path", CASES, ids=case_name)
def test_a_case_is_of_a_form_that_is_compared(path: Path) -> None:
    assert set(COMPARED[path.parent.name]) & set(tensors(path))
