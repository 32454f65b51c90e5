"""Logos and flags: facts and pictures of the held-out third never meet in training; answers are balanced; facts are of one piece."""

from collections import Counter, defaultdict

import numpy as np

from mm_interleaved.data.playground.material.signs import brands, countries, drawing
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.tasks.logos import CONTINENTS, FORMS, KINDS


def _truths(world, seed: int, count: int) -> list[dict]:
    return [sample("logo", world, seed, index, 1).truth for index in range(count)]


def test_picture_and_facts_of_the_held_out_third_never_meet_in_training(train, test) -> None:
    trained = _truths(train, 0, 8000)
    held_out = {truth["sign"] for truth in trained if truth["held_out"]}
    for truth in trained:
        if truth["sign"] in held_out:
            assert not truth["form"].startswith(("hop", "introduce"))
    named = {truth["sign"] for truth in trained if truth["form"].startswith("name")}
    told = {truth["sign"] for truth in trained if truth["form"].startswith(("fact", "tell"))}
    tested = _truths(test, 0, 400)
    assert all(truth["held_out"] and truth["form"].startswith(("hop", "introduce")) for truth in tested)
    # Both hops of what is tested are taught, each apart.
    assert {truth["sign"] for truth in tested} <= named & told
    assert 0.25 < len(held_out) / (len(brands()) + len(countries())) < 0.42


def test_facts_are_taught_without_pictures_and_names_with_them(train) -> None:
    for index in range(300):
        document = sample("logo", train, 1, index, 1)
        pictures = [segment for segment in document.segments if not isinstance(segment, str)]
        assert len(pictures) == (0 if document.truth["form"].startswith(("fact", "tell")) else 1) == len(document.truth["scenes"])
        assert document.prompt == len(document.segments) - 1


def test_short_answers_are_balanced(train) -> None:
    answers: dict[str, Counter] = defaultdict(Counter)
    for truth in _truths(train, 2, 6000):
        if truth["language"] == "en" and truth["form"].startswith(("fact", "hop")):
            answers[truth["form"]][truth["answer"]] += 1
    for form, counts in answers.items():
        share = 1 / len(counts)
        allowed = share + 4.5 * (share * (1 - share) / counts.total()) ** 0.5
        assert max(counts.values()) / counts.total() < allowed, form
    assert len(answers["fact_continent"]) == len(CONTINENTS)


def test_every_company_has_a_kind_a_country_and_drawings_that_can_be_seen() -> None:
    assert len(brands()) >= 80 and len(countries()) >= 60
    for brand in brands():
        assert brand.kind in KINDS and brand.country in countries()
    for sign in (*brands(), *countries().values()):
        for member in sign.drawings:
            pixels = np.asarray(drawing(member))
            assert max(pixels.shape[:2]) == 136 and (pixels[..., 3] > 128).mean() > 0.05, member
    names = [(sign.name_en, sign.name_zh) for sign in (*brands(), *countries().values())]
    assert len({english for english, _ in names}) == len({chinese for _, chinese in names}) == len(names)
    assert all(country.continent in CONTINENTS for country in countries().values())


def test_every_form_comes_in_training(train) -> None:
    assert {truth["form"] for truth in _truths(train, 3, 600)} == set(FORMS)


def test_the_slots_are_in_the_text(train) -> None:
    for index in range(300):
        document = sample("logo", train, 4, index, 1)
        assert all(slot in document.segments[-1] for slot in document.truth["slots"])
