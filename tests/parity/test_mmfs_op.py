"""MMFS gives the numbers of the published operator, forward and backward.

The definition (`reference`) is held to the recorded float32 numbers, gradients too. The fast path is held to the recorded outputs,
and to the definition's gradients in float64: in float32 a sampling point may sit exactly on a cell border, where the gradient jumps
and a last-bit difference in the order of sums decides the side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mm_interleaved.model.configuration import MMFSConfig
from mm_interleaved.model.mmfs import MMFS
from mm_interleaved.ops.deformable import BACKENDS
from tests.parity.conftest import GRADIENT_TOLERANCE, TOLERANCE, case_name, cases, check_files, record, relative_error, tensors

pytestmark = pytest.mark.parity

NAMES = {
    "ignore_token": "null_value",
    "sampling_offsets": "offsets",
    "dynamic_offset_mask": "query_projection",
    "attention_weights": "attention_weights",
    "value_proj": "value_projection",
    "output_proj": "output_projection",
    "query_relpos": "recency",
}

HERE = [name for name, module in BACKENDS.items() if module.unsupported(torch.zeros(1, 1, 1, 1)) is None]
"""The paths that run on this machine's CPU."""
FAST = [name for name in HERE if name != "reference"]


def _ours(name: str) -> str:
    head, _, tail = name.partition(".")
    return NAMES[head] + (f".{tail}" if tail else "")


class Case:
    """One recorded case, ready to run."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        recorded, arguments = tensors(path), record(path)["constructor"]
        self.recorded = recorded
        config = MMFSConfig(
            level_sides=tuple(arguments["spatial_shapes"]),
            base_side=arguments["base_spatial_shape"],
            heads=arguments["n_heads"],
            points=arguments["n_points"],
            value_width=int(arguments["d_model"] * arguments["ratio"]),
            max_images=arguments["max_num_image_per_seq"],
            offset_init=arguments["offset_init_magnitude"],
        )
        self.mmfs = MMFS(config, query_width=arguments["d_query"], feature_width=arguments["d_value"])
        state = {_ours(name.removeprefix("param.")): value for name, value in recorded.items() if name.startswith("param.")}
        self.mmfs.load_state_dict({name: value.flatten() if name == "null_value" else value for name, value in state.items()})
        self.mmfs.to(dtype)
        self.shapes = [tuple(shape) for shape in recorded["in.input_spatial_shapes"][: len(config.level_sides)].tolist()]
        self.inputs = {name: recorded[f"in.{name}"].to(dtype).requires_grad_() for name in ("query", "input_flatten", "reference_points")}
        self.visible = _visible(recorded["in.attention_mask"], self.inputs["query"].shape[1])

    def run(self, backend: Any) -> Tensor:
        padding = self.recorded.get("in.input_padding_mask")
        values = self.mmfs.project(self.inputs["input_flatten"], padding)
        return self.mmfs(self.inputs["query"], self.inputs["reference_points"], values, self.visible, self.shapes, backend=backend)

    def gradients(self, backend: Any) -> dict[str, Tensor]:
        output = self.run(backend)
        (output * self.recorded["in.grad_weight"].to(output.dtype)).sum().backward()
        found = {f"grad.{name}": tensor.grad for name, tensor in self.inputs.items()}
        parameters = dict(self.mmfs.named_parameters())
        recorded = [name for name in self.recorded if name.startswith("grad.param.")]
        return found | {name: parameters[_ours(name.removeprefix("grad.param."))].grad for name in recorded}


def _visible(mask: Tensor, queries: int) -> Tensor:
    """One mask for all queries, one per query, or a longer one of which only the last row counts (spec §2.2)."""
    mask = mask.bool()
    if mask.dim() == 2:
        return mask[:, None].expand(-1, queries, -1)
    return mask if mask.shape[1] == queries else mask[:, -1:].expand(-1, queries, -1)


@pytest.mark.parametrize("path", cases("mmfs_op"), ids=case_name)
def test_case(path: Path) -> None:
    check_files(path)
    _samples_where_the_published_code_does(Case(path))
    for backend in HERE:
        case = Case(path)
        assert relative_error(case.run(backend), case.recorded["out.output"]) <= TOLERANCE, backend
    _the_definition_gives_the_recorded_gradients(Case(path))
    expected = Case(path, torch.float64).gradients("reference")
    for backend in FAST:
        _has_the_gradients_of_the_definition(Case(path, torch.float64).gradients(backend), expected, backend)


def _samples_where_the_published_code_does(case: Case) -> None:
    if "mid.sampling_locations" not in case.recorded:
        return  # recorded for some cases only; the output above depends on them in all
    locations, weights, _ = case.mmfs.attend(case.inputs["query"], case.inputs["reference_points"], case.visible, case.shapes, literal=True)
    locations = locations.expand(*weights.shape, 2)  # levels that are read at the same place share it
    assert relative_error(locations.flatten(3, 4), case.recorded["mid.sampling_locations"]) <= TOLERANCE
    assert relative_error(weights.flatten(3, 4), case.recorded["mid.attention_weights"]) <= TOLERANCE


def _the_definition_gives_the_recorded_gradients(case: Case) -> None:
    found = case.gradients("reference")
    compared = {name: value for name, value in found.items() if case.recorded[name].any()}
    assert any(name.startswith("grad.param.") for name in compared)
    worst = {name: relative_error(value, case.recorded[name], kind="gradients") for name, value in compared.items()}
    assert max(worst.values()) <= GRADIENT_TOLERANCE, worst


def _has_the_gradients_of_the_definition(found: dict[str, Tensor], expected: dict[str, Tensor], backend: str) -> None:
    for name, value in found.items():
        # Both are float64 and only add in another order: 1e-9 is far above its rounding and far below any wrong term.
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{backend} {name}: {text}")
