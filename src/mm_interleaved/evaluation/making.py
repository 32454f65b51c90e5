"""What the model makes of one playground sample, with and without its picture, as plain JSON: the part of a measurement that costs time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mm_interleaved.data.playground.judge import TemplateJudge
from mm_interleaved.data.playground.tasks import Sample, Segment
from mm_interleaved.data.playground.world import World
from mm_interleaved.document import Document, Image, Pixels, Text
from mm_interleaved.evaluation import reading
from mm_interleaved.evaluation.scoring import ENDS
from mm_interleaved.generation.events import Event, Failed, Finished, ImageDone, TextDelta
from mm_interleaved.generation.load import Model

GREY = 128
"""Value of every channel of the picture that a blind model gets."""

TEXT_LIMITS = {"question": 16, "caption": 48, **reading.LIMITS}
"""Most tokens of an answer and of a caption."""

DRAW_TOKENS = 8
"""Most tokens until a picture begins, where one is asked for; a model that has not begun by then drew nothing."""

STORY_TOKENS = 160
"""Most tokens of a story, each picture counted as one."""


@dataclass(frozen=True, slots=True)
class Made:
    """What came of one sample."""

    outcome: dict[str, Any]
    """JSON-able; what `results.score` reads."""
    pictures: tuple[Pixels, ...]
    """The generated pictures, in reading order; not those of the blind run."""


class Maker:
    """Runs samples on a model and lets the judge look at the pictures."""

    def __init__(self, model: Model, world: World, *, steps: int, guidance: float) -> None:
        """
        Args:
            world: whose things and styles the judge may name.
            steps: denoising steps of a picture.
            guidance: scale of classifier-free guidance.
        """
        self.model = model
        self.steps = steps
        self.guidance = guidance
        self._pack = world.pack
        self._judge = TemplateJudge(world.pack, world.train_things, range(world.config.styles))

    def make(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Made]:
        """Continues the prompts of some samples of one task, side by side.

        Args:
            samples: all of the same task.
            seeds: of the noise, one per sample; the blind runs have the same.

        Raises:
            LayoutError: a prompt does not fit into the model.
        """
        prompts = [sample.segments[: sample.prompt] for sample in samples]
        targets = [_pictures(sample.segments[sample.prompt :]) for sample in samples]
        task = samples[0].task
        if task in TEXT_LIMITS:
            # An answer ends where the true one does: most after one sentence, an introduction after two or three.
            ends = [sum(str(sample.segments[-1]).count(end) for end in ENDS) for sample in samples]
            blind_prompts = [blinded(prompt) for prompt in prompts]
            answers, blind = (self._answers(some, seeds, TEXT_LIMITS[task], ends) for some in (prompts, blind_prompts))
            return [Made({"text": text, "blind": other}, ()) for text, other in zip(answers, blind, strict=True)]
        if task == "story":
            events = self._together(prompts, seeds, max_images=len(targets[0]), max_tokens=STORY_TOKENS)
            return [self._story(told, panels) for told, panels in zip(events, targets, strict=True)]
        drawn = self._draw(prompts, seeds)
        made = [{"judged": self._see(picture), "ceiling": self._see(wanted[0])} for picture, wanted in zip(drawn, targets, strict=True)]
        if task == "style":
            for outcome, picture in zip(made, self._draw([blinded(prompt) for prompt in prompts], seeds), strict=True):
                outcome["blind"] = self._see(picture)
        return [Made(outcome, () if picture is None else (picture,)) for outcome, picture in zip(made, drawn, strict=True)]

    def _answers(self, prompts: Sequence[Sequence[Segment]], seeds: Sequence[int], limit: int, sentences: Sequence[int]) -> list[str]:
        def ended(place: int, told: Sequence[Event]) -> bool:
            return sum(_written(told).count(end) for end in ENDS) >= sentences[place]

        found = self._together(prompts, seeds, enough=ended, max_images=0, max_tokens=limit)
        return [_written(told) for told in found]

    def _draw(self, prompts: Sequence[Sequence[Segment]], seeds: Sequence[int]) -> list[Pixels | None]:
        def drawn(place: int, told: Sequence[Event]) -> bool:
            return isinstance(told[-1], ImageDone)

        found = self._together(prompts, seeds, enough=drawn, max_images=1, max_tokens=DRAW_TOKENS)
        return [next((event.image.array() for event in events if isinstance(event, ImageDone)), None) for events in found]

    def _together(
        self,
        prompts: Sequence[Sequence[Segment]],
        seeds: Sequence[int],
        *,
        enough: Callable[[int, Sequence[Event]], bool] | None = None,
        **options: Any,
    ) -> list[list[Event]]:
        """The events of each document, up to the one with which they are `enough`; a document that fails ends the measurement."""
        scheduler = self.model.scheduler(places=len(prompts))
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            scheduler.add(number, _document(prompt), seed=seed, steps=self.steps, guidance=self.guidance, **options)
        events: dict[int, list[Event]] = {place: [] for place in range(len(prompts))}
        for name, event in scheduler:
            if isinstance(event, Failed):
                raise event.error
            place = cast(int, name)  # documents are called by their numbers above
            events[place].append(event)
            if enough is not None and enough(place, events[place]):
                scheduler.remove(place)
        return list(events.values())

    def _story(self, events: Sequence[Event], targets: Sequence[Pixels]) -> Made:
        texts, pictures, ended = [""], [], False
        for event in events:
            if isinstance(event, TextDelta):
                texts[-1] += event.text
            elif isinstance(event, ImageDone):
                pictures.append(event.image.array())
                texts.append("")
            elif isinstance(event, Finished):
                ended = event.reason == "end"
        outcome = {
            "texts": texts,
            "ended": ended,
            "panels": [self._see_halves(picture) for picture in pictures],
            "ceiling": [self._see_halves(picture) for picture in targets],
        }
        return Made(outcome, tuple(pictures))

    def _see(self, picture: Pixels | None) -> list[str] | None:
        if picture is None:
            return None
        thing, style = self._judge.best(picture)
        return [self._pack.things[thing].id, self._pack.styles[style].id]

    def _see_halves(self, picture: Pixels) -> dict[str, list[str] | None]:
        # The hero stands on the left of every panel, the second thing on the right; parts of a weak drawing cannot be taken for others.
        middle = picture.shape[1] // 2
        return {"left": self._see(picture[:, :middle].copy()), "right": self._see(picture[:, middle:].copy())}


def blinded(prompt: Sequence[Segment]) -> tuple[Segment, ...]:
    """The same prompt with grey pictures."""
    return tuple(part if isinstance(part, str) else np.full_like(part, GREY) for part in prompt)


def _written(told: Sequence[Event]) -> str:
    return "".join(event.text for event in told if isinstance(event, TextDelta))


def _document(prompt: Sequence[Segment]) -> Document:
    return Document(Text(part) if isinstance(part, str) else Image.from_array(part) for part in prompt)


def _pictures(segments: Sequence[Segment]) -> list[np.ndarray]:
    return [part for part in segments if not isinstance(part, str)]
