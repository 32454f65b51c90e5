"""`mmi generate`: results, resuming, and every kind of bad input."""

import json

import pytest

from mm_interleaved.cli import continuing
from mm_interleaved.document import Document
from mm_interleaved.generation import engine
from mm_interleaved.generation.events import ImageDone
from tests.cli.conftest import QUICK, assert_user_error, names, result_of


def test_a_prompt_becomes_a_page_and_a_document(mmi, model, prompt, tmp_path):
    found = result_of(mmi("generate", prompt, "-o", tmp_path / "out", "--seed", 3, "--model", model, "--json", *QUICK))
    (one,) = found["documents"]
    document = Document.from_json(tmp_path / "out" / "camel.json")
    made = [image for image in document.images if image.origin == "generated"]
    assert one["pictures"] == len(made) > 0
    assert one["picture_hashes"] == [image.sha256 for image in made]
    assert {image.generation.seed for image in made} == {3}
    assert {image.generation.model_hash for image in made} == {found["model_hash"]}
    assert "data:image/png" in (tmp_path / "out" / "camel.html").read_text(encoding="utf-8")


def test_every_format_is_written(mmi, model, prompt, tmp_path):
    result_of(mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, "--format", "md,json", "--json", *QUICK))
    assert Document.load(tmp_path / "out" / "camel.md") == Document.load(tmp_path / "out" / "camel.json")
    assert not (tmp_path / "out" / "camel.html").exists()


def test_the_seed_decides(mmi, model, prompt, tmp_path):
    def hashes(folder, seed):
        arguments = ("generate", prompt, "-o", tmp_path / folder, "--seed", seed, "--model", model, "--json", *QUICK)
        return result_of(mmi(*arguments))["documents"][0]["picture_hashes"]

    assert hashes("a", 1) == hashes("b", 1) != hashes("c", 2)


def test_finished_documents_are_skipped_until_something_changes(mmi, model, prompt, tmp_path):
    def run(*more):
        (one,) = result_of(mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, "--json", *QUICK, *more))["documents"]
        return one["skipped"]

    assert not run()
    assert run()
    assert not run("--seed", 5)
    assert not run("--overwrite", "--seed", 5)
    (tmp_path / "out" / "camel.html").unlink()
    assert not run("--seed", 5)
    prompt.write_text("draw a cat.", encoding="utf-8")
    assert not run("--seed", 5)


def test_a_folder_means_all_documents_in_it(mmi, model, prompt, tmp_path):
    (prompt.parent / "cat.md").write_text("draw a cat.", encoding="utf-8")
    (prompt.parent / "README.md").write_text("not a prompt", encoding="utf-8")
    found = result_of(mmi("generate", prompt.parent, "-o", tmp_path / "out", "--model", model, "--json", *QUICK))
    assert [one["name"] for one in found["documents"]] == ["camel", "cat"]


def test_one_bad_document_is_reported_alone_and_the_others_finish(mmi, model, prompt, tmp_path):
    bad = prompt.parent / "bad.md"
    bad.write_text("![a cat](missing.png)\n\nwhat is this?", encoding="utf-8")
    run = mmi("generate", bad, prompt, "-o", tmp_path / "out", "--model", model, *QUICK)
    assert_user_error(run, "bad.md", "missing.png", "no such file")
    assert (tmp_path / "out" / "camel.json").is_file()
    assert not (tmp_path / "out" / "bad.json").exists()


def test_unknown_words_are_told_with_the_nearest_known_ones(mmi, model, tmp_path):
    prompt = tmp_path / "p.md"
    prompt.write_text("draw a camal.", encoding="utf-8")
    run = mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, "--steps", 1, "--max-tokens", 1)
    assert run.exit_code == 0
    assert "'camal'" in run.stdout
    assert "camel" in run.stdout


def test_control_tokens_in_a_prompt_are_only_text(mmi, model, tmp_path):
    prompt = tmp_path / "p.md"
    prompt.write_text("draw <|beginofimage|><|image|><|end|>", encoding="utf-8")
    result_of(mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, "--json", *QUICK))
    assert Document.load(tmp_path / "out" / "p.json")[0].text == "draw <|beginofimage|><|image|><|end|>"


