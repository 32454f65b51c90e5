"""The scripts that use a lent device: on a CPU they run the same cases, so that no minute there is lost to a slip."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts" / "gpu"
RUNS = {
    "decoding": ["check_decoding.py", "--size", "tiny"],
    "decoding_float32": ["check_decoding.py", "--size", "tiny", "--dtype", "float32"],
    "decoding_grouped": ["check_decoding.py", "--size", "tiny", "--grouped"],
    "model": ["check_model.py"],
}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_every_case_of_a_device_script_runs_and_agrees_on_a_cpu(run):
    script, *options = RUNS[run]
    command = [sys.executable, str(SCRIPTS / script), "--device", "cpu", "--at-most", "300", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, run.stderr[-3000:]
    assert rows[-1]["case"] == "end"
    assert not any("error" in row or "not_measured" in row for row in rows)


def test_a_case_that_fails_costs_no_other_and_ends_with_status_1():
    program = f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
from cases import Cases
cases = Cases(60)
cases.run("breaks", lambda: 1 / 0)
cases.run("differs", lambda: {{"passed": False}})
cases.run("agrees", lambda: {{"passed": True}})
cases.end()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    rows = {row["case"]: row for row in map(json.loads, run.stdout.splitlines())}
    assert run.returncode == 1
    assert rows["breaks"]["error"].startswith("ZeroDivisionError")
    assert "ZeroDivisionError" in run.stderr
    assert rows["agrees"]["passed"]
    assert rows["end"]["failed"] == ["breaks", "differs"]
