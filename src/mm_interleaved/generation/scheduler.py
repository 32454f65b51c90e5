"""Continues many documents at once: all that write words do it in one batch, all that are painted in another.

    waiting ──a place is free──► prompt read ──► writing ⇄ painting ──► finished

Every document has its own random numbers, its own limits and its own stop; what it becomes does not depend on its neighbours, except
by the rounding of a batch. Documents come and go at any time. The phases take turns (a batch of prompts is read, then up to `TEXT_STEPS`
tokens of each writing document, then one denoising step of each painted one), so no document waits for another to end.

A document that cannot be continued fails alone. Where a batch fails, the machine's memory is the first suspect: it is tried again in
halves, and what fails alone has failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mm_interleaved.document import Document
from mm_interleaved.generation.engine import Continuation, Phase
from mm_interleaved.generation.events import Event, Failed
from mm_interleaved.generation.image import denoise_step
from mm_interleaved.generation.options import Options
from mm_interleaved.generation.rows import TextRows
from mm_interleaved.generation.state import read_prompts
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor

TEXT_STEPS = 32
"""Tokens of each writing document between two denoising steps. On CPUs a denoising step costs as much as some dozen tokens, and
documents that begin a picture in the meantime join its batch."""

READ_PICTURES = 8
"""Pictures with which a batch of prompts is full. Those in progress wait while it is read."""

READ_TOKENS = 4096
"""Tokens with which it is full."""

Activity = Literal["waiting", "writing", "painting"]


@dataclass(slots=True, eq=False)
class _Place:
    name: Hashable
    run: Continuation
    phase: Phase


class Scheduler:
    """Documents on their way; iterate for (name, event) until nothing is left. `add` more at any time, also between two events."""

    def __init__(
        self,
        model: MMInterleavedForConditionalGeneration,
        processor: MMInterleavedProcessor,
        *,
        model_hash: str = "",
        places: int = 8,
        painted_together: int = 8,
        compiled: bool = False,
        grouped: bool = False,
        recorded: bool = False,
    ) -> None:
        """
        Args:
            model_hash: fingerprint of the weights, kept in every generated picture.
            places: documents in progress at a time; what is added beyond them waits. Each keeps its caches in memory.
            painted_together: pictures in one denoising batch; a document in progress beyond them waits for its turn.
            compiled: decode words through torch.compile.
            grouped: the same layer group by layer group, which compiles sooner (`TextRows`).
            recorded: decode words through CUDA graphs (`TextRows`), a lone document's too.
        """
        self.model = model
        self.processor = processor
        self.model_hash = model_hash
        self.places = places
        self._rows = TextRows(model, places, compiled=compiled, grouped=grouped, recorded=recorded)
        self._recorded = recorded
        self._waiting: deque[tuple[Hashable, Document, Options, Callable[[], bool] | None]] = deque()
        self._running: list[_Place] = []
        self._most = {Phase.READ: places, Phase.WRITE: places, Phase.PAINT: painted_together}

    def add(self, name: Hashable, document: Document, *, stop: Callable[[], bool] | None = None, **options: Any) -> None:
        """A document joins the queue.

        Args:
            name: told with each of its events.
            stop: asked before every token and every denoising step; True ends it and keeps what was made.
            **options: fields of `Options`.

        Raises:
            ConfigError: an unknown option or a value out of range.
        """
        self._waiting.append((name, document, Options.read(options), stop))

    def begin(self, name: Hashable, document: Document, options: Options, stop: Callable[[], bool] | None) -> Continuation:
        """The continuation of a document whose turn has come; a subclass may hand in one that stands further on.

        Raises:
            LayoutError: the document does not fit into the model.
        """
        return Continuation(self.model, self.processor, document, options, model_hash=self.model_hash, stop=stop)

    def remove(self, name: Hashable) -> Document | None:
        """Gives a document up and returns what was made of it so far; None if it is not in progress."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != name)
        for place in self._running:
            if place.name == name:
                document = place.run.document
                self._release(place)
                return document
        return None

    @property
    def free(self) -> int:
        """Documents that could be added and would be begun at once."""
        return max(0, self.places - len(self._running) - len(self._waiting))

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in progress."""
        return not self._waiting and not self._running

    @property
    def documents(self) -> dict[Hashable, Document]:
        """What was made so far of every document in progress."""
        return {place.name: place.run.document for place in self._running}

    @property
    def activities(self) -> dict[Activity, int]:
        """How many documents wait, write and are painted."""
        painting = sum(place.phase is Phase.PAINT for place in self._running)
        return {"waiting": len(self._waiting), "writing": len(self._running) - painting, "painting": painting}

    @property
    def nbytes(self) -> int:
        """Memory of all caches, in bytes."""
        return self._rows.nbytes + sum(place.run.state.nbytes for place in self._running)

    def __iter__(self) -> Iterator[tuple[Hashable, Event | Failed]]:
        while not self.idle:
            yield from self._admit()
            for group in self._groups(Phase.WRITE):
                for _ in range(TEXT_STEPS):
                    writing = [place for place in group if place.phase is Phase.WRITE and place in self._running]
                    if not writing:
                        break
                    yield from self._together(writing, self._write)
            for group in self._groups(Phase.PAINT):
                yield from self._together(group, self._paint)

    def _groups(self, phase: Phase) -> list[list[_Place]]:
        """Documents in a phase, as many together as have been found to fit into memory."""
        found, most = [place for place in self._running if place.phase is phase], self._most[phase]
        return [found[first : first + most] for first in range(0, len(found), most)]

    def _admit(self) -> Iterator[tuple[Hashable, Event | Failed]]:
        # One batch of prompts per turn while others are in progress; all of them when nobody waits for it.
        first = not self._running
        while self._waiting and len(self._running) < self.places:
            reading: list[_Place] = []
            while self._waiting and len(self._running) < self.places and self._room_beside(reading):
                name, document, options, stop = self._waiting.popleft()
                try:
                    run = self.begin(name, document, options, stop)
                except Exception as error:
                    yield name, Failed(error, document)
                    continue
                place = _Place(name, run, Phase.READ)
                self._running.append(place)
                yield from self._go_on(place)
                if place.phase is Phase.READ:
                    reading.append(place)
            yield from self._together(reading, self._read)
            if not first:
                return

    def _room_beside(self, reading: Sequence[_Place]) -> bool:
        """Whether another prompt may be read in the batch of these."""
        layouts = [place.run.prompt for place in reading]
        tokens, pictures = sum(map(len, layouts)), sum(len(layout.images) for layout in layouts)
        return len(reading) < self._most[Phase.READ] and tokens < READ_TOKENS and pictures < READ_PICTURES

    def _together(self, places: Sequence[_Place], work: Callable[[Sequence[_Place]], None]) -> Iterator[tuple[Hashable, Event | Failed]]:
        """Does the work of a phase for a group; one that fails is done in halves, and a document that fails alone ends."""
        batches = deque([places])
        while batches:
            batch = [place for place in batches.popleft() if place in self._running]  # the consumer may have removed one
            if not batch:
                continue
            try:
                work(batch)
            except Exception as error:
                middle = len(batch) // 2
                if middle == 0:
                    yield self._fail(batch[0], error)
                    continue
                if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
                    self._most[batch[0].phase] = middle
                for place in batch:
                    try:
                        self._rows.leave(place.run.state)
                    except Exception as lost:  # what it wrote in this batch cannot be taken along
                        yield self._fail(place, lost)
                batches.extendleft((batch[middle:], batch[:middle]))
                continue
            for place in batch:
                yield from self._go_on(place)

    def _go_on(self, place: _Place) -> Iterator[tuple[Hashable, Event | Failed]]:
        """Tells the events of a document up to the next thing it waits for."""
        while place in self._running:
            try:
                step = place.run.advance()
            except Exception as error:
                yield self._fail(place, error)
                return
            if isinstance(step, Phase):
                place.phase = step
                return
            if step is None:
                self._release(place)
                return
            yield place.name, step

    # The three phases.

    def _read(self, places: Sequence[_Place]) -> None:
        """Reads prompts, except those that were read before a batch failed."""
        runs = [place.run for place in places if place.run.state.position == 0]
        if runs:
            read_prompts([run.state for run in runs], [run.prompt for run in runs])

    def _write(self, places: Sequence[_Place]) -> None:
        """Reads the last token of each document and chooses the next one; alone and not recorded, exactly as a document by itself does."""
        if len(places) == 1 and not self._recorded:
            self._part(places)
            places[0].run.serve(Phase.WRITE)
            return
        runs = [place.run for place in places]
        reading = [run for run in runs if run.pending is not None]
        self._rows.gather([run.state for run in reading])
        if reading:
            self._rows.read([run.state for run in reading], [run.pending for run in reading])  # type: ignore[misc]
            for run in reading:
                run.settle(elsewhere=True)
        chosen = torch.stack([run.choose(run.state.next_logits()) for run in runs]).tolist()  # the only wait for the device
        for run, (token, favourite) in zip(runs, chosen, strict=True):
            run.answer(token, favourite)

    def _paint(self, places: Sequence[_Place]) -> None:
        """Takes one denoising step of every picture, whatever step each has come to."""
        self._part(places)
        runs = [place.run for place in places]
        paintings = [run.ready_painting() for run in runs]
        caches = [run.state.features for run in runs]
        denoise_step(
            lambda latents, timestep, condition, rows: self.model.predict_noise(latents, timestep, condition, caches, rows), paintings
        )

    def _part(self, places: Sequence[_Place]) -> None:
        for place in places:
            self._rows.leave(place.run.state)

    def _release(self, place: _Place) -> None:
        with suppress(Exception):  # its state is not needed any more
            self._rows.leave(place.run.state)
        self._running.remove(place)

    def _fail(self, place: _Place, error: Exception) -> tuple[Hashable, Failed]:
        document = place.run.document
        self._release(place)
        return place.name, Failed(error, document)