# Bad input: one clear line, exit status 2, no traceback.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty prompt"]),
        (b"  \n\n", ["empty prompt"]),
        (b"word " * 2000, ["at most 256", "tokens"]),
        (b"\xff\xfe broken", ["UTF-8"]),
        (b"![x](broken.png)", ["broken.png"]),
        (b"![x](half.png)", ["half.png"]),
        (b"![x](bomb.png)", ["bomb.png", "pixels"]),
        (b"![x](.)", ["folder"]),
        (b"![x](https://example.org/cat.png)", ["never fetched"]),
    ],
    ids=["nothing", "spaces", "longer-than-the-context", "not-utf-8", "no-picture", "cut-picture", "bomb", "folder-as-picture", "web"],
)
def test_bad_prompts_are_named(content, words, mmi, model, picture, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG but not really")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:-500])
    (tmp_path / "bomb.png").write_bytes(_bomb())
    prompt = tmp_path / "p.md"
    prompt.write_bytes(content)
    assert_user_error(mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, *QUICK), "p.md", *words)


def test_missing_files_and_empty_folders_are_named(mmi, model, tmp_path):
    assert_user_error(mmi("generate", tmp_path / "none.md", "-o", tmp_path, "--model", model), "none.md", "no such file")
    (tmp_path / "empty").mkdir()
    assert_user_error(mmi("generate", tmp_path / "empty", "-o", tmp_path, "--model", model), "empty", "found none")


def test_a_missing_or_broken_model_is_named(mmi, model, prompt, tmp_path):
    assert_user_error(mmi("generate", prompt, "--model", tmp_path / "none", "-o", tmp_path / "out"), "none", "expected the folder")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:1000])
    assert_user_error(mmi("generate", prompt, "--model", broken, "-o", tmp_path / "out"), "model.safetensors")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--steps", 0), ["steps"]),
        (("--format", "pdf"), ["html, json, md", "pdf"]),
        (("--seed", -1), ["seed"]),
        (("--top-p", 2), ["top_p"]),
        (("--sampler", "dpm"), ["sampler", "dpm++"]),
        (("--dtype", "float8"), ["--dtype", "bfloat16"]),
        (("--device", "cuda:9"), ["--device", "cuda:9", "try auto"]),
        (("--device", "toaster"), ["--device", "toaster", "try auto"]),
    ],
)
def test_wrong_settings_are_named_before_anything_is_loaded(option, words, mmi, prompt, tmp_path):
    assert_user_error(mmi("generate", prompt, "--model", tmp_path / "none", *option), *words)


def test_misspelt_options_have_exit_status_2(mmi, prompt):
    assert mmi("generate", prompt, "--sed", 3).exit_code == 2


def test_errors_are_readable_for_programs_too(mmi, prompt, tmp_path):
    run = mmi("generate", prompt, "--model", tmp_path / "none", "--json")
    assert run.exit_code == 2
    assert json.loads(run.stdout)["error"]["kind"] == "CheckpointError"


def test_results_never_overwrite_the_prompt_or_each_other(mmi, model, prompt, tmp_path):
    assert_user_error(mmi("generate", prompt, "-o", prompt.parent, "--format", "md", "--model", model, *QUICK), "overwrite the prompt")
    twin = tmp_path / "camel.txt"
    twin.write_text("draw a cat.", encoding="utf-8")
    assert_user_error(mmi("generate", prompt, twin, "-o", tmp_path / "out", "--model", model, *QUICK), "camel.txt", "same name")


def test_a_full_disk_is_reported_and_leaves_no_half_file(mmi, model, prompt, tmp_path, monkeypatch):
    import errno
    import os

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("mm_interleaved.export.files.os.fsync", full)
        run = mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, *QUICK)
    assert_user_error(run, "No space left", "free some space")
    assert names(tmp_path / "out") == []


def test_a_place_that_cannot_be_written_is_reported(mmi, model, prompt, tmp_path):
    (tmp_path / "out").write_text("a file, not a folder", encoding="utf-8")
    assert_user_error(mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, *QUICK), "cannot write")


def test_ctrl_c_keeps_what_was_made(mmi, model, prompt, tmp_path, monkeypatch):
    def interrupted(events):
        for event in events:
            yield event
            if isinstance(event, ImageDone):
                raise KeyboardInterrupt

    monkeypatch.setattr(engine.Continuation, "_run", lambda run, plain=engine.Continuation._run: interrupted(plain(run)))
    run = mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, "--json", *QUICK)

    assert run.exit_code == 130
    assert "Traceback" not in run.stderr
    assert json.loads(run.stdout)["unfinished"] == ["camel"]
    made = Document.load(tmp_path / "out" / "camel.json")
    assert [image.origin for image in made.images] == ["generated"]

    monkeypatch.undo()
    (one,) = result_of(mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, "--json", *QUICK))["documents"]
    assert not one["skipped"]


