"""A tiny model that draws at once, in a tiny world."""

import pytest
import torch

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.generation.load import Model
from mm_interleaved.testing import tiny_model, tiny_processor
from tests.single_thread import one_thread as one_thread

WORLD = WorldConfig(things=10, styles=2, split="train")


@pytest.fixture(scope="package")
def world():
    return World(Pack.load(), WORLD)


@pytest.fixture(scope="package")
def model():
    return Model(tiny_model(), tiny_processor(), model_hash="tiny")


@pytest.fixture
def eager_model(model, monkeypatch):
    """The tiny model, made to begin a picture wherever it may."""
    begin = model.network.config.begin_image_token_id
    logits = model.network.logits

    def eager(hidden):
        found = logits(hidden).clone()
        found[..., begin] = found.max() + 1
        return found

    monkeypatch.setattr(model.network, "logits", eager)
    return model


@pytest.fixture
def extractor(tmp_path):
    """A TorchScript file of a network whose features are a picture's mean colour."""

    class Mean(torch.nn.Module):
        def forward(self, pictures):
            return pictures.mean((2, 3))

    torch.jit.script(Mean()).save(str(tmp_path / "mean.pt"))
    return tmp_path / "mean.pt"
