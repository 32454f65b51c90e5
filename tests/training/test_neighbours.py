"""The vectors of pictures: by the model's own tokens, or by a CLIP."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mm_interleaved.checkpoint.clip import Clip
from mm_interleaved.data.kinds import make_source
from mm_interleaved.data.sources import Skips
from mm_interleaved.data.tuning.nearest import Neighbours
from mm_interleaved.document import Image
from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.generation.load import Model
from mm_interleaved.testing import tiny_model, tiny_processor
from mm_interleaved.training.neighbours import embed_by_model, embed_source
from tests.data.sources.conftest import images  # noqa: F401  (fixture)
from tests.evaluation.material import save_clip


def picture(red):
    return Image.from_array(np.full((16, 16, 3), (red, 100, 200), dtype=np.uint8))


def save_eyes(folder):
    """The half of a small CLIP that sees, with random weights."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["model", "clip", "eyes"])
def test_equal_pictures_have_equal_vectors_and_others_another(kind, tmp_path):
    if kind == "model":
        embed = embed_by_model(Model(tiny_model(), tiny_processor()).save(tmp_path / "model"))
    else:
        folder = save_clip(tmp_path) if kind == "clip" else save_eyes(tmp_path)
        embed = Clip(folder, words=False).pictures
    vectors = embed([picture(0), picture(0), picture(250)])
    assert np.allclose(vectors[0], vectors[1], atol=1e-6) and not np.allclose(vectors[0], vectors[2], atol=1e-4)


def test_every_record_gets_a_vector_except_those_whose_picture_cannot_be_used(tmp_path, images):  # noqa: F811
    names = ["1.png", "page.png", "2.png"]
    lines = [{"image": name, "question": "Q?", "answers": [{"answer": "A"}]} for name in names]
    (tmp_path / "a.json").write_text(json.dumps(lines))
    source = make_source("vizwiz", {"name": "a", "files": [str(tmp_path / "a.json")], "images": str(images)})
    skips = Skips()
    embed = lambda pictures: np.array([[float(one.array()[0, 0, 0]), 1.0] for one in pictures])  # noqa: E731
    assert embed_source(source, embed, tmp_path / "v.safetensors", skips) == 2
    assert skips.by_reason("a") == {"broken image": 1}
    records = list(source.records(str(tmp_path / "a.json")))
    assert Neighbours(str(tmp_path / "v.safetensors")).order(records[0], records) == [2]


def test_a_source_without_prompts_and_a_folder_without_a_clip_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    source = make_source("captions", {"name": "a", "files": [str(tmp_path / "a.jsonl")]})
    with pytest.raises(ConfigError, match="no prompts with answers"):
        embed_source(source, lambda pictures: np.ones((1, 1)), tmp_path / "v", Skips())
    with pytest.raises(CheckpointError, match="expected a folder with a CLIP"):
        Clip(tmp_path, words=False)


def test_eyes_with_weights_missing_are_refused_instead_of_filled_up_at_random(tmp_path):
    weights = load_file(save_eyes(tmp_path) / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "layernorm" not in name}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="weights are missing, first"):
        Clip(tmp_path, words=False)


def test_a_whole_clip_and_its_eyes_alone_see_alike(tmp_path):
    folder, pictures = save_clip(tmp_path), [picture(0), picture(250)]
    assert np.allclose(Clip(folder).pictures(pictures), Clip(folder, words=False).pictures(pictures), atol=1e-6)
