"""The facade: three names, one function, and a model that comes back as it was saved."""

import subprocess
import sys

import pytest
import torch

import mm_interleaved
from mm_interleaved.document import Document
from mm_interleaved.errors import CheckpointError
from mm_interleaved.generation import load as loading
from mm_interleaved.generation.load import Model, load


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    return Model(model, processor).save(tmp_path_factory.mktemp("saved") / "tiny")


def test_the_facade_is_three_types_and_load():
    assert sorted(mm_interleaved.__all__) == ["Document", "Image", "Text", "load"]
    assert mm_interleaved.load is load
    with pytest.raises(AttributeError):
        _ = mm_interleaved.Modell


def test_importing_the_package_loads_neither_torch_nor_pictures():
    code = "import sys, mm_interleaved; print(sorted({'torch', 'PIL', 'numpy', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_saved_model_gives_the_same_document(folder, model, processor, prompt):
    loaded = load(folder)
    options = {"force_image": True, "steps": 2, "max_tokens": 6, "temperature": 1.0, "seed": 2}
    expected = Model(model, processor, model_hash=loaded.model_hash).continue_document(prompt, **options)
    assert loaded.continue_document(prompt, **options) == expected
    assert expected.images[-1].generation.model_hash == loaded.model_hash != ""


def test_a_loaded_model_streams_and_scores(folder, prompt):
    loaded = load(folder)
    *_, finished = loaded.stream(prompt, max_tokens=1, max_images=0)
    assert finished.document.segments[:3] == prompt.segments
    assert len(loaded.score(prompt, [" a", " b"])) == 2


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BOX", tmp_path / "box")
    with pytest.raises(CheckpointError, match="mmi train"):
        load()
    with pytest.raises(CheckpointError, match="found nothing there"):
        load(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="found a file"):
        load(tmp_path / "file")


def test_a_checkpoint_without_its_processor_says_so(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(CheckpointError, match="processor"):
        load(tmp_path)


def test_the_autoencoder_stays_in_float32(folder):
    model = load(folder, dtype=torch.bfloat16)
    assert model.network.image_decoder.vae.dtype == torch.float32
    assert model.network.image_decoder.unet.dtype == model.network.dtype == torch.bfloat16
    page = model.continue_document(Document(["draw a cat."]), force_image=True, max_images=1, max_tokens=4, steps=2)
    assert len(page.images) == 1
