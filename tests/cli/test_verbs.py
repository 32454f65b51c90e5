"""The other verbs, the help of all of them, and what an exception becomes."""

import json
from dataclasses import fields

import pytest
import typer
from typer.testing import CliRunner

from mm_interleaved import __version__
from mm_interleaved.cli import demo as demo_verb
from mm_interleaved.cli.console import guarded
from mm_interleaved.cli.main import app
from mm_interleaved.document import Document
from mm_interleaved.errors import DataError
from mm_interleaved.generation import load as loading
from mm_interleaved.generation.scheduler import Scheduler
from tests.cli.conftest import assert_user_error, result_of

VERBS = [
    ("demo",),
    ("generate",),
    ("train",),
    ("evaluate",),
    ("explain",),
    ("page",),
    ("doctor",),
    ("data", "build"),
    ("data", "preview"),
    ("data", "validate"),
    ("convert", "published"),
    ("convert", "back"),
    ("convert", "backbones"),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_and_json(verb, mmi):
    run = mmi(*verb, "--help")
    assert run.exit_code == 0
    assert "--json" in run.stdout


def test_the_command_alone_shows_its_verbs_and_version(mmi):
    assert all(verb[0] in mmi("--help").stdout for verb in VERBS)
    assert mmi("--version").stdout.strip() == __version__


def test_demo_continues_every_example_with_at_least_four_different_pictures(mmi, model, tmp_path, monkeypatch):
    # A random model draws by chance only, so here every page begins with a picture.
    plain = Scheduler.add
    forced = {"force_image": True, "max_tokens": 3}
    monkeypatch.setattr(Scheduler, "add", lambda self, *document, **options: plain(self, *document, **{**options, **forced}))
    out = tmp_path / "out"
    found = result_of(mmi("demo", "-o", out, "--model", model, "--steps", 1, "--json"))
    assert [one["name"] for one in found["documents"]] == list(demo_verb.SHOWN)
    hashes = [picture for one in found["documents"] for picture in one["picture_hashes"]]
    assert found["pictures"] == len(hashes) >= 4
    assert len(set(hashes)) >= 4
    for one in found["documents"]:
        assert (out / f"{one['name']}.html").is_file()
        assert len(Document.load(out / f"{one['name']}.json").images) >= one["pictures"]


def test_demo_without_weights_says_how_to_get_them(mmi, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BOX", tmp_path / "box")
    assert_user_error(mmi("demo", "-o", tmp_path / "out"), "mmi train")


def test_every_example_can_be_read_and_is_small():
    files = sorted(demo_verb.EXAMPLES.glob("*.md"))
    assert {file.stem for file in files} >= set(demo_verb.SHOWN)
    for file in files:
        document = Document.load(file)
        assert document.texts
        # Handwriting, screens and small things need more than the 224 pixels that the demonstration's pictures have.
        largest = 224 if file.stem in demo_verb.SHOWN else 448
        assert all(max(image.size) <= largest and image.alt for image in document.images)


def test_doctor_names_libraries_devices_backends_model_pack_and_disk(mmi, model, tmp_path):
    run = mmi("doctor", "--model", model, "-o", tmp_path / "not" / "yet", "--json")
    found = json.loads(run.stdout)
    names = " ".join(finding["name"] for finding in found["findings"])
    for word in ("Python", "devices", "bf16", "deformable attention 'reference'", "model", "pack", "disk"):
        assert word in names
    assert run.exit_code == (2 if found["problems"] else 0)
    assert not any("model" in problem for problem in found["problems"])


@pytest.mark.parametrize(("library", "found"), [("libtcmalloc_minimal.so.4", "tcmalloc"), ("libc.so.6", "the C library's")])
def test_doctor_names_the_allocator_of_its_process(tmp_path, library, found):
    from mm_interleaved.cli.machine import _allocator

    (tmp_path / "maps").write_text(f"7f0000000000-7f0000001000 r-xp 00000000 00:00 1    /usr/lib/{library}\n")
    (finding,) = _allocator(tmp_path / "maps")
    assert finding["found"] == found
    assert ("libtcmalloc_minimal.so.4" in finding["advice"]) is (found == "the C library's")
    assert _allocator(tmp_path / "none") == []


def test_doctor_weighs_the_changed_recipe(mmi, tmp_path):
    from mm_interleaved.training import memory_plan

    (tmp_path / "r.yaml").write_text(
        "name: r\nmodel: box/nano\nobjective: words\ndata: {tasks: {caption: 1}}\ntraining: {steps: 1}\noutput: o\n"
    )
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        plan = memory_plan.TrainingMemory(**dict.fromkeys((field.name for field in fields(memory_plan.TrainingMemory)), 1))
        patch.setattr(memory_plan, "plan_training", lambda recipe, processes: asked.append(recipe) or plan)
        assert mmi("doctor", "--train", tmp_path / "r.yaml", "--set", "training.batch_size=8").exit_code == 0
    assert asked[0].training.batch_size == 8
    assert_user_error(mmi("doctor", "--train", tmp_path / "r.yaml", "--set", "training.batch_seize=8"), "the nearest is 'batch_size'")
    assert_user_error(mmi("doctor", "--set", "training.batch_size=8"), "--train")


def test_doctor_reports_a_missing_model(mmi, tmp_path):
    run = mmi("doctor", "--model", tmp_path / "none")
    assert_user_error(run, "model")


def test_data_validate_reads_every_drawing(mmi):
    found = result_of(mmi("data", "validate", "--json"))
    assert found["drawings"] == found["things"] * found["styles"]
    assert found["things"] >= 200
    assert found["styles"] >= 5


def test_data_preview_writes_a_page(mmi, tmp_path):
    found = result_of(mmi("data", "preview", "-o", tmp_path / "page.html", "--count", 1, "--json"))
    assert (tmp_path / "page.html").stat().st_size > 1000
    assert found["samples_per_task"] == 1


def test_data_errors_are_named(mmi, tmp_path):
    assert_user_error(mmi("data", "validate", tmp_path), "no pack")
    assert_user_error(mmi("data", "build", tmp_path, "-o", tmp_path / "pack"), "package")
    assert_user_error(mmi("data", "build", tmp_path, "--part", "statues"), "there are drawings, wide, fonts, logos, robot")
    assert_user_error(mmi("data", "build", tmp_path, "--part", "wide"), "--output")
    assert_user_error(mmi("data", "build", tmp_path, "--part", "logos", "-o", tmp_path / "built"), "npm pack simple-icons@")
    assert_user_error(mmi("data", "preview", "-o", tmp_path / "p.html", "--split", "exam"), "'train' or 'test'")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (DataError("wrong\npack"), 2, "error: wrong pack"),
        (ValueError("our fault"), 1, "error: ValueError: our fault"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["user", "ours", "ctrl-c"],
)
def test_exit_status_says_whose_fault_it_is(error, status, words):
    other = typer.Typer()

    @other.command()
    @guarded
    def verb() -> None:
        raise error

    run = CliRunner().invoke(other, [])
    assert run.exit_code == status
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    if status != 130:
        assert "Traceback" in CliRunner().invoke(other, [], env={"MMI_TRACEBACK": "1"}).stderr


def test_traceback_option_shows_where_an_error_came_from(mmi, tmp_path):
    run = mmi("--traceback", "data", "validate", tmp_path)
    assert run.exit_code == 2
    assert "Traceback" in run.stderr


def test_all_verbs_are_registered():
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert {verb[0] for verb in VERBS} == known