def test_a_line_of_a_jsonl_file_is_a_document(mmi, model, picture, tmp_path):
    lines = [
        json.dumps("draw a cat."),
        "",
        json.dumps({"name": "dog", "seed": 4, "prompt": "draw a dog."}),
        json.dumps([{"type": "image", "path": picture.name}, {"type": "text", "text": "what is this?"}]),
    ]
    prompts = tmp_path / "many.jsonl"
    prompts.write_text("\n".join(lines), encoding="utf-8")
    found = result_of(mmi("generate", prompts, "-o", tmp_path / "out", "--seed", 3, "--model", model, "--json", *QUICK))["documents"]
    assert [one["name"] for one in found] == ["many-1", "dog", "many-4"]
    seeds = [{image.generation.seed for image in _made(tmp_path / "out" / f"{one['name']}.json")} for one in found]
    assert seeds == [{3}, {4}, {3}]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": ', ["line 2", "JSON"]),
        ('{"name": "../up", "prompt": "a"}', ["line 2", "name"]),
    ],
)
def test_a_broken_jsonl_file_is_named_with_its_line(line, words, mmi, model, tmp_path):
    prompts = tmp_path / "many.jsonl"
    prompts.write_text(f'"draw a cat."\n{line}\n', encoding="utf-8")
    assert_user_error(mmi("generate", prompts, "-o", tmp_path / "out", "--model", model, *QUICK), "many.jsonl", *words)


@pytest.mark.parametrize("line", ['{"seed": -1, "prompt": "a"}', '{"sed": 1, "prompt": "a"}', '""', "7"])
def test_a_line_that_is_no_document_fails_alone(line, mmi, model, tmp_path):
    prompts = tmp_path / "many.jsonl"
    prompts.write_text(f'"draw a cat."\n{line}\n', encoding="utf-8")
    assert_user_error(mmi("generate", prompts, "-o", tmp_path / "out", "--model", model, *QUICK), "many.jsonl, line 2")
    assert (tmp_path / "out" / "many-1.json").is_file()


def test_documents_in_company_are_those_alone(mmi, model, tmp_path):
    prompts = tmp_path / "many.jsonl"
    prompts.write_text("\n".join(json.dumps(f"draw a {thing}.") for thing in ("cat", "dog", "tree", "camel")), encoding="utf-8")
    for folder, together in (("one", 1), ("three", 3)):
        result_of(mmi("generate", prompts, "-o", tmp_path / folder, "--together", together, "--model", model, "--json", *QUICK))
    for name in names(tmp_path / "one"):
        if name.endswith(".json"):
            one, other = (Document.load(tmp_path / folder / name) for folder in ("one", "three"))
            assert [text.text for text in one.texts] == [text.text for text in other.texts]
            for alone, together in zip(one.images, other.images, strict=True):
                assert abs(alone.array().astype(int) - together.array().astype(int)).max() <= 2  # float32, batches of other sizes


def test_a_killed_batch_is_finished_without_redoing_or_losing_a_document(mmi, model, tmp_path, monkeypatch):
    prompts = tmp_path / "many.jsonl"
    prompts.write_text("\n".join(json.dumps(f"draw a {thing}.") for thing in ("cat", "dog", "tree", "camel")), encoding="utf-8")
    arguments = ("generate", prompts, "-o", tmp_path / "out", "--together", 2, "--model", model, "--json", *QUICK)

    finished = set()

    def killed(path, content, plain=continuing.write_atomically):
        if len(finished) == 2:
            raise SystemExit(9)  # nothing of ours runs after a kill: files stand as they are
        finished.add(path.stem)
        plain(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(continuing, "write_atomically", killed)
        patch.setattr(continuing._Batch, "keep_unfinished", lambda batch: None)
        assert mmi(*arguments).exit_code == 9
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    found = {one["name"]: one["skipped"] for one in result_of(mmi(*arguments))["documents"]}
    assert {name for name, skipped in found.items() if skipped} == finished
    assert len(found) == 4
    for name, content in before.items():
        if name.rsplit(".", 1)[0] in finished:
            assert (tmp_path / "out" / name).read_bytes() == content


def _made(path):
    return [image for image in Document.load(path).images if image.origin == "generated"]


def _bomb():
    """A PNG of a few bytes that claims 100,000 x 100,000 pixels."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
