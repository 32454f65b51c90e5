"""Freed memory that the process keeps."""

import os
import subprocess
import sys

import pytest

from mm_interleaved.ops import freed_memory

PAGES = """
import resource, sys, torch
from mm_interleaved.ops.freed_memory import keep_freed_memory
assert keep_freed_memory()
if sys.argv[1] == "given back":
    assert keep_freed_memory(False)
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(40 * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(10)
print(faults(20))
"""
"""Asks 20 times for 40 MiB and prints how many new pages the kernel had to give."""

PAGES_OF_ALL = 20 * 40 * 2**20 // 2**12


def new_pages(kept):
    run = subprocess.run([sys.executable, "-c", PAGES, kept], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another C library")
def test_kept_memory_serves_the_next_tensors_and_given_back_it_does_not():
    assert new_pages("kept") < PAGES_OF_ALL / 20
    assert new_pages("given back") > PAGES_OF_ALL / 2


GAPS = """
import torch
from mm_interleaved.ops.freed_memory import KeptMemory, own_bytes, keep_freed_memory
keep_freed_memory()
torch.ones(1)
kept = KeptMemory()
assert not kept.after_step()
assert not kept.after_step()
blocks = [torch.ones(2**18) for _ in range(400)]
del blocks[::2]
before = own_bytes()
assert kept.after_step(), "every other of 400 blocks is a gap"
print(before - own_bytes())
assert not kept.after_step(), "what one step needs is taken anew"
assert all(bool((block == 1).all()) for block in blocks)
"""
"""Prints the bytes that were given back of 200 MiB of gaps."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another C library")
def test_gaps_are_given_back_once_they_are_more_than_is_allowed():
    run = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 150 * 2**20


def test_a_step_that_needs_more_than_the_ones_before_is_not_mistaken_for_gaps_twice(monkeypatch):
    held = iter([100, 130, 130, 140, 140, 160])
    given_back = []
    monkeypatch.setattr(freed_memory, "own_bytes", lambda: next(held))
    monkeypatch.setattr(freed_memory, "give_back", lambda: not given_back.append(True))
    kept = freed_memory.KeptMemory()
    assert [kept.after_step() for _ in range(6)] == [False, True, False, False, False, True]


def test_a_system_that_does_not_tell_its_pages_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(freed_memory, "_STATM", tmp_path / "missing")
    kept = freed_memory.KeptMemory()
    assert not any(kept.after_step() for _ in range(3))


def test_what_the_user_says_of_prepared_products_holds(monkeypatch):
    variable = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(variable, raising=False)
    freed_memory.keep_few_primitives()
    assert os.environ[variable] == "256"
    monkeypatch.setenv(variable, "7")
    freed_memory.keep_few_primitives()
    assert os.environ[variable] == "7"
