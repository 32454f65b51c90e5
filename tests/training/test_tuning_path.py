"""Pre-train, then fine-tune: the path from the model in the box to a tuned one that writes and paints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mm_interleaved.document import Document
from mm_interleaved.generation.load import BOX, load
from mm_interleaved.training.loop import train
from mm_interleaved.training.recipe import read_recipe

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "playground-tune.yaml"


def test_the_model_in_the_box_is_tuned_merged_and_goes_on_writing_and_painting(tmp_path):
    short = ["training.steps=2", "training.batch_size=2", "training.warmup_steps=0", "data.tasks={picture: 1, question: 1}"]
    recipe = read_recipe(RECIPE, [*short, f"output={tmp_path / 'tuned'}", "training.final_dtype=float32"])
    assert Path(recipe.model).resolve() == BOX.resolve()
    final = train(recipe).final
    merged, added = load(final), load(BOX, adapter=tmp_path / "tuned" / "final-adapter")
    before, after = load(BOX).network.state_dict(), merged.network.state_dict()
    assert before.keys() == after.keys(), "the low-rank layers are gone"
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any(name.startswith("language_model.layers.0.self_attn.q_proj") for name in changed)
    assert any("synchronizer" in name for name in changed)
    assert not any(name.startswith("image_decoder.vae") for name in changed)
    for name, value in added.network.state_dict().items():
        torch.testing.assert_close(value, after[name], rtol=0, atol=1e-6)
    document = merged.continue_document(
        Document(["draw a red camel on a white ground."]), max_images=1, max_tokens=4, steps=2, force_image=True
    )
    assert [image.origin for image in document.images] == ["generated"]


@pytest.mark.slow
def test_the_table_of_tuned_models_is_made_and_gone_on_with(tmp_path, monkeypatch):
    """The script itself, at a size of two steps and eight questions."""
    import runpy
    import sys

    monkeypatch.chdir(ROOT)
    arguments = ["--task", "question", "--steps", "2", "--n", "8", "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["pretrain_then_tune.py", *arguments])
    for _ in range(2):
        runpy.run_path(str(ROOT / "scripts" / "pretrain_then_tune.py"), run_name="__main__")
        heading, _, row = (tmp_path / "table.md").read_text().splitlines()
        assert heading == "| task (metric) | zero-shot | 4-shot | tuned | scratch |"
        zero, four, tuned, scratch = (int(cell.strip(" %")) for cell in row.split("|")[2:6])
        assert zero > scratch, "nano answers some of eight questions, two steps from scratch teach none of them"
        assert 0 <= four <= 100 and 0 <= tuned <= 100
        protocols = [json.loads(path.read_text()) for path in sorted((tmp_path / "figures").glob("*/question/protocol.json"))]
        assert [protocol.get("shots", 0) for protocol in protocols] == [4, 0, 0, 0], "4-shot, scratch, tuned, zero-shot"
        assert protocols[0]["tasks"]["question"]["refused"] == 0
