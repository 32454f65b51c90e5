"""`mmi explain`: page, JSON and PNG, and bad input."""

import json

import pytest

from tests.cli.conftest import assert_user_error, names, result_of


@pytest.fixture
def document(tmp_path, picture):
    path = tmp_path / "cat.md"
    path.write_text(f"a dog\n\n![a cat]({picture.name})\n\ndraw a cat.", encoding="utf-8")
    return path


def test_a_document_becomes_a_page_json_and_pictures(mmi, model, document, tmp_path):
    out = tmp_path / "out"
    found = result_of(mmi("explain", document, "-o", out, "--model", model, "--word", "cat", "--word", 0, "--json"))
    assert names(out) == sorted(["cat.html", "cat.json", "cat-word-0.png", "cat-word-4.png"])
    assert found["words"] == 6
    assert found["without_picture"] == 2
    written = json.loads((out / "cat.json").read_text(encoding="utf-8"))
    assert written["model_hash"] == found["model_hash"]
    assert [word["text"] for word in written["words"]] == ["a", "dog", "draw", "a", "cat", "."]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--word", "zebra"), ["zebra", "draw"]),
        (("--region", "0,0"), ["PICTURE,ROW,COLUMN"]),
        (("--region", "1,0,0"), ["painted picture"]),
        (("--noise", "2"), ["below 1"]),
        (("--noise", "much"), ["--noise", "much"]),
    ],
)
def test_wrong_wishes_are_named(options, words, mmi, model, document, tmp_path):
    assert_user_error(mmi("explain", document, "-o", tmp_path / "out", "--model", model, *options), *words)


def test_the_document_is_never_overwritten(mmi, model, document):
    source = document.with_suffix(".json")
    source.write_text('["a cat"]', encoding="utf-8")
    assert_user_error(mmi("explain", source, "-o", source.parent, "--model", model), "overwrite")
