"""`mmi convert` and the memory plan of `mmi doctor`."""

from __future__ import annotations

import json

from tests.checkpoint.released import FILES, INDEX, released_state, small_arguments, write_released
from tests.cli.conftest import assert_user_error, names, result_of


def test_every_direction_has_help_and_json(mmi):
    for verb in ("published", "back", "backbones"):
        run = mmi("convert", verb, "--help")
        assert run.exit_code == 0
        assert "--json" in run.stdout


def test_a_released_checkpoint_goes_there_and_back(mmi, tmp_path):
    arguments = small_arguments()
    (tmp_path / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
    source = write_released(tmp_path / "released", released_state(arguments))
    there = mmi("convert", "published", source, tmp_path / "native", "--config", tmp_path / "arguments.json", "--json")
    assert result_of(there)["tensors"] == 2659
    assert "writing model-00001-of-00002.safetensors" in there.stderr
    assert "--tokenizer" in there.stderr
    found = result_of(mmi("convert", "back", tmp_path / "native", tmp_path / "back", "--json"))
    assert found["files"] == list(FILES)
    assert names(tmp_path / "back") == ["SHA256SUMS", *sorted([*FILES, INDEX])]
    assert_user_error(mmi("convert", "published", source, tmp_path / "native", "--config", tmp_path / "arguments.json"), "exists already")


def test_wrong_folders_and_files_are_named(mmi, tmp_path):
    assert_user_error(mmi("convert", "published", tmp_path, tmp_path / "native"), str(tmp_path), "neither")
    assert_user_error(mmi("convert", "back", tmp_path, tmp_path / "back"), "config.json")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    assert_user_error(mmi("convert", "published", tmp_path, tmp_path / "native", "--config", tmp_path / "list.json"), "list.json", "object")
    assert_user_error(mmi("convert", "published", tmp_path), "SOURCE TARGET, or --from HUB-ID", "got 1 folders")
    assert_user_error(mmi("convert", "published", tmp_path, tmp_path / "native", "--from", "a/b"), "the new folder alone")
    assert_user_error(mmi("convert", "published", tmp_path, tmp_path / "native", "--revision", "main"), "--revision")
    assert_user_error(mmi("convert", "published", tmp_path / "native", "--from", "nonsense"), "OWNER/NAME")
    parts = ("--vision", tmp_path, "--llm", tmp_path, "--diffusion", tmp_path)
    assert_user_error(mmi("convert", "backbones", *parts, "-o", tmp_path / "new"), str(tmp_path))
    assert_user_error(mmi("convert", "backbones", *parts, "-o", tmp_path / "new", "--dtype", "int3"), "--dtype")


def test_doctor_plans_the_released_model_without_having_it(mmi):
    plan = result_of(mmi("doctor", "--model", "13b", "--devices", 8, "--json"))["memory"]
    assert plan["elements"] == 14_912_865_824
    assert plan["devices"] == 8
    assert plan["bytes"]["fp32"] > plan["bytes"]["bf16"] > plan["bytes"]["int8"] > plan["bytes"]["int4"]


def test_doctor_shows_every_part_of_nano(mmi):
    run = mmi("doctor", "--model", "nano")
    assert run.exit_code == 0, run.stderr
    for words in ("fp32", "bf16", "int8", "int4", "UNet", "MMFS", "CPU off-load", "FSDP", "training"):
        assert words in run.stdout


def test_doctor_plans_a_folder(mmi, model):
    found = result_of(mmi("doctor", "--model", model, "--json"))
    assert found["memory"]["elements"] > 0
    assert f"model {model}" in [finding["name"] for finding in found["findings"]]
