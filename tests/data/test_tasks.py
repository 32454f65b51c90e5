"""What all tasks that came after the first ones share: pure languages, words that are known, fonts that hold what is written."""

import re

import pytest

from mm_interleaved.data.playground.material.lettering import faces
from mm_interleaved.data.playground.tasks import FIRST_TASKS, READING_TASKS, SENTENCES, TASKS, handwriting, known_words, sample, texts
from mm_interleaved.data.playground.world import World, WorldConfig


def test_every_later_task_names_its_words() -> None:
    assert set(SENTENCES) == set(TASKS) - set(FIRST_TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_reading_tasks_paint_nothing_and_all_others_do(train, task: str) -> None:
    found = [sample(task, train, 2, index, side=8) for index in range(12)]
    painted = [segment for each in found for segment in each.segments[each.prompt :] if not isinstance(segment, str)]
    assert bool(painted) == (task not in READING_TASKS)


@pytest.mark.parametrize("task", SENTENCES)
def test_chinese_texts_have_no_english_letters_and_no_open_blanks(train, task: str) -> None:
    for text in texts(World(train.pack, WorldConfig(chinese=1.0)), 120, 0, tasks=(task,)):
        assert "{" not in text and not re.search("[a-z]", text.replace("T恤", "")), text


@pytest.mark.parametrize("task", SENTENCES)
def test_every_word_of_the_texts_is_known(train, task: str) -> None:
    known = known_words(train.pack, [task])
    for text in texts(World(train.pack, WorldConfig(chinese=0.0)), 200, 1, tasks=(task,)):
        for word in re.findall(r"[a-z]+", text.lower()):
            assert any(word in re.split(r"[-\d]", each) for each in known) or word in known, (word, text)


def test_fonts_hold_every_character_that_is_written(train) -> None:
    for face in faces("hand", "zh"):
        assert handwriting.characters() <= face.characters
    english = set("".join(word for part in handwriting.vocabulary(train.pack, "en") for word in part))
    for face in faces("hand", "en"):
        assert english <= face.characters


@pytest.mark.parametrize("task", SENTENCES)
def test_truth_does_not_depend_on_the_side(train, task: str) -> None:
    for index in range(4):
        one, other = sample(task, train, 9, index, 1), sample(task, train, 9, index, 112)
        assert one.truth == other.truth
        assert [part for part in one.segments if isinstance(part, str)] == [part for part in other.segments if isinstance(part, str)]
