"""What the model makes of playground samples, as plain JSON: the part of a measurement that costs time.

One sample gives several *productions*: `made` from its prompt, `blind` from the prompt with grey pictures, `ablation` by the model with
closed synchronizers, `copy` by repeating what the prompt holds, `ceiling` by the true continuation. A prompt that the model cannot
take gives a production with a `reason`, which has nothing right.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mm_interleaved.data.playground.judge import TemplateJudge
from mm_interleaved.data.playground.judges.scores import chances, scores
from mm_interleaved.data.playground.tasks import Sample, Segment, larger
from mm_interleaved.data.playground.world import World
from mm_interleaved.document import Document, Image, Pixels, Text
from mm_interleaved.errors import MMInterleavedError
from mm_interleaved.evaluation import reading
from mm_interleaved.evaluation.ablation import closed_synchronizers
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

PART_TOKENS = 48
"""Most tokens of each text of a larger task, with room for a tokenizer that never read it."""

Production = dict[str, Any]
"""JSON-able; what `results.score` reads."""


@dataclass(frozen=True, slots=True)
class Made:
    """What came of one sample."""

    outcome: dict[str, Production | None]
    """Productions by their kind."""
    pictures: tuple[Pixels, ...]
    """The generated pictures, in reading order; those of `made` alone."""


@dataclass(frozen=True, slots=True)
class Told:
    """One continuation: segments in order, and how it ended."""

    segments: tuple[Segment, ...]
    ended: bool = False
    """Whether the model ended the document."""
    reason: str | None = None
    """Why it could not be made."""

    @property
    def text(self) -> str:
        return "".join(part for part in self.segments if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Pixels, ...]:
        return tuple(part for part in self.segments if not isinstance(part, str))

    @property
    def panels(self) -> list[str]:
        """The words before each picture, and those after the last."""
        texts = [""]
        for part in self.segments:
            if isinstance(part, str):
                texts[-1] += part
            else:
                texts.append("")
        return texts


class Maker:
    """Runs samples on a model and lets the judges look at the pictures."""

    def __init__(self, model: Model, world: World, *, steps: int, guidance: float, ablate: bool = True) -> None:
        """
        Args:
            world: whose things and styles the judge may name.
            steps: denoising steps of a picture.
            guidance: scale of classifier-free guidance.
            ablate: make every sample with closed synchronizers, too.
        """
        self.model = model
        self.world = world
        self.steps = steps
        self.guidance = guidance
        self.ablate = ablate
        self._pack = world.pack
        self._judge = TemplateJudge(world.pack, world.train_things, range(world.config.styles))

    def make(self, samples: Sequence[Sample], seeds: Sequence[int], *, solved: Sequence[Sequence[Sample]] | None = None) -> list[Made]:
        """Continues the prompts of some samples of one task, side by side.

        Args:
            samples: all of the same task.
            seeds: of the noise, one per sample; every production of a sample has the same.
            solved: for each of them the samples that stand before its prompt, answers included; None stands for none.
        """
        shown = solved or [()] * len(samples)
        prompts = [(*examples_of(before), *sample.segments[: sample.prompt]) for before, sample in zip(shown, samples, strict=True)]
        told = {"made": self._continue(samples, prompts, seeds)}
        seen = [place for place, prompt in enumerate(prompts) if any(not isinstance(part, str) for part in prompt)]
        if seen:
            some = [samples[place] for place in seen], [blinded(prompts[place]) for place in seen], [seeds[place] for place in seen]
            blind = dict(zip(seen, self._continue(*some), strict=True))
        else:
            blind = {}
        if self.ablate:
            told["ablation"] = self._continue(samples, prompts, seeds, closed=True)
        made = []
        for place, sample in enumerate(samples):
            outcome: dict[str, Production | None] = {kind: self._production(sample, each[place]) for kind, each in told.items()}
            if place in blind:
                outcome["blind"] = self._production(sample, blind[place])
            if sample.task in larger.TASKS:
                outcome |= self._judged_against(sample, None if place in blind else _neighbour(told["made"], place))
            else:
                wanted = sample.segments[sample.prompt :]
                outcome["ceiling"] = self._production(sample, Told(wanted, ended=True))
                # Of the other tasks here none is given a picture where one is wanted; for words see `reading.copied`.
                copied = _copied(prompts[place], wanted) if sample.task == "style" else None
                outcome["copy"] = None if copied is None else self._production(sample, copied)
            made.append(Made(outcome, told["made"][place].pictures))
        return made

    def _judged_against(self, sample: Sample, neighbour: Told | None) -> dict[str, Production | None]:
        """What can be said of a larger task without the model: the judges see pictures only here."""
        wanted = sample.segments[sample.prompt :]
        copied = _copied(sample.segments[: sample.prompt], wanted)
        found: dict[str, Production | None] = {
            "chance": {"scores": chances(self.world, sample)},
            "ceiling": self._production(sample, Told(wanted, ended=True)),
            "copy": None if copied is None else self._production(sample, copied),
        }
        # Where nothing is given but words, the blind baseline is what another sample's prompt gave.
        return found if neighbour is None else {**found, "blind": self._production(sample, neighbour)}

    def _continue(
        self, samples: Sequence[Sample], prompts: Sequence[Sequence[Segment]], seeds: Sequence[int], *, closed: bool = False
    ) -> list[Told]:
        wanted = [sample.segments[sample.prompt :] for sample in samples]
        ends = [_Ending(samples[place].task, parts) for place, parts in enumerate(wanted)]
        scheduler = self.model.scheduler(places=len(prompts))
        events: dict[int, list[Event]] = {place: [] for place in range(len(prompts))}
        failed: dict[int, str] = {}
        with closed_synchronizers(self.model.network) if closed else nullcontext():
            for place, (prompt, seed, end) in enumerate(zip(prompts, seeds, ends, strict=True)):
                try:
                    options: dict[str, Any] = {"max_images": end.pictures, "max_tokens": end.tokens}
                    scheduler.add(place, _document(prompt), seed=seed, steps=self.steps, guidance=self.guidance, **options)
                except MMInterleavedError as error:
                    failed[place] = str(error)
            for name, event in scheduler:
                place = cast(int, name)  # documents are called by their numbers above
                if isinstance(event, Failed):
                    if not isinstance(event.error, MMInterleavedError):
                        raise event.error  # our own fault, which no score may hide
                    failed[place] = str(event.error)
                    continue
                events[place].append(event)
                if ends[place].reached(events[place]):
                    scheduler.remove(place)
        return [Told((), reason=failed[place]) if place in failed else _told(found) for place, found in events.items()]

    def _production(self, sample: Sample, told: Told) -> Production:
        """What is kept of a continuation, in the form of its task."""
        reason = {} if told.reason is None else {"reason": told.reason}
        if sample.task in larger.TASKS:
            found = scores(self.world, sample, told.segments)
            return {"scores": dict.fromkeys(found, 0.0) if reason else found, "texts": told.panels, **reason}
        if sample.task in TEXT_LIMITS:
            return {"text": told.text, **reason}
        if sample.task == "story":
            panels = [self._see_halves(picture) for picture in told.pictures]
            return {"texts": told.panels, "ended": told.ended, "panels": panels, **reason}
        return {"judged": self._see(told.pictures[0]) if told.pictures else None, **reason}

    def _see(self, picture: Pixels) -> list[str]:
        thing, style = self._judge.best(picture)
        return [self._pack.things[thing].id, self._pack.styles[style].id]

    def _see_halves(self, picture: Pixels) -> dict[str, list[str]]:
        # The hero stands on the left of every panel, the second thing on the right; parts of a weak drawing cannot be taken for others.
        middle = picture.shape[1] // 2
        return {"left": self._see(picture[:, :middle].copy()), "right": self._see(picture[:, middle:].copy())}


class _Ending:
    """When a continuation is complete, and the most that it may take."""

    def __init__(self, task: str, wanted: Sequence[Segment]) -> None:
        texts = [part for part in wanted if isinstance(part, str)]
        self.pictures = len(wanted) - len(texts)
        self._story = task == "story"
        # An answer ends where the true one does: most after one sentence, an introduction after two or three.
        self._sentences = sum(text.count(end) for text in texts for end in ENDS)
        if task in TEXT_LIMITS:
            self.tokens = TEXT_LIMITS[task]
        elif self._story:
            self.tokens = STORY_TOKENS
        else:
            self.tokens = PART_TOKENS * len(texts) + self.pictures if texts else DRAW_TOKENS

    def reached(self, told: Sequence[Event]) -> bool:
        if self._story:
            return False  # whether the model itself ends it is part of the task
        if self.pictures:
            return isinstance(told[-1], ImageDone) and sum(isinstance(event, ImageDone) for event in told) >= self.pictures
        written = "".join(event.text for event in told if isinstance(event, TextDelta))
        return self._sentences > 0 and sum(written.count(end) for end in ENDS) >= self._sentences


def examples_of(solved: Sequence[Sample]) -> tuple[Segment, ...]:
    """Solved examples, one after the other, each with a new line behind its answer."""
    return tuple(part for sample in solved for part in (*sample.segments, "\n"))


def blinded(prompt: Sequence[Segment]) -> tuple[Segment, ...]:
    """The same prompt with grey pictures."""
    return tuple(part if isinstance(part, str) else np.full_like(part, GREY) for part in prompt)


def _copied(prompt: Sequence[Segment], wanted: Sequence[Segment]) -> Told | None:
    """The last given picture and the last given text, wherever one is wanted; None where a picture is wanted and none was given."""
    pictures = [part for part in prompt if not isinstance(part, str)]
    texts = [part for part in prompt if isinstance(part, str)]
    if not pictures and any(not isinstance(part, str) for part in wanted):
        return None
    return Told(tuple(texts[-1] if isinstance(part, str) else pictures[-1] for part in wanted), ended=True)


def _neighbour(told: Sequence[Told], place: int) -> Told | None:
    return None if len(told) < 2 else told[(place + 1) % len(told)]


def _told(events: Sequence[Event]) -> Told:
    segments: list[Segment] = []
    for event in events:
        if isinstance(event, TextDelta) and segments and isinstance(segments[-1], str):
            segments[-1] += event.text
        elif isinstance(event, TextDelta):
            segments.append(event.text)
        elif isinstance(event, ImageDone):
            segments.append(event.image.array())
    return Told(tuple(segments), ended=any(isinstance(event, Finished) and event.reason == "end" for event in events))


def _document(prompt: Sequence[Segment]) -> Document:
    return Document(Text(part) if isinstance(part, str) else Image.from_array(part) for part in prompt)
