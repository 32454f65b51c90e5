"""What is where in a picture: the labels, and what learns from them."""

import pytest
import torch

from mm_interleaved.training.assembly import make_corpus, make_model
from mm_interleaved.training.parts import one_picture
from mm_interleaved.training.recipe import read_model_config
from mm_interleaved.training.vision import Vision, at_places

QUESTIONS = {"world": {"things": 60, "styles": 5, "held_out_pairs": 0.0}, "tasks": {"question": 2, "caption": 1}}
COUNT = 12


@pytest.fixture
def vision(recipe):
    run = recipe(objective="vision", data=QUESTIONS, trainable=["visual_tokenizer.*"])
    corpus = make_corpus(run, side=read_model_config(run).vision_config.image_size)
    return Vision(make_model(run), corpus), corpus


def test_every_item_of_every_picture_is_labelled_where_it_is(vision):
    objective, corpus = vision
    prepared = objective.prepare(corpus, range(COUNT))
    items = [(owner, item) for owner in range(COUNT) for item in one_picture(corpus, owner)[1].items]
    assert len(items) > COUNT
    assert prepared.item_image.tolist() == [owner for owner, _ in items]
    assert prepared.item_targets["item_thing"].tolist() == [item.thing for _, item in items]
    assert prepared.item_targets["item_style"].tolist() == [item.style for _, item in items]
    wanted = torch.tensor([(item.centre_x, item.centre_y, item.size) for _, item in items], dtype=torch.float32)
    assert torch.equal(prepared.item_place, wanted)


def test_what_is_shown_twice_in_a_picture_is_not_to_be_found_by_its_name(vision):
    objective, corpus = vision
    prepared = objective.prepare(corpus, range(5 * COUNT))
    for owner, thing, alone in zip(prepared.item_image, prepared.item_targets["item_thing"], prepared.item_alone, strict=True):
        same = sum(item.thing == thing for item in one_picture(corpus, int(owner))[1].items)
        assert bool(alone) == (same == 1)
    assert not prepared.item_alone.all()  # questions for a number show one thing several times


def test_maps_are_read_at_the_place_in_the_picture_of_the_item():
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    level = torch.stack([torch.stack([column, row]), 100 + torch.stack([column, row])])  # of two pictures
    places = torch.tensor([[0.5, 0.25], [0.9375, 0.0625]])
    assert at_places([level], torch.tensor([0, 1]), places).tolist() == [[3.5, 1.5], [107.0, 100.0]]


def test_finding_teaches_the_tokens_and_no_head_leaves_a_hole_in_the_gradients(vision):
    objective, corpus = vision
    terms = objective(objective.prepare(corpus, range(COUNT)))
    assert set(terms.columns) == set(objective.columns)
    terms.total.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in objective.heads.parameters())
    resampler = [weight.grad for name, weight in objective.model.visual_tokenizer.named_parameters() if "resampler" in name]
    assert resampler and all(gradient is not None and gradient.abs().sum() > 0 for gradient in resampler)


def test_a_batch_travels_in_a_quarter_of_the_bytes_and_comes_back_the_same(vision):
    objective, corpus = vision
    prepared = objective.prepare(corpus, range(COUNT))
    there = prepared.in_bytes()
    assert there.pixels.dtype == torch.uint8
    back = there.to(torch.device("cpu"))
    assert torch.equal(back.pixels, prepared.pixels) and torch.equal(back.item_place, prepared.item_place)


def test_a_few_steps_on_the_same_pictures_find_things_nearer(vision):
    objective, corpus = vision
    torch.manual_seed(0)
    prepared = objective.prepare(corpus, range(COUNT))
    optimizer = torch.optim.Adam([*objective.heads.parameters(), *objective.model.visual_tokenizer.parameters()], lr=3e-3)
    distances = []
    for _ in range(25):
        terms = objective(prepared)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        distances.append(float(terms.columns["found_distance"]))
    assert distances[-1] < 0.5 * distances[0]
