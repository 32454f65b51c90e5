"""The guide to training on one's own pictures is executed: its commands are read out of the Markdown file, so that it cannot rot."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as pillow

from mm_interleaved.data.playground import build_wide
from mm_interleaved.data.playground.pack import Pack
from tests.data.sources.conftest import picture_bytes

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "finetune.md"

SHORTER = {"train": ["--set", "training.steps=2", "--set", "training.report_every=1"], "measure": ["--seeds", "1"]}
"""What is added to commands that hold these words; nothing else about them is changed."""

PROGRAMS = {
    "mmi": [sys.executable, "-m", "mm_interleaved.cli.main"],
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}


def blocks(heading: str) -> list[list[str]]:
    """The indented blocks below a heading, up to the next one, without their indentation."""
    text = GUIDE.read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", section, flags=re.MULTILINE)
    return [[line.removeprefix("    ") for line in block.splitlines()] for block in found]


def commands(heading: str) -> list[list[str]]:
    """The commands below a heading, in their order, comments cut off."""
    lines = [shlex.split(line, comments=True) for block in blocks(heading) for line in block]
    return [words for words in lines if words and words[0] in PROGRAMS]


def execute(words: list[str], folder: Path) -> str:
    """Runs a command of the guide in a folder; what it printed."""
    added = next((more for word, more in SHORTER.items() if word in words), [])
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": path}
    done = subprocess.run(
        [*PROGRAMS[words[0]], *words[1:], *added], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """A folder in which the guide's paths lead to the project."""
    for name in ("recipes", "scripts", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def write_documents(folder: Path, lines: list[str]) -> None:
    """The Markdown files that the guide shows, and the pictures that they name."""
    mine = folder / lines[0].strip().rstrip("/")
    mine.mkdir()
    texts: dict[str, list[str]] = {}
    for line in lines[1:]:
        name, words = re.fullmatch(r"\s+(\d+\.md)?\s+(.*)", line).groups()  # type: ignore[union-attr]
        texts.setdefault(name or next(reversed(texts)), []).append(words)
    for name, words in texts.items():
        (mine / name).write_text("\n".join(words) + "\n", encoding="utf-8")
        for number, picture in enumerate(re.findall(r"!\[\]\((.*?)\)", "\n".join(words))):
            (mine / picture).write_bytes(picture_bytes(100 * number, "JPEG", (96, 96)))
    assert len(texts) == 2


def test_the_guide_shows_these_commands():
    """Without running them: the two tests below would pass by an empty list if the guide's form changed."""
    own, new = commands("## Your own pictures"), commands("### Try it: a new figure in ten minutes")
    assert [(words[0], words[1]) for words in own] == [("mmi", "data"), ("mmi", "data"), ("mmi", "train"), ("torchrun", "--nproc-per-node")]
    assert [words[0] for words in new] == ["python", "torchrun", "python"]
    assert blocks("## Your own pictures")[0][0] == "mine/"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_documents_of_the_guide_are_checked_shown_and_trained(folder):
    write_documents(folder, blocks("## Your own pictures")[0])
    checked, shown, trained, together = commands("## Your own pictures")
    assert "mine: 2 documents from 2 records" in execute(checked, folder)
    execute(shown, folder)
    page = (folder / "out" / "mine.html").read_text(encoding="utf-8")
    assert "a grey cat" in page and page.count("data:image") == 2
    execute(trained, folder)
    assert (folder / "runs" / "finetune-own" / "final" / "model.safetensors").is_file()
    # The same folder: two processes find what one has finished.
    assert "finished: runs/finetune-own/final" in execute(together, folder)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_new_figure_of_the_guide_is_made_trained_and_measured(folder):
    make, train, measure = commands("### Try it: a new figure in ten minutes")
    execute(make, folder)
    assert len(list((folder / "mine").glob("*.md"))) == 20
    assert all(pillow.open(path).size == (224, 224) for path in (folder / "mine").glob("*.png"))
    execute(train, folder)
    rows = [json.loads(line) for line in execute(measure, folder).splitlines()]
    assert [row["model"] for row in rows] == ["src/mm_interleaved/box/nano", "runs/finetune-own/final"]
    assert rows[0]["drawn"] == 0, "the figure is one that the model in the box has never seen"
    assert (folder / "out" / "zora.html").stat().st_size > 100_000


def test_no_recipe_of_nano_shows_the_new_figure():
    program = runpy.run_path(str(ROOT / "scripts" / "new_figure.py"))
    thing, _ = program["figure"](Pack.load())
    recipes = [path.read_text("utf-8") for path in (ROOT / "recipes").rglob("*.yaml") if "smol" not in path.name]
    shown = [int(number) for recipe in recipes if "pack: packs/wide" not in recipe for number in re.findall(r"things: (\d+)", recipe)]
    assert len(shown) > 10 and thing >= max(*shown, build_wide.SHOWN)
