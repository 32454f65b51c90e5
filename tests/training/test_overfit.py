"""The shortest run that must work before a long one is worth its time."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mm_interleaved as mmi
from mm_interleaved.data.playground.judge import TemplateJudge
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import Item, Scene
from mm_interleaved.training.assembly import HEADS_FILE, make_corpus
from mm_interleaved.training.concepts import ConceptVectors, Shown
from mm_interleaved.training.loop import train
from mm_interleaved.training.recipe import read_recipe

ROOT = Path(__file__).parents[2]
STEPS = 20


@pytest.mark.slow
def test_twelve_pictures_are_right_after_an_overfit_of_two_minutes(tmp_path, monkeypatch):
    """Painted from their vectors, as the recipe trains them; the judge names the nearest of the twelve."""
    monkeypatch.chdir(ROOT)
    threads = torch.get_num_threads()
    recipe = read_recipe(ROOT / "recipes" / "overfit-12.yaml", [f"output={tmp_path / 'run'}"])
    final = train(recipe).final
    torch.set_num_threads(threads)
    network = mmi.load(final).network
    vectors = ConceptVectors(network, make_corpus(recipe, side=8))
    vectors.load_state_dict(load_file(final / HEADS_FILE))
    things, styles = range(recipe.data.world["things"]), range(recipe.data.world["styles"])
    pairs = [(thing, style) for thing in things for style in styles]
    scenes = [Scene(ground=0, items=(Item(thing=thing, style=style, centre_x=0.5, centre_y=0.5, size=0.8),)) for thing, style in pairs]
    pictures = _painted(network.image_decoder, vectors(Shown.of(scenes)))
    judge = TemplateJudge(Pack.load(), things, styles)
    right = [judge.best(picture) == pair for picture, pair in zip(pictures, pairs, strict=True)]
    assert sum(right) >= 11, right


@torch.no_grad()
def _painted(decoder, vectors):
    draw = torch.Generator().manual_seed(0)
    count, tokens, width = len(vectors), decoder.negative_tokens.shape[1] - 1, vectors.shape[1]
    condition = torch.cat([torch.randn(count, tokens, width, generator=draw), vectors[:, None]], dim=1)
    latents = torch.randn(count, decoder.latent_channels, decoder.latent_side, decoder.latent_side, generator=draw)
    instants = decoder.schedule.inference_timesteps(STEPS)
    for now, then in pairwise(instants):
        latents = decoder.schedule.step(decoder.predict(latents, now.expand(count), condition), now, then, latents)
    return (255 * decoder.decode(latents)).round().byte().permute(0, 2, 3, 1).numpy()
