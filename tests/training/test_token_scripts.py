"""The scripts that change the visual tokenizer's last steps, or join two models that read pictures in different ways."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.generation.load import BOX, load

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def model():
    return load(BOX).network.float()


@pytest.fixture(scope="module")
def whitening():
    return runpy.run_path(str(SCRIPTS / "whiten_tokens.py"))


@pytest.fixture(scope="module")
def pixels(whitening):
    return whitening["pictures"](224)[:48]


def spoiled(model):
    """The same with a vector in all states that is a thousand times as large as what differs."""
    with torch.no_grad():
        last = model.visual_tokenizer.resampler.layers[-1]
        last.feed_forward_out.bias += 1000 * torch.randn(last.feed_forward_out.bias.shape, generator=torch.Generator().manual_seed(0))
    return model


def test_whitened_tokens_differ_between_pictures_in_many_directions(whitening, pixels, model):
    shares = whitening["whiten"](spoiled(model), pixels)
    assert shares["before"] < 0.01 and shares["directions_before"] < 5
    assert shares["after"] > 0.5 and shares["directions_after"] > 20
    with torch.no_grad():
        tokens = model.visual_tokenizer(pixels).tokens
    words = model.language_model.embed_tokens.weight
    assert tokens.mean(dim=(0, 1)).norm() < 0.05 * tokens.square().mean().sqrt() * tokens.shape[2] ** 0.5
    torch.testing.assert_close(tokens.square().mean().sqrt(), words.square().mean().sqrt(), rtol=0.02, atol=0)


def test_whitening_leaves_feature_maps_as_they_are(whitening, pixels, model):
    with torch.no_grad():
        before = model.visual_tokenizer(pixels[:4]).maps
        whitening["whiten"](model, pixels)
        after = model.visual_tokenizer(pixels[:4]).maps
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_repeated_queries_read_what_the_queries_read(pixels, model):
    script = runpy.run_path(str(SCRIPTS / "repeat_queries.py"))
    # Without the noise: the function's own constant.
    script["repeated"].__globals__["NOISE"] = 0.0
    grown = script["repeated"](model, 4)
    with torch.no_grad():
        old, new = model.visual_tokenizer(pixels[:4]), grown.visual_tokenizer(pixels[:4])
    assert grown.config.image_tokens == 4 * model.config.image_tokens
    torch.testing.assert_close(new.tokens, old.tokens.repeat(1, 4, 1), rtol=1e-3, atol=1e-3)


def test_a_new_resampler_learns_the_tokens_of_the_old_one_and_rounds_less(whitening, pixels, model):
    script = runpy.run_path(str(SCRIPTS / "relearn_resampler.py"))
    script["relearn"].__globals__["BATCH"] = 24
    whitening["whiten"](model, pixels)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    figures = script["relearn"](model, script["target"](model, 200), 250)
    assert figures["unexplained"] < 0.9
    assert figures["common_error_after"] + figures["error_after"] < 0.2 * (figures["common_error_before"] + figures["error_before"])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, kept[name])}
    assert changed and all(name.startswith(("visual_tokenizer.resampler.", "visual_tokenizer.projection.")) for name in changed)


def test_a_blend_keeps_the_painter_of_one_and_the_eyes_of_the_other(model):
    script = runpy.run_path(str(SCRIPTS / "blend_models.py"))
    other = load(BOX).network.float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    first, second = ({name: value.clone() for name, value in each.state_dict().items()} for each in (model, other))
    blended = script["blend"](model, other, 0.25).state_dict()
    kept = [name for name in first if name.startswith("image_decoder.") or "synchronizer" in name]
    eyes = [name for name in first if name.startswith("visual_tokenizer.")]
    between = ["language_model.embed_tokens.weight", "language_model.layers.1.mlp.up_proj.weight", "begin_image_embedding"]
    assert all(torch.equal(blended[name], first[name]) for name in kept)
    assert all(torch.equal(blended[name], second[name]) for name in eyes)
    for name in between:
        torch.testing.assert_close(blended[name], 0.75 * first[name] + 0.25 * second[name])


def test_a_blend_of_all_weights_lies_between_the_two_everywhere(model):
    script = runpy.run_path(str(SCRIPTS / "blend_models.py"))
    other = load(BOX).network.float()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1.0
    first = {name: value.clone() for name, value in model.state_dict().items()}
    blended = script["blend"](model, other, 0.5, every=True).state_dict()
    for name, _ in model.named_parameters():
        torch.testing.assert_close(blended[name], first[name] + 0.5)


def test_a_written_blend_keeps_the_tables_digits_and_the_recipe_of_the_second(tmp_path, monkeypatch):
    target = tmp_path / "blend"
    arguments = ["blend_models.py", str(BOX), str(BOX), str(target), "--all", "--share", "0.5", "--dtype", "bfloat16"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(SCRIPTS / "blend_models.py"), run_name="__main__")
    written, box = load_file(target / "model.safetensors"), load_file(BOX / "model.safetensors")
    assert {name: value.dtype for name, value in written.items()} == {name: value.dtype for name, value in box.items()}
    assert all(torch.equal(written[name], box[name]) for name in box)
    assert (target / "recipe.yaml").read_text() == (BOX / "recipe.yaml").read_text()
    config = json.loads((target / "config.json").read_text())
    assert config["dtype"] == config["text_config"]["dtype"] == config["vision_config"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_beyond_the_two_models_is_refused(model, share):
    script = runpy.run_path(str(SCRIPTS / "blend_models.py"))
    with pytest.raises(ConfigError, match=f"a share of {share} .* from 0 \\(first\\) to 1"):
        script["blend"](model, model, share)


def test_models_of_two_shapes_are_not_blended(model):
    script = runpy.run_path(str(SCRIPTS / "blend_models.py"))
    grown = runpy.run_path(str(SCRIPTS / "repeat_queries.py"))["repeated"](model, 4)
    with pytest.raises(CheckpointError, match=r"resampler.queries' is .* only models that began as one"):
        script["blend"](model, grown, 0.5)
