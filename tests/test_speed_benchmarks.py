"""The benchmarks run, as short as they can be, and print what docs/results.md and the plot read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CASES = {
    "mmfs": {"llm_forward", "llm_forward_backward", "llm_decode_step", "unet_forward", "images", "queries"},
    "document": {"four_pictures_same_numerics", "four_pictures_equal_quality", "picture_8_against_1"},
    "batch": {"eight_texts", "eight_documents"},
    "decode": {"cached_token", "rows_2"},
    "picture": {"denoising_step", "branches_together", "bfloat16_step", "vae_tiled"},
    "train_step": {"train_step", "train_step_memory_kept"},
    "memory": {"llm_forward", "llm_forward_backward", "unet_forward", "unet_forward_backward"},
}
SHORT = {"mmfs": [], "memory": [], "train_step": ["--repeats", "1"]}
"""Arguments of those that know no `--quick`."""


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_benchmark_prints_one_row_a_case_with_what_was_compared(name):
    done = run(name, *SHORT.get(name, ["--quick"]))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    compared = [row for row in rows if "ratio" in row]
    assert {row["case"] for row in compared} >= CASES[name]
    amounts = ("bytes", "against_bytes") if name == "memory" else ("seconds", "against_seconds")
    for row in compared:
        assert row["path"] != row["against"]
        assert row["ratio"] == pytest.approx(row[amounts[1]] / row[amounts[0]], rel=2e-3)


def test_the_plot_is_drawn_from_the_lines_of_several_benchmarks(tmp_path):
    rows = [{"case": "llm_forward", "path": "compiled", "ratio": 7.0}, {"case": "eight_texts", "path": "scheduler", "ratio": 2.6}]
    rows += [{"case": "images", "path": "compiled", "images": count, "ratio": 4.0 + count} for count in (1, 2, 4)]
    rows += [{"case": f"{count}_texts", "path": "scheduler", "ratio": count / 2} for count in (2, 4)]
    (tmp_path / "mmfs.json").write_text("a line of a library\n" + "".join(json.dumps(row) + "\n" for row in rows[:1]))
    (tmp_path / "rest.json").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    done = run("plot", str(tmp_path / "mmfs.json"), str(tmp_path / "rest.json"), "-o", str(tmp_path / "speed.png"))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "speed.png") as drawn:
        assert drawn.width > 2.5 * drawn.height
        assert {(42, 127, 98), (0, 0, 0)} <= {colour for _, colour in drawn.convert("RGB").getcolors(2**24)}


@pytest.mark.parametrize(("text", "message"), [(None, "run the benchmark with >"), ("nothing\n", "found none")])
def test_a_file_that_holds_no_lines_of_a_benchmark_is_named(tmp_path, text, message):
    path = tmp_path / "batch.json"
    if text is not None:
        path.write_text(text)
    done = run("plot", str(path), "-o", str(tmp_path / "speed.png"))
    assert done.returncode == 1 and str(path) in done.stderr and message in done.stderr
    assert not (tmp_path / "speed.png").exists()
