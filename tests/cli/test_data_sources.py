"""`mmi data` over the sources of a recipe."""

import json

import pytest
import yaml
from PIL import Image

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import Item, Scene, compose
from mm_interleaved.generation.load import BOX
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


@pytest.fixture
def questions(tmp_path, model):
    """A recipe of questions about four pictures, one of which is a web page."""
    pack = Pack.load()
    for number in range(3):
        drawing = Item(thing=5 * number, style=number, centre_x=0.5, centre_y=0.5, size=0.7)
        Image.fromarray(compose(Scene(ground=number, items=(drawing,)), pack, 224)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "3.jpg").write_bytes(b"<html>")
    asked = [{"image_id": f"{number}", "question": f"Q{number}?", "answers": ["cat"]} for number in range(4)]
    (tmp_path / "train.json").write_text(json.dumps({"data": asked}))
    source = {"name": "asked", "kind": "textvqa", "files": [str(tmp_path / "train.json")], "images": str(tmp_path)}
    values = {"name": "ask", "model": str(model), "objective": "documents", "data": {"sources": [source]}}
    path = tmp_path / "ask.yaml"
    path.write_text(yaml.safe_dump(values | {"training": {"steps": 1}, "output": str(tmp_path / "run")}))
    return path


def clip_folder(folder):
    """A small CLIP with random weights, as transformers saves it."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)


@pytest.mark.parametrize("by", ["the box", "a model", "a clip"])
def test_pictures_are_embedded_and_solved_examples_are_found_by_them(mmi, questions, tmp_path, by):
    """The model is nano itself: to random weights all pictures look alike, and the same picture is no example."""
    file = tmp_path / "vectors" / "asked.safetensors"
    choice = {"the box": (), "a model": ("--model", BOX), "a clip": ("--clip", tmp_path / "clip")}[by]
    if by == "a clip":
        clip_folder(tmp_path / "clip")
    found = result_of(mmi("data", "embed", questions, "asked", "-o", file, *choice, "--json"))
    assert found == {"file": str(file), "vectors": 3, "skipped": {"broken image": 1}}
    values = yaml.safe_load(questions.read_text())
    values["data"]["sources"][0]["options"] = {"shots": 1, "nearest": str(file)}
    questions.write_text(yaml.safe_dump(values))
    (asked,) = json.loads(mmi("data", "validate", questions, "--json").stdout)["sources"]
    assert asked["skipped"] == {"broken image": 1}, asked["skipped"]
    assert asked["documents"] == 3 and asked["images_per_document"] == {"2": 3}


def test_wrong_wishes_to_embed_are_named(mmi, questions, model, tmp_path):
    out = ("-o", tmp_path / "v")
    assert_user_error(mmi("data", "embed", questions, "askde", *out), "no source 'askde'", "asked")
    assert_user_error(mmi("data", "embed", questions, "asked", *out, "--model", model, "--clip", tmp_path), "exclude each other")
    assert_user_error(mmi("data", "embed", questions, "asked", *out, "--clip", tmp_path), "expected a folder with a CLIP")
    assert_user_error(mmi("data", "embed", questions, "asked", *out, "--model", tmp_path), str(tmp_path))
    assert not (tmp_path / "v").exists()
