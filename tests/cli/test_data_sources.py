"""`mmi data` over the sources of a recipe."""

import json

import pytest
import yaml

from tests.cli.conftest import assert_user_error, result_of
from tests.data.sources.conftest import lines, picture_bytes


@pytest.fixture
def recipe(tmp_path, model):
    """A recipe with a sound source and one that is full of faults, on top of the tiny model."""
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(picture_bytes(number, size=(80, 80)))
    (tmp_path / "page.png").write_bytes(b"<html>")
    good = lines(tmp_path / "good.jsonl", *({"image": "0.png", "caption": f"cat {number % 3}"} for number in range(4)))
    bad = lines(tmp_path / "bad.jsonl", "{", {"image": "page.png", "caption": "a"}, {"image": "1.png", "caption": "dog"})
    values = {
        "name": "doctor",
        "model": str(model),
        "objective": "documents",
        "data": {
            "sources": [
                {"name": name, "kind": "captions", "files": [str(file)], "images": str(tmp_path), "options": {"image_first": 0.0}}
                for name, file in (("good", good), ("bad", bad))
            ]
        },
        "training": {"steps": 1},
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_validate_counts_and_lists_what_cannot_be_used(mmi, recipe, tmp_path):
    run = mmi("data", "validate", recipe, "--listing", tmp_path / "skipped.jsonl", "--json")
    assert run.exit_code == 2, run.stderr
    good, bad = json.loads(run.stdout)["sources"]
    assert good["skipped"] == {} and good["documents"] == 4
    assert (good["repeated_documents"], good["repeated_images"], good["small_images"]) == (1, 3, 0)
    assert good["tokens"]["largest"] > 5
    assert bad["skipped"] == {"broken image": 1, "not JSON": 1} and bad["documents"] == 1
    listed = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert {entry["place"].rpartition(":")[2] for entry in listed} == {"1", "2"}
    assert mmi("data", "stats", recipe).exit_code == 0


def test_preview_shows_what_is_given_and_what_is_trained(mmi, recipe, tmp_path):
    shown = result_of(mmi("data", "preview", recipe, "-o", tmp_path / "page.html", "--count", 2, "--json"))["samples"]
    assert shown == {"good": 2, "bad": 1}
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article>") == 3 and "1 × not JSON" in page


def test_converted_shards_hold_the_same_documents(mmi, recipe, tmp_path):
    from mm_interleaved.data.doctor import read_through
    from mm_interleaved.data.kinds import make_source
    from mm_interleaved.data.sources import Skips

    shards = result_of(mmi("data", "convert", recipe, "-o", tmp_path / "converted", "--per-shard", 3, "--json"))["shards"]
    assert len(shards["good"]) == 2
    again = make_source("messages", {"name": "good", "files": shards["good"], "between": ""})
    first = make_source("captions", {"name": "good", "files": [str(tmp_path / "good.jsonl")], "images": str(tmp_path), "image_first": 0.0})
    old, new = ([example.document for example in read_through(source, Skips())] for source in (first, again))
    assert old == new


def test_a_recipe_without_sources_is_refused(mmi, recipe):
    recipe.write_text(recipe.read_text().replace("sources:", "tasks: {caption: 1}\n  unused:"))
    assert_user_error(mmi("data", "stats", recipe), "unknown key")
