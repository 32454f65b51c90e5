"""The memory plan counts what is really there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mm_interleaved.checkpoint.memory_plan import FORMATS, TRAINED, plan_memory, plan_of
from mm_interleaved.checkpoint.native import save_model
from mm_interleaved.checkpoint.published import config_from_published
from mm_interleaved.errors import ConfigError
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.name_patterns import is_chosen
from mm_interleaved.testing import tiny_config, tiny_model, tiny_processor
from mm_interleaved.training.optim import freeze
from tests.checkpoint.released import layout

TOLERANCE = 0.10
"""The plan may leave out what is not stored (tables of rotary angles), never more than this share."""

PUBLISHED_TRAINED = 1465e6
"""Numbers that the publication trains (spec §1.5), known to its four digits."""


def _elements(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


@pytest.fixture(scope="module")
def full() -> MMInterleavedForConditionalGeneration:
    with torch.device("meta"):
        return MMInterleavedForConditionalGeneration(config_from_published({"model": {}}))


def test_the_released_model_has_as_many_numbers_as_its_layout(full: MMInterleavedForConditionalGeneration) -> None:
    assert plan_of(full).elements == sum(map(_elements, layout().values())) == 14_912_865_824


def test_the_published_split_trains_what_the_publication_trained(full: MMInterleavedForConditionalGeneration) -> None:
    assert plan_of(full).trained == pytest.approx(PUBLISHED_TRAINED, rel=5e-4)
    assert all(any(is_chosen(name, TRAINED) for name, _ in part.named_parameters(prefix)) for prefix, part in full.named_children())


def test_the_split_is_what_a_recipe_would_freeze(full: MMInterleavedForConditionalGeneration) -> None:
    named = [name for name, _ in full.named_parameters() if is_chosen(name, TRAINED)]
    assert freeze(full, TRAINED) == named


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_plan_of_the_tiny_model_agrees_with_its_memory(dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    tensors = [*model.parameters(), *model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    planned = plan_memory(tiny_config()).total("fp32" if dtype == torch.float32 else "bf16")
    assert planned == pytest.approx(sum(storages.values()), rel=TOLERANCE)


MEASURE = """
import ctypes, gc, sys, threading, time
import torch
from pathlib import Path
from mm_interleaved.checkpoint.convert import empty_model
from mm_interleaved.checkpoint.memory_plan import plan_of
from mm_interleaved.checkpoint.native import read_config
from mm_interleaved.generation.load import load
torch.set_num_threads(1)
folder, form, first = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

def memory(kind):
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024

def settled(kind):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    return memory(kind)

def read(model):
    with torch.no_grad():
        model.network(torch.tensor([[1, 30, 31, 32]]))
        for weight in model.network.parameters():
            if not weight.is_meta:
                weight.reshape(-1)[::512].sum()  # one number of every page: a mapped one is resident when it was used

options = {"fp32": {"dtype": torch.float32}, "bf16": {}, "wait": {"wait_on": "disk"}}.get(form, {"quantize": form})
options = {"dtype": torch.bfloat16, **options}
plan = plan_of(empty_model(read_config(folder)))
planned = plan.offloaded("bf16") if form == "wait" else plan.total(form)
# In the number type of their file, weights stay pages of that file and count as resident; otherwise they are the process's own, and
# the pages of the file, which the system may drop at any time, do not count.
kind = "Rss:" if form == "fp32" else "Anonymous:"
read(load(first, **options))  # a small model: libraries, threads and buffers
before, before_anonymous, peak, done = settled(kind), settled("Anonymous:"), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, memory("Anonymous:"))
        time.sleep(0.005)

thread = threading.Thread(target=watch)
thread.start()
model = load(folder, **options)
done = True
thread.join()
read(model)
print(planned, settled(kind) - before, peak - before_anonymous)
"""

WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 64}


def _saved(folder: Path, *, layers: int, vocabulary: int) -> Path:
    values = tiny_config().to_dict()
    values["text_config"] |= {**WIDE, "num_hidden_layers": layers, "vocab_size": vocabulary}
    torch.manual_seed(0)
    return save_model(MMInterleavedForConditionalGeneration(MMInterleavedConfig(**values)), tiny_processor(), folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A language model of 260 M numbers with tiny eyes and a tiny painter, in float32 on the disk; and one of 13 M."""
    folder = tmp_path_factory.mktemp("models")
    return _saved(folder / "large", layers=8, vocabulary=60_000), _saved(folder / "small", layers=1, vocabulary=300)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4", "wait"])
