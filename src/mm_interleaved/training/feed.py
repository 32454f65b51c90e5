"""The data feed: sample i of a run is a function of (seed, i), and batches are prepared ahead, in a thread or in processes.

Step s trains on samples s · batch_size … (s + 1) · batch_size - 1, so a resumed run continues at the exact sample.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from mm_interleaved.data.mixture import Mixture
from mm_interleaved.data.packing import Row
from mm_interleaved.data.playground.tasks import READING_TASKS, Sample, sample
from mm_interleaved.data.playground.varied import VariedPack
from mm_interleaved.data.playground.world import World
from mm_interleaved.data.seeds import key
from mm_interleaved.data.sources import Example

VALIDATION_START = 1 << 40
"""Indices from here on are never trained on."""

__all__ = ["VALIDATION_START", "Corpus", "Feed", "WorkerFeed", "generator", "key"]

Prepared = TypeVar("Prepared")


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `key`."""
    return torch.Generator().manual_seed(key(*parts))


class Corpus:
    """The samples of a run, in an order without end."""

    mixture: Mixture[Example | Row] | None = None
    """Where the samples of sources come from; set once their tokenizer is known."""

    def __init__(
        self,
        world: World,
        tasks: Mapping[str, float],
        *,
        seed: int,
        side: int,
        last_unread: float = 0.0,
        painted: float = 1.0,
        tokens_alone: float = 0.0,
        variety: float = 0.0,
        worlds: Mapping[str, World] = MappingProxyType({}),
        sources: Mapping[str, float] = MappingProxyType({}),
        together: int = 1,
    ) -> None:
        """
        Args:
            tasks: weight of each task of the playground.
            worlds: tasks that have a world of their own.
            sources: weight of each source.
            together: so many consecutive samples come from one task or source.
            side: side in pixels at which pictures are composed.
            last_unread: share of samples whose last picture, if it ends the document, is painted but not read.
            painted: share of samples whose pictures are painted; those of the others are only read.
            tokens_alone: share of samples in which the language model reads pictures by their tokens, without its synchronizers.
            variety: how much the drawings of the others are altered (`data.playground.varied`).
        """
        self._last_unread = last_unread
        self._painted = painted
        self._tokens_alone = tokens_alone
        self._variety = variety
        self.world = world
        self._worlds = worlds
        self.seed = seed
        self.side = side
        self._sources = frozenset(sources)
        self._together = together
        weights = {**tasks, **sources}
        self._tasks = [task for task in sorted(weights) if weights[task] > 0]
        total = sum(weights[task] for task in self._tasks)
        self._shares = [weights[task] / total for task in self._tasks]

    @property
    def names(self) -> tuple[str, ...]:
        """All tasks and sources that samples come from."""
        return tuple(self._tasks)

    def task_of(self, index: int) -> str:
        """The task or source of sample `index`, drawn by weight."""
        remaining = key(self.seed, index // self._together, "task") / 2**63
        for task, share in zip(self._tasks, self._shares, strict=True):
            remaining -= share
            if remaining < 0:
                return task
        return self._tasks[-1]

    def leaves_last_unread(self, index: int) -> bool:
        """Whether sample `index` belongs to the share whose last picture is only painted."""
        return key(self.seed, index, "last_unread") / 2**63 < self._last_unread

    def is_painted(self, index: int) -> bool:
        """Whether sample `index` belongs to the share whose pictures are painted; never for a task that paints none."""
        return self.task_of(index) not in READING_TASKS and key(self.seed, index, "painted") / 2**63 < self._painted

    def reads_tokens_alone(self, index: int) -> bool:
        """Whether sample `index` belongs to the share in which the synchronizers of the language model add nothing."""
        return key(self.seed, index, "tokens_alone") / 2**63 < self._tokens_alone

    def sample(self, index: int) -> Sample:
        """Sample `index` of the playground, composed anew at every call."""
        task = self.task_of(index)
        world = self._worlds.get(task, self.world)
        if self._variety and not self.is_painted(index):
            world = world.seen_through(VariedPack(world.pack, key(self.seed, index, "variety"), self._variety), jitter=self._variety)
        return sample(task, world, self.seed, index, side=self.side)

    def samples(self, indices: Sequence[int]) -> list[Sample | Example | Row]:
        """Samples of tasks, composed anew, and of sources, which are read on: their indices must come in ascending order."""
        tasks = [self.task_of(index) for index in indices]
        chosen = [(index, task) for index, task in zip(indices, tasks, strict=True) if task in self._sources]
        assert self.mixture is not None or not chosen
        read = iter(self.mixture.take(chosen) if self.mixture is not None and chosen else ())
        return [next(read) if task in self._sources else self.sample(index) for index, task in zip(indices, tasks, strict=True)]

    def state(self) -> dict[str, list[int]]:
        """Where the sources stand (`Mixture.state`); empty without sources."""
        return {} if self.mixture is None else self.mixture.state()


class Feed(Generic[Prepared]):
    """Prepares the batches of steps `start` … `stop - 1` in a thread, at most `ahead` of them in advance."""

    def __init__(self, prepare: Callable[[Sequence[int]], Prepared], *, start: int, stop: int, batch_size: int, ahead: int) -> None:
        self._prepare = prepare
        self._steps = range(start, stop)
        self._batch_size = batch_size
        self._ready: queue.Queue[Prepared | BaseException | None] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Prepared]:
        """Yields one prepared batch per step; an error of the thread is raised here."""
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stops the thread."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def _work(self) -> None:
        torch.set_num_threads(1)  # holds for this thread only; its small operations would take the training's cores
        try:
            for step in self._steps:
                item = self._prepare(range(step * self._batch_size, (step + 1) * self._batch_size))
                if not self._put(item):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Prepared | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


class WorkerFeed(Generic[Prepared]):
    """Prepares the same batches as `Feed` in `workers` processes, each a whole step, at least `ahead` of them in advance.

    For devices that are faster than one core composes samples. The processes are forked, so `prepare` may be anything, but it must
    touch no accelerator and keep nothing between two calls.
    """

    def __init__(
        self, prepare: Callable[[Sequence[int]], Prepared], *, start: int, stop: int, batch_size: int, ahead: int, workers: int
    ) -> None:
        self._loader = DataLoader(
            _Steps(prepare, batch_size),
            sampler=range(start, stop),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=max(1, -(-ahead // workers)),
            multiprocessing_context="fork",
            worker_init_fn=_left_to_the_parent,
        )
        self._batches = iter(self._loader)

    def __iter__(self) -> Iterator[Prepared]:
        """Yields one prepared batch per step; an error of a process is raised here."""
        for item in self._batches:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Ends the processes."""
        del self._batches


class _Steps(Dataset[Prepared | BaseException]):
    """Batch of each step, or the error that came instead of it."""

    def __init__(self, prepare: Callable[[Sequence[int]], Prepared], batch_size: int) -> None:
        self._prepare = prepare
        self._batch_size = batch_size

    def __getitem__(self, step: int) -> Prepared | BaseException:
        try:
            return self._prepare(range(step * self._batch_size, (step + 1) * self._batch_size))
        except Exception as error:
            return error


def _left_to_the_parent(worker: int) -> None:
    # An interrupt from the keyboard reaches every process; the run ends its processes after the step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
