"""The shortest run that must work before a long one is worth its time."""

from pathlib import Path

import numpy as np
import pytest
import torch

import mm_interleaved as mmi
from mm_interleaved.data.playground.judge import TemplateJudge
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import wording
from mm_interleaved.training.loop import train
from mm_interleaved.training.recipe import read_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_twelve_pictures_are_right_after_an_overfit_of_two_minutes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    threads = torch.get_num_threads()
    recipe = read_recipe(ROOT / "recipes" / "overfit-12.yaml", [f"output={tmp_path / 'run'}"])
    finished = train(recipe)
    torch.set_num_threads(threads)
    model = mmi.load(finished.final)
    pack = Pack.load()
    judge = TemplateJudge(pack, range(120), range(5))
    right = []
    for thing in range(recipe.data.world["things"]):
        for style in range(recipe.data.world["styles"]):
            named = wording.one(pack.things[thing], "en", pack.styles[style])
            prompt = wording.PICTURE_PROMPTS["en"][0].format(styled=named, ground="white")
            page = model.continue_document(mmi.Document([prompt]), max_images=1, max_tokens=8, seed=0)
            images = [segment for segment in page.segments if isinstance(segment, mmi.Image)]
            right.append(bool(images) and judge.best(np.asarray(images[0].array())) == (thing, style))
    assert sum(right) >= 11, right