def test_the_plan_agrees_with_the_memory_of_a_process_that_loads_the_model(
    folders: tuple[Path, Path], form: str, record_testsuite_property: Callable[[str, object], None]
) -> None:
    large, small = folders
    command = [sys.executable, "-c", MEASURE, str(large), form, str(small)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    planned, held, peak = (int(number) for number in run.stdout.split()[-3:])
    record_testsuite_property(form, f"planned {planned / 2**20:.1f} MiB, held {held / 2**20:.1f}, at most {peak / 2**20:.1f}")
    assert held == pytest.approx(planned, rel=TOLERANCE)
    if form == "bf16":
        # From a file in float32: one copy in memory, plus what is being converted.
        assert peak < (1 + TOLERANCE) * planned


MEASURE_SHARE = """
import ctypes, gc, sys
import torch
from pathlib import Path
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from mm_interleaved.checkpoint.convert import empty_model
from mm_interleaved.checkpoint.memory_plan import plan_of
from mm_interleaved.checkpoint.native import read_config
torch.set_num_threads(1)
init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))

def anonymous():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024

def share(folder):
    model = empty_model(read_config(folder))
    for layer in model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            (tensor.to_local() if isinstance(tensor, DTensor) else tensor).fill_(0)
    return model

small = share(Path(sys.argv[2]))  # libraries, threads and buffers
before = anonymous()
large = share(Path(sys.argv[1]))
plan = plan_of(empty_model(read_config(Path(sys.argv[1]))), devices=2)
print("measured", plan.sharded("fp32") - 2 * plan.largest_unit["fp32"], anonymous() - before, flush=True)
destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_the_plan_agrees_with_the_share_of_each_of_two_processes(
    folders: tuple[Path, Path], record_testsuite_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    script = tmp_path / "measure.py"
    script.write_text(MEASURE_SHARE, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), *map(str, folders)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    lines = [[int(number) for number in line.split()[1:]] for line in run.stdout.splitlines() if line.startswith("measured")]
    assert len(lines) == 2
    for planned, held in lines:
        record_testsuite_property("fsdp", f"planned {planned / 2**20:.1f} MiB, held {held / 2**20:.1f}")
        assert held == pytest.approx(planned, rel=TOLERANCE)


def test_trained_bytes_agree_with_a_training_step() -> None:
    model = tiny_model()
    names = freeze(model, [pattern for pattern in TRAINED if "control_head" not in pattern])
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    averages = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    held = sum(tensor.nbytes for tensor in [*trained, *(parameter.grad for parameter in trained), *averages] if tensor is not None)
    plan = plan_of(model)
    assert len(names) == len(trained)
    assert plan.training() - 2 * (plan.elements - plan.trained) == pytest.approx(held, rel=TOLERANCE)


def test_fewer_bits_need_less_and_more_devices_need_less_each(full: MMInterleavedForConditionalGeneration) -> None:
    one, eight = plan_of(full), plan_of(full, devices=8)
    totals = [one.total(form) for form in FORMATS]
    assert totals == sorted(totals, reverse=True)
    for form in FORMATS:
        assert eight.total(form) / 8 < eight.sharded(form) < one.sharded(form) == one.total(form)
    assert one.offloaded("fp32") < one.total("fp32")
    assert one.offloaded("bf16") < one.total("bf16")
    assert one.offloaded("int8") is None  # in few bits nothing can wait elsewhere
    assert eight.training() < one.training()


def test_every_number_is_counted_once() -> None:
    model = tiny_model()
    plan = plan_of(model)
    assert plan.elements == sum(tensor.numel() for tensor in model.state_dict().values())
    assert plan.total("fp32") == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_no_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="devices"):
        plan_of(tiny_model(), devices=0)
