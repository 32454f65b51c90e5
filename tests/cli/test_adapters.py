"""`mmi generate --adapter`: what `mmi train` learnt beside a model, added to it on the command line."""

import numpy as np
import pytest
import yaml

from mm_interleaved.document import Document
from tests.cli.conftest import QUICK, assert_user_error, result_of


@pytest.fixture
def run(mmi, model, tmp_path):
    """The output folder of a run that changed the tiny model through low-rank matrices."""
    values = {
        "name": "change",
        "model": str(model),
        "objective": "documents",
        "data": {"world": {"things": 3, "styles": 2}, "tasks": {"picture": 1}},
        "adapter": {"rank": 2, "parts": ["language_model", "image_decoder.unet"]},
        "trainable": ["*synchronizer*"],
        "training": {"steps": 2, "batch_size": 2, "learning_rate": 0.1, "warmup_steps": 0, "ema_decay": 0.0},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "change.yaml").write_text(yaml.safe_dump(values))
    result_of(mmi("train", tmp_path / "change.yaml", "--json"))
    return tmp_path / "run"


def test_a_model_with_an_adapter_writes_what_the_merged_model_writes(mmi, model, run, prompt, tmp_path):
    def written(name, *options):
        found = result_of(mmi("generate", prompt, "-o", tmp_path / name, "--json", *QUICK, *options))
        return found["model_hash"], Document.from_json(tmp_path / name / "camel.json")

    base_hash, base = written("base", "--model", model)
    added_hash, added = written("added", "--model", model, "--adapter", run / "final-adapter")
    _, merged = written("merged", "--model", run / "final")
    assert added_hash.startswith(f"{base_hash}+")
    assert [text.text for text in added.texts] == [text.text for text in merged.texts]
    assert len(added.images) == len(merged.images) > 0
    for one, other in zip(added.images, merged.images, strict=True):
        # Merged twice from the same matrices: at most a rounding of the last bit between them.
        assert np.abs(one.array().astype(int) - other.array()).max() <= 1
    assert np.abs(added.images[0].array().astype(int) - base.images[0].array()).max() > 5


def test_an_adapter_that_is_none_is_named(mmi, model, prompt, tmp_path):
    (tmp_path / "empty").mkdir()
    refused = mmi("generate", prompt, "-o", tmp_path / "out", "--model", model, "--adapter", tmp_path / "empty", *QUICK)
    assert_user_error(refused, "holds no adapter that can be read", "adapter.json")
    assert not (tmp_path / "out").exists()
