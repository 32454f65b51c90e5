"""What CLIP says of pictures painted from words, worked again by hand, and networks of the wrong kind."""

import json

import numpy as np
import pytest
import torch

from mm_interleaved.checkpoint.clip import Clip
from mm_interleaved.document import Image
from mm_interleaved.errors import CheckpointError
from mm_interleaved.evaluation.benchmark import evaluate_benchmark
from mm_interleaved.evaluation.painting import Instruments
from mm_interleaved.evaluation.tasks import TASKS
from mm_interleaved.evaluation.tasks.files import Files
from tests.evaluation.material import paint, save_clip, write

CAPTIONS = ("a small dog", "two boats at sea", "bread on a plate")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def coco(tmp_path):
    names = [f"{number}.jpg" for number in range(3)]
    described = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": number, "caption": text} for number, text in enumerate(CAPTIONS)],
    }
    return Files(annotations=write(tmp_path / "captions_val2014.json", described), images=paint(tmp_path / "images", *names))


def by_hand(folder, images, captions):
    """Cosines of pictures and captions, from transformers alone."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    network = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    cosines = []
    for image, caption in zip(images, captions, strict=True):
        with torch.no_grad():
            found = network(**tokenizer(caption, return_tensors="pt"), **processor(image.array(), return_tensors="pt"))
        # The network multiplies cosines by its scale.
        cosines.append(max(0.0, (found.logits_per_image / network.logit_scale.exp()).item()))
    return cosines


def test_the_clip_score_is_the_mean_cosine_of_picture_and_caption_by_hand(model, coco, clip, tmp_path):
    out = tmp_path / "out"
    report = evaluate_benchmark(model, TASKS["coco_images"], coco, out, instruments=Instruments(clip=Clip(clip)), steps=1, guidance=1.0)
    (row,) = report["results"]
    painted = [Image.open(out / "pictures" / f"coco_images-{number}-0.png") for number in range(3)]
    true = [Image.open(coco.images / f"{number}.jpg") for number in range(3)]
    assert row["metric"] == "clip_score"
    assert row["score"] == pytest.approx(np.mean(by_hand(clip, painted, CAPTIONS)), abs=1e-6)
    assert row["ceiling"] == pytest.approx(np.mean(by_hand(clip, true, CAPTIONS)), abs=1e-6)
    assert row["blind"] == pytest.approx(np.mean(by_hand(clip, [*painted[1:], painted[0]], CAPTIONS)), abs=1e-6)
    assert row["low"] <= row["score"] <= row["high"]
    assert report["unmeasured"] == {"fid": "--extractor"} and report["instruments"]["clip"] == Clip(clip).fingerprint


def test_long_captions_are_cut_where_clip_ends(clip):
    short, long = Clip(clip).captions(["x " * 75, "x " * 400])
    assert np.allclose(short, long) and np.linalg.norm(short) == pytest.approx(1)


def test_a_score_below_nothing_is_nothing(model, coco, clip, tmp_path, monkeypatch):
    ruler = Clip(clip)
    monkeypatch.setattr(ruler, "pictures", lambda images: -ruler.captions([CAPTIONS[0]] * len(images)))
    options = {"instruments": Instruments(clip=ruler), "steps": 1, "guidance": 1.0, "count": 1}
    assert evaluate_benchmark(model, TASKS["coco_images"], coco, tmp_path / "out", **options)["results"][0]["score"] == 0.0


def test_networks_of_the_wrong_kind_are_refused(clip, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        Clip(tmp_path / "nowhere")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path / "half")
    with pytest.raises(CheckpointError, match=r"expected a whole CLIP.* got .clip_vision_model."):
        Clip(tmp_path / "half")
    cut = tmp_path / "cut"
    cut.mkdir()
    for path in clip.iterdir():
        (cut / path.name).write_bytes(path.read_bytes())
    weights = load_file(cut / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, cut / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing, first visual_projection.weight"):
        Clip(cut)
    (cut / "model.safetensors").write_bytes((clip / "model.safetensors").read_bytes())
    (cut / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="holds no CLIPImageProcessorPil"):
        Clip(cut)
    assert json.loads((clip / "config.json").read_text("utf-8"))["model_type"] == "clip"
