"""How long the threads of the command wait awake, which torch's OpenMP reads once, when it is loaded."""

import os
import subprocess
import sys

import pytest

LOOK = "import sys, os, mm_interleaved.cli; print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"


def look(**environment: str) -> list[str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", LOOK], env=plain | environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_waiting_threads_soon_sleep_and_that_is_settled_before_torch_is_loaded():
    assert look() == ["False", "1000"]


@pytest.mark.parametrize(
    ("environment", "kept"), [({"GOMP_SPINCOUNT": "70"}, "70"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")], ids=["spins", "policy"]
)
def test_what_the_user_says_about_waiting_threads_holds(environment, kept):
    assert look(**environment) == ["False", kept]
