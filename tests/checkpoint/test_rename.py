"""Name tables: nothing is lost, and what does not fit is named."""

from __future__ import annotations

import pytest
import torch

from mm_interleaved.checkpoint.rename import DROPPED, NameTable, Rule, check_keys
from mm_interleaved.errors import CheckpointError

TABLE = NameTable(
    [
        ("decoder.*", "language.*"),
        ("decoder.layers.{}.cross.{}.{}", "language.layers.{}.pictures.{}.{}"),
        ("decoder.layers.{}.cross.out.dense.{}", "language.layers.{}.pictures.output.{}"),
        ("begin", "begin_embedding", 1),
        ("counter", DROPPED),
    ]
)


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("decoder.layers.3.mlp.up.weight", "language.layers.3.mlp.up.weight"),
        ("decoder.layers.3.cross.key.bias", "language.layers.3.pictures.key.bias"),
        ("decoder.layers.12.cross.out.dense.weight", "language.layers.12.pictures.output.weight"),
        ("begin", "begin_embedding"),
    ],
)
def test_names_are_carried_in_both_directions_by_the_most_specific_rule(published: str, ours: str) -> None:
    assert TABLE.to_ours(published) == ours
    assert TABLE.to_published(ours) == published


def test_tensors_survive_both_directions() -> None:
    source = {"begin": torch.randn(1, 4), "decoder.norm.weight": torch.randn(4)}
    ours = TABLE.rename(source, {"begin_embedding": (4,), "language.norm.weight": (4,)})
    back = TABLE.rename(ours, direction="to_published")
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], source[name]) for name in source)


def test_dropped_keys_are_left_out() -> None:
    assert TABLE.rename({"counter": torch.zeros(1)}) == {}


def test_unknown_source_key_is_refused_with_the_nearest_rule() -> None:
    with pytest.raises(CheckpointError, match=r"'begim'.*nearest rule is 'begin'"):
        TABLE.rename({"begim": torch.zeros(1)})


def test_unfilled_target_key_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"1 missing: 'language.norm.weight'"):
        TABLE.rename({"begin": torch.zeros(1, 4)}, {"begin_embedding": (4,), "language.norm.weight": (4,)})


def test_surplus_key_is_refused_with_the_nearest_expected_one() -> None:
    with pytest.raises(CheckpointError, match=r"not wanted: 'language.norm.weighs' \(nearest: 'language.norm.weight'\)"):
        TABLE.rename({"decoder.norm.weighs": torch.zeros(4)}, {"language.norm.weight": (4,)})


def test_other_shape_is_refused_with_both_names_and_shapes() -> None:
    with pytest.raises(CheckpointError, match=r"'language.norm.weight' \(from 'decoder.norm.weight'\) is \(4,\), the model has \(5,\)"):
        TABLE.rename({"decoder.norm.weight": torch.zeros(4)}, {"language.norm.weight": (5,)})


def test_two_source_keys_for_one_target_key_are_refused() -> None:
    table = NameTable([("a.{}", "x.{}"), ("b.{}", "x.{}")])
    with pytest.raises(CheckpointError, match=r"both become 'x.1'"):
        table.rename({"a.1": torch.zeros(1), "b.1": torch.zeros(1)})


def test_leading_axes_must_have_length_one() -> None:
    with pytest.raises(CheckpointError, match=r"leading axes of length 1"):
        TABLE.rename({"begin": torch.zeros(2, 4)})


def test_rule_that_cannot_be_carried_back_is_refused() -> None:
    with pytest.raises(CheckpointError, match="same slots"):
        Rule("a.{}.{}", "x.{}")


def test_long_lists_of_keys_are_counted() -> None:
    with pytest.raises(CheckpointError, match=r"20 missing.* and 12 more"):
        check_keys({}, {f"layer.{index}": (1,) for index in range(20)}, where="here")
