"""Pictures from vectors of what they show."""

from dataclasses import replace

import pytest
import torch

from mm_interleaved.errors import ConfigError
from mm_interleaved.training.assembly import make_corpus, make_model, make_processor
from mm_interleaved.training.concepts import Concepts
from mm_interleaved.training.recipe import read_model_config

STORIES = {"world": {"things": 60, "styles": 2, "held_out_pairs": 0.0}, "tasks": {"caption": 0, "picture": 1, "style": 1, "story": 2}}


@pytest.fixture
def concepts(recipe):
    run = recipe(objective="concepts", data=STORIES | {"last_unread": 1.0})
    config = read_model_config(run)
    corpus = make_corpus(run, side=config.vision_config.image_size)
    return Concepts(make_model(run), make_processor(run, config, corpus.world), corpus), corpus


def test_every_painted_picture_has_its_own_scene(concepts):
    objective, corpus = concepts
    prepared = objective.prepare(corpus, range(8))
    samples = [corpus.sample(index) for index in range(8)]
    assert {"style", "story"} <= {sample.task for sample in samples}
    batch = prepared.documents.batch
    painted = batch.target_image.tolist()
    wanted = []
    for image in painted:  # in the order of the batch: pictures that are read first, unread ones last
        row = int(batch.image_row[image])
        earlier = int((batch.image_row[:image] == row).sum())
        wanted.append(samples[row].truth["scenes"][earlier])
    assert len(painted) == sum(3 if sample.task == "story" else 1 for sample in samples)
    assert prepared.ground.tolist() == [scene["ground"] for scene in wanted]
    for items, present, scene in zip(prepared.items.tolist(), prepared.present.tolist(), wanted, strict=True):
        assert [tuple(item[:2]) for item, there in zip(items, present, strict=True) if there] == [
            (item["thing"], item["style"]) for item in scene["items"]
        ]


def test_a_picture_is_the_sum_of_its_drawings_whatever_their_order_and_the_padding(concepts):
    objective, corpus = concepts
    prepared = objective.prepare(corpus, range(8))
    vectors = objective._vectors(prepared)
    swapped = replace(prepared, items=prepared.items.flip(1), present=prepared.present.flip(1))
    assert torch.allclose(objective._vectors(swapped), vectors, atol=1e-6)
    padded = replace(
        prepared,
        items=torch.cat([prepared.items, torch.ones_like(prepared.items[:, :1])], dim=1),
        present=torch.cat([prepared.present, torch.zeros_like(prepared.present[:, :1])], dim=1),
    )
    assert torch.equal(objective._vectors(padded), vectors)
    elsewhere = replace(prepared, items=(prepared.items + torch.tensor([0, 0, 1])) % 3)
    assert not torch.allclose(objective._vectors(elsewhere), vectors)


def test_a_batch_without_pictures_to_paint_trains_on_words_alone(recipe):
    run = recipe(objective="concepts", data={"tasks": {"caption": 1, "picture": 0, "style": 0}})
    config = read_model_config(run)
    corpus = make_corpus(run, side=config.vision_config.image_size)
    objective = Concepts(make_model(run), make_processor(run, config, corpus.world), corpus)
    terms = objective(objective.prepare(corpus, range(2)))
    assert torch.isfinite(terms.total) and terms.columns["image_loss"].isnan()
    terms.total.backward()


def test_the_vectors_need_a_model_with_a_pooled_context(recipe):
    run = recipe(objective="concepts", model_changes={"image_decoder": {"pooled_context": False}})
    config = read_model_config(run)
    corpus = make_corpus(run, side=config.vision_config.image_size)
    with pytest.raises(ConfigError, match="pooled_context"):
        Concepts(make_model(run), make_processor(run, config, corpus.world), corpus)
