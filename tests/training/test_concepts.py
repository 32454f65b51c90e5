"""Pictures from vectors of what they show, and the vectors from words."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mm_interleaved.errors import ConfigError
from mm_interleaved.training.assembly import make_corpus, make_model, make_processor
from mm_interleaved.training.concepts import Concepts, ConceptVectors, Paintings, Shown
from mm_interleaved.training.loop import train
from mm_interleaved.training.recipe import read_model_config

STORIES = {"world": {"things": 60, "styles": 2, "held_out_pairs": 0.0}, "tasks": {"caption": 0, "picture": 1, "style": 1, "story": 2}}
PAINTED = {"objective": "paintings", "trainable": ["image_decoder.unet.*", "image_decoder.negative_tokens"]}


def corpus_and_model(run):
    config = read_model_config(run)
    return make_corpus(run, side=config.vision_config.image_size), make_model(run), config


@pytest.fixture
def stories(recipe):
    return recipe(objective="concepts", data=STORIES | {"last_unread": 1.0})


@pytest.fixture
def concepts(stories):
    corpus, model, config = corpus_and_model(stories)
    return Concepts(model, make_processor(stories, config, corpus.world), corpus), corpus


def test_every_painted_picture_has_its_own_scene(concepts):
    objective, corpus = concepts
    prepared = objective.prepare(corpus, range(8))
    samples = [corpus.sample(index) for index in range(8)]
    assert {"style", "story"} <= {sample.task for sample in samples}
    batch, shown = prepared.documents.batch, prepared.shown
    wanted = []
    for image in batch.target_image.tolist():  # in the order of the batch: pictures that are read first, unread ones last
        row = int(batch.image_row[image])
        earlier = int((batch.image_row[:image] == row).sum())
        wanted.append(samples[row].truth["scenes"][earlier])
    assert len(wanted) == sum(3 if sample.task == "story" else 1 for sample in samples)
    assert shown.ground.tolist() == [scene["ground"] for scene in wanted]
    for items, present, scene in zip(shown.items.tolist(), shown.present.tolist(), wanted, strict=True):
        assert [tuple(item[:2]) for item, there in zip(items, present, strict=True) if there] == [
            (item["thing"], item["style"]) for item in scene["items"]
        ]


def test_a_vector_is_the_sum_of_its_drawings_whatever_their_order_and_the_padding(concepts):
    objective, corpus = concepts
    shown = objective.prepare(corpus, range(8)).shown
    vectors = objective.heads(shown)
    swapped = replace(shown, items=shown.items.flip(1), present=shown.present.flip(1))
    assert torch.allclose(objective.heads(swapped), vectors, atol=1e-6)
    padded = replace(
        shown,
        items=torch.cat([shown.items, torch.ones_like(shown.items[:, :1])], dim=1),
        present=torch.cat([shown.present, torch.zeros_like(shown.present[:, :1])], dim=1),
    )
    assert torch.equal(objective.heads(padded), vectors)
    elsewhere = replace(shown, items=(shown.items + torch.tensor([0, 0, 1])) % 3)
    assert not torch.allclose(objective.heads(elsewhere), vectors)


def test_a_batch_without_pictures_to_paint_trains_on_words_alone(recipe):
    run = recipe(objective="concepts", data={"tasks": {"caption": 1, "picture": 0, "style": 0}})
    corpus, model, config = corpus_and_model(run)
    objective = Concepts(model, make_processor(run, config, corpus.world), corpus)
    terms = objective(objective.prepare(corpus, range(2)))
    assert torch.isfinite(terms.total) and terms.columns["matching_loss"].isnan()
    terms.total.backward()


def test_paintings_see_the_latents_that_training_on_documents_sees(stories):
    corpus, model, _ = corpus_and_model(stories)
    objective = Paintings(model, corpus)
    prepared = objective.prepare(corpus, range(6))
    again = objective.prepare(corpus, range(6))  # now from what is kept
    assert torch.equal(again.mean, prepared.mean) and torch.equal(again.std, prepared.std)
    index = next(index for index in range(6) if corpus.sample(index).task == "picture")
    sample = corpus.sample(index)
    batch = make_processor(stories, model.config, corpus.world).batch([sample.segments], prompts=[sample.prompt])
    noise = prepared.draw.posterior[index : index + 1]
    found = prepared.mean[index] + prepared.std[index] * noise[0]
    assert torch.allclose(model.image_decoder.encode(batch.target_pixels, noise)[0], found, atol=1e-5)


def test_a_later_run_takes_the_vectors_of_an_earlier_one_and_leaves_them_as_they_are(recipe):
    first = train(recipe("first", **PAINTED))
    kept = load_file(Path(first.final) / "heads.safetensors")
    init = [{"from": str(Path(first.final).parent), "parts": ["image_decoder", "heads"]}]
    second = recipe("second", objective="concepts", init=init, trainable=["language_model.*", "!heads.*"])
    after = load_file(Path(train(second).final) / "heads.safetensors")
    assert set(kept) == {"thing.weight", "style.weight", "place.weight", "ground.weight"}
    for name, value in kept.items():
        assert torch.equal(after[name], value), name


def test_a_run_that_kept_no_vectors_is_named(recipe):
    first = train(recipe("first"))
    init = [{"from": str(Path(first.final).parent), "parts": ["heads"]}]
    with pytest.raises(ConfigError, match=r"first/final/heads\.safetensors does not exist"):
        train(recipe("second", objective="concepts", init=init))


def test_the_vectors_need_a_model_with_a_pooled_context(recipe):
    corpus, model, _ = corpus_and_model(recipe(objective="concepts", model_changes={"image_decoder": {"pooled_context": False}}))
    with pytest.raises(ConfigError, match="pooled_context"):
        ConceptVectors(model, corpus)


def test_no_pictures_make_an_empty_record():
    assert Shown.of([]).items.shape == (0, 1, 3)
