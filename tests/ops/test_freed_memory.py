"""Freed memory that the process keeps."""

import subprocess
import sys

import pytest

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
