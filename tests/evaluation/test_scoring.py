"""Scores on hand-made samples."""

import pytest

from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.evaluation import scoring
from mm_interleaved.evaluation.scoring import Caption, Names

NAMES = Names(
    {
        "en": {"dog": "dog", "hot_dog": "hot dog", "bone": "bone", "owl": "owl"},
        "zh": {"dog": "狗", "hot_dog": "热狗", "bone": "骨头", "owl": "猫头鹰"},
    },
    {"en": {"3d": "3D", "ink": "ink"}, "zh": {"3d": "立体", "ink": "墨线"}},
)
TWO = {"language": "en", "things": ["dog", "owl"], "styles": ["3d", "ink"], "ground": 0}
STORY = {
    "language": "en",
    "hero": "dog",
    "style": "ink",
    "goal": "bone",
    "other": "owl",
    "panels": [["dog", "bone"], ["dog", "owl"], ["dog", "bone"]],
}
TEXTS = [" the dog dreams of a bone.", "the dog meets an owl.", "the dog finds the bone."]


def panel(left=("dog", "ink"), right=("bone", "ink")):
    return {"left": list(left), "right": list(right)}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (" a dog.", True),
        ("a dog", True),
        (" a dog. a cat", True),
        ("a hot dog.", False),
        ("dog.", False),
        ("a dog and", False),
        ("", False),
    ],
)
def test_an_answer_is_right_only_if_it_is_the_whole_answer(text, right):
    assert scoring.answer(text, {"answer": "a dog"}) == {"exact": float(right)}


def test_a_chinese_answer_ends_at_its_own_full_stop():
    assert scoring.answer("两只。还有", {"answer": "两只"}) == {"exact": 1.0}


def test_a_caption_is_taken_apart_into_its_slots():
    found = scoring.read_caption(" a 3D hot dog on the left and an ink owl on the right, on a white ground.", "en")
    assert found == Caption((("3D", "hot dog"), ("ink", "owl")), "white")
    found = scoring.read_caption("白色背景上有一只立体风格的狗。", "zh")
    assert found == Caption((("只立体", "狗"),), "白色")


def test_every_slot_of_a_caption_counts_by_itself():
    text = " an ink dog on the left and an ink owl on the right, on a blue ground."
    assert scoring.caption(text, TWO, NAMES) == {"slots": 3 / 5, "all": 0.0, "thing": 1.0, "style": 0.5, "ground": 0.0}


def test_things_in_each_others_places_are_wrong():
    text = " an ink owl on the left and a 3D dog on the right, on a white ground."
    assert scoring.caption(text, TWO, NAMES)["slots"] == pytest.approx(1 / 5)


def test_a_caption_of_too_few_or_too_many_drawings_is_not_all_right():
    assert scoring.caption(" a 3D dog on a white ground.", TWO, NAMES)["slots"] == pytest.approx(3 / 5)
    one = {"language": "en", "things": ["dog"], "styles": ["3d"], "ground": 0}
    more = scoring.caption(" a 3D dog on the left and an ink owl on the right, on a white ground.", one, NAMES)
    assert more["slots"] == 1.0
    assert more["all"] == 0.0


def test_what_does_not_read_like_a_caption_has_nothing_right():
    assert set(scoring.caption("dog 3D white owl ink", TWO, NAMES).values()) == {0.0}


@pytest.mark.parametrize("index", range(30))
def test_the_true_caption_and_answer_are_all_right(world, index):
    names = Names.of(world.pack)
    made = sample("caption", world, 1, index, side=8)
    assert set(scoring.caption(made.segments[-1], made.truth, names).values()) == {1.0}
    made = sample("question", world, 1, index, side=8)
    assert scoring.answer(made.segments[-1], made.truth) == {"exact": 1.0}


def test_a_picture_that_was_not_drawn_is_wrong():
    truth = {"thing": "dog", "style": "ink"}
    assert scoring.drawing(None, truth) == {"thing": 0.0, "style": 0.0, "both": 0.0, "drawn": 0.0}
    assert scoring.drawing(["dog", "3d"], truth) == {"thing": 1.0, "style": 0.0, "both": 0.0, "drawn": 1.0}


def test_of_overlapping_names_the_longest_counts():
    assert scoring.named("a hot dog", "en", NAMES) == {"hot_dog"}
    assert scoring.named("狗找到了热狗", "zh", NAMES) == {"dog", "hot_dog"}
    assert scoring.named("an owlet and dogs", "en", NAMES) == set()


def test_a_whole_story_is_all_right():
    panels = [panel(), panel(right=("owl", "ink")), panel()]
    assert set(scoring.story([*TEXTS, ""], panels, True, STORY, NAMES).values()) == {1.0}


def test_a_missing_panel_is_wrong():
    found = scoring.story(TEXTS[:2], [panel(), panel(right=("owl", "ink"))], True, STORY, NAMES)
    assert found["hero"] == pytest.approx(2 / 3)
    assert found["words"] == pytest.approx(2 / 3)
    assert found["pictures"] == 0.0


def test_the_second_drawing_is_right_if_its_own_text_names_it():
    panels = [panel(), panel(right=("bone", "ink")), panel(right=("dog", "ink"))]
    assert scoring.story(TEXTS, panels, True, STORY, NAMES)["second"] == pytest.approx(1 / 3)


def test_three_pictures_without_an_end_are_not_right():
    assert scoring.story(TEXTS, [panel()] * 3, False, STORY, NAMES)["pictures"] == 0.0


def test_guessing_a_caption_is_rated_slot_by_slot():
    found = scoring.caption_chance(TWO, things=10, styles=2, grounds=4)
    assert found["slots"] == pytest.approx((0.1 + 0.5 + 0.1 + 0.5 + 0.25) / 5)
    assert found["all"] == pytest.approx(0.05**2 / 4)
