"""Work that is shared out over threads."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from mm_interleaved.ops import loops

MUCH = 2**30


@pytest.fixture(params=["torch", "own"])
def threads_of(request, monkeypatch):
    """Two threads: torch's own, where its OpenMP library is found, or those of a pool."""
    if request.param == "own":
        monkeypatch.setattr(loops, "_openmp", lambda: None)
    elif loops._openmp() is None:
        pytest.skip("torch runs on no GNU OpenMP here")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.parametrize("parts", [2, 3, 16, 1000])
@pytest.mark.parametrize("work", [MUCH, loops.WORTH_A_THREAD])
def test_every_part_is_taken_once_by_two_threads(threads_of, parts, work):
    taken, together = [], threading.Barrier(2, timeout=60)
    met: set[int] = set()

    def loop(begin: int, end: int) -> None:
        taken.extend(range(begin, end))
        if threading.get_ident() not in met:  # each waits for the other: one thread alone would never come through
            met.add(threading.get_ident())
            together.wait()

    loops.share_out(loop, (), parts=parts, work=work)
    assert sorted(taken) == list(range(parts))
    assert len(met) == 2


def test_little_work_is_done_by_the_caller(threads_of):
    callers = []
    loops.share_out(lambda begin, end: callers.append((threading.get_ident(), begin, end)), (), parts=8, work=loops.WORTH_A_THREAD - 1)
    assert callers == [(threading.get_ident(), 0, 8)]


def test_an_error_in_any_share_reaches_the_caller_and_the_threads_go_on(threads_of):
    def loop(begin: int, end: int) -> None:
        if end == 16:
            raise ValueError(f"share {begin} to {end}")

    for _ in range(3):
        with pytest.raises(ValueError, match="to 16"):
            loops.share_out(loop, (), parts=16, work=MUCH)
    taken: list[int] = []
    loops.share_out(lambda begin, end: taken.extend(range(begin, end)), (), parts=16, work=MUCH)
    assert sorted(taken) == list(range(16))


PROGRAM = """
import os
import torch
from mm_interleaved.ops import loops
torch.set_num_threads(2)
def total():
    taken = []
    loops.share_out(lambda begin, end: taken.extend(range(begin, end)), (), parts=16, work=2**30)
    return sum(taken)
assert total() == 120
child = os.fork()
if child == 0:
    os._exit(total() % 256)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_process_shares_out_as_well():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "120", done.stderr


@pytest.mark.parametrize(
    ("libraries", "found"),
    [
        (["{torch}/lib/libgomp.so.1", "/elsewhere/other.libs/libgomp-1.so"], "{torch}/lib/libgomp.so.1"),
        (["/usr/lib/libgomp.so.1"], "/usr/lib/libgomp.so.1"),
        (["/usr/lib/libgomp.so.1", "/elsewhere/other.libs/libgomp-1.so"], None),
        ([], None),
    ],
)
def test_of_several_openmp_libraries_torchs_own_is_taken(tmp_path, monkeypatch, libraries, found):
    class Library:
        def __init__(self, path: str) -> None:
            self.GOMP_parallel = lambda *_: path

    folder = str(loops._TORCH)
    (tmp_path / "maps").write_text("".join(f"7f00-7f01 r-xp 0 0:0 1 {path.format(torch=folder)}\n" for path in libraries))
    monkeypatch.setattr(loops, "_MAPS", tmp_path / "maps")
    monkeypatch.setattr(loops.ctypes, "CDLL", Library)
    parallel = loops._openmp.__wrapped__()
    assert (parallel and parallel()) == (found and found.format(torch=folder))
    assert Path(folder).is_dir()
