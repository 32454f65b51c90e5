"""MMFS goes through `torch.compile` in one graph; in a process of its own, since shape checks and tracing do not mix."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
from mm_interleaved.model.configuration import MMFSConfig
from mm_interleaved.model.mmfs import MMFS

torch.manual_seed(0)
mmfs = MMFS(MMFSConfig(level_sides=(4, 2), base_side=4, heads=2, points=3, value_width=8, max_images=6), query_width=6, feature_width=5)
query, features = torch.randn(1, 2, 6, requires_grad=True), torch.randn(1, 3, 20, 5)
visible = torch.ones(1, 2, 3, dtype=torch.bool)

def read(query):
    return mmfs(query, torch.full((1, 2, 2), 0.5), mmfs.project(features), visible, backend=sys.argv[1])

compiled = torch.compile(read, backend="aot_eager", fullgraph=True)
found = []
for run in (read, compiled):
    result = run(query)
    found.append((result, *torch.autograd.grad(result.square().sum(), (query, mmfs.value_projection.weight))))
for eager, traced in zip(*found):
    torch.testing.assert_close(traced, eager, rtol=1e-5, atol=1e-6)  # float32
"""


@pytest.mark.parametrize("backend", ["auto", "gather"])
def test_mmfs_is_traced_in_one_graph_with_its_gradients(backend):
    run = subprocess.run([sys.executable, "-c", SCRIPT, backend], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
