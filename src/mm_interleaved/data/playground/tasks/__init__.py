"""The tasks of the playground: each makes one document with its ground truth from a world and a random stream.

`sample` is the way in: a pure function of the task, the split, a seed and an index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import arithmetic, handwriting, larger, logos, referring, robot, screens
from mm_interleaved.data.playground.tasks.drawing import picture, style
from mm_interleaved.data.playground.tasks.looking import caption, question
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.stories import story
from mm_interleaved.data.playground.tasks.wording import words, words_in
from mm_interleaved.data.playground.world import World
from mm_interleaved.errors import ConfigError

__all__ = ["FIRST_TASKS", "READING_TASKS", "TASKS", "Sample", "Segment", "known_words", "sample", "texts"]

TASKS: dict[str, Callable[[World, np.random.Generator, int], Sample]] = {
    "caption": caption,
    "question": question,
    "picture": picture,
    "style": style,
    "story": story,
    "arithmetic": arithmetic.fruit_sum,
    "logo": logos.logo,
    "handwriting": handwriting.circled_word,
    "robot": robot.robot_action,
    "screens": screens.next_tap,
    "referring": referring.hidden_thing,
    **larger.TASKS,
}
"""Task name -> function(world, random, side in pixels)."""

FIRST_TASKS = ("caption", "question", "picture", "style", "story")
"""The tasks that the model in the box learnt, in the order in which its tokenizer read their texts. Later tasks stay out of this
list, so that earlier recipes keep their ids."""

READING_TASKS = frozenset({"caption", "question", "arithmetic", "logo", "handwriting", "robot", "screens", "referring"})
"""Tasks whose answers are words alone: all their pictures are given, none is painted."""

SENTENCES: dict[str, Callable[[], Iterable[str]]] = {
    "arithmetic": arithmetic.sentences,
    "logo": logos.sentences,
    "handwriting": handwriting.sentences,
    "robot": robot.sentences,
    "screens": screens.sentences,
    "referring": referring.sentences,
    **larger.SENTENCES,
}
"""Task -> the sentences and names that its texts are made of, for tasks that came after the first ones."""


def sample(task: str, world: World, seed: int, index: int, side: int = 224) -> Sample:
    """Sample `index` of a task's endless stream.

    Nothing but the arguments decides what comes: not the order of calls, the process, or any global state.

    Args:
        side: pixels per side of every picture.

    Raises:
        ConfigError: no task has this name.
    """
    if task not in TASKS:
        raise ConfigError(f"no task is called {task!r}; there are {', '.join(TASKS)}.")
    return TASKS[task](world, _random(world.config.split, task, seed, index), side)


def texts(world: World, count: int, seed: int, tasks: Sequence[str] = FIRST_TASKS) -> Iterator[str]:
    """The playground's texts without their pictures, each document's text as one string, tasks in turn.

    For training the tokenizer and the small language model. Pictures cost nothing here: they are composed at one pixel.

    Args:
        tasks: whose texts, in this order.

    Raises:
        ConfigError: no task has one of these names.
    """
    for index in range(count):
        document = sample(tasks[index % len(tasks)], world, seed, index // len(tasks), side=1)
        yield "".join(_joined(document.segments))


def known_words(pack: Pack, tasks: Iterable[str]) -> frozenset[str]:
    """All words that the first tasks and some further ones use; single characters of Chinese sentences.

    Args:
        pack: whose names to include.
        tasks: further tasks, or any others.
    """
    return words(pack).union(*(words_in(SENTENCES[task]()) for task in tasks if task in SENTENCES))


def _joined(segments: tuple[Segment, ...]) -> Iterator[str]:
    after_picture = False
    started = False
    for segment in segments:
        if isinstance(segment, str):
            # A picture stood between two texts: a blank keeps their words apart.
            yield f" {segment}" if after_picture and started else segment
            started = True
        after_picture = not isinstance(segment, str)


def _random(split: str, task: str, seed: int, index: int) -> np.random.Generator:
    key = hashlib.blake2b(f"playground sample 1/{split}/{task}/{seed}/{index}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
