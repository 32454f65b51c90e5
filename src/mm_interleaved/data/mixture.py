"""The mixture: several sources as one endless, seeded stream of examples that can be taken up again at the exact sample.

Sample i belongs to lane i mod `lanes`; a lane reads its own shards (of a source with fewer shards than lanes: its own records). A rank
takes whole lanes, and the threads of a rank share its lanes, so that the samples of a run do not depend on how many ranks and threads
read them, and no rank reads what another one uses.

Inside a lane: which source comes next is drawn by weight from (seed, sample); each source runs through its shards in an order drawn
anew in every epoch, and through each shard in windows of records that are shuffled. A source that is finished begins its next epoch.
The state of a lane is four numbers per source; to take it up again one shard is read up to the window, without opening a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from mm_interleaved.data.seeds import key, random_of
from mm_interleaved.data.sources import Example, Record, Skip, Skips, Source
from mm_interleaved.errors import CheckpointError, ConfigError, DataError

Taken = TypeVar("Taken", covariant=True)
"""What a lane gives: an example, or a row."""

Fit = Callable[[Example], Example]
"""Makes an example fit the model, or raises `Skip`."""


@dataclass(slots=True)
class Position:
    """Where a lane stands in one source."""

    epoch: int = 0
    shard: int = 0
    """Place in the epoch's order of the lane's shards."""
    record: int = 0
    """Records of the shard before the current window."""
    taken: int = 0
    """Entries of the shuffled window that are used up."""


@dataclass(slots=True)
class Stream:
    """One lane of one source."""

    source: Source
    shards: tuple[str, ...]
    seed: int
    lane: int
    lanes: int
    window: int
    position: Position = field(default_factory=Position)
    _order: list[str] = field(default_factory=list)
    _ordered_epoch: int = -1
    _reader: Iterator[Record] | None = None
    _entries: list[Record] = field(default_factory=list)
    _loaded: bool = False

    def state(self) -> list[int]:
        """Where it stands, as numbers."""
        position = self.position
        return [position.epoch, position.shard, position.record, position.taken]

    def load(self, state: Sequence[int]) -> None:
        """Continues from a state."""
        self.position = Position(*state)
        self._reader, self._entries, self._loaded = None, [], False

    def take(self, fit: Fit, skips: Skips) -> Example:
        """The next example that can be used.

        Raises:
            DataError: a whole epoch gave none.
        """
        fruitless = 0
        while True:
            position = self.position
            if not self._loaded:
                self._load(skips)
            if position.taken == len(self._entries):
                if self._entries:
                    position.record, position.taken, self._loaded = position.record + len(self._entries), 0, False
                    continue
                self._reader = None
                position.shard, position.record, position.taken, self._loaded = position.shard + 1, 0, 0, False
                if position.shard == len(self._order):
                    position.epoch, position.shard = position.epoch + 1, 0
                    fruitless += 1
                    if fruitless == 2:
                        reasons = ", ".join(f"{count} × {reason}" for reason, count in skips.by_reason(self.source.name).items())
                        raise DataError(
                            f"source '{self.source.name}': a whole pass over its files gave no usable sample ({reasons or 'no records'}); "
                            "see 'mmi data validate'."
                        )
                continue
            record = self._entries[position.taken]
            position.taken += 1
            try:
                if record.problem is not None:
                    raise record.problem
                random = random_of(self.seed, self.source.name, position.epoch, record.place)
                return fit(self.source.example(record, random, lambda skip, place=record.place: skips.add(self.source.name, place, skip)))
            except Skip as skip:
                skips.add(self.source.name, record.place, skip)

    def _load(self, skips: Skips) -> None:
        # Reads the window at the position; an empty one means that the shard is finished.
        position = self.position
        if self._ordered_epoch != position.epoch:
            own = self.shards[self.lane :: self.lanes] if len(self.shards) >= self.lanes else self.shards
            shuffled = random_of(self.seed, self.source.name, position.epoch, "shards").permutation(len(own))
            self._order, self._ordered_epoch = [own[place] for place in shuffled], position.epoch
        shard = self._order[position.shard]
        if self._reader is None:
            # Taken up again in the middle: what stands before was counted when it was read first.
            self._reader = self._records(shard, skips)
            for _ in islice(self._reader, position.record):
                pass
        entries = list(islice(self._reader, self.window))
        order = random_of(self.seed, self.source.name, position.epoch, shard, position.record, "window").permutation(len(entries))
        self._entries, self._loaded = [entries[place] for place in order], True

    def _records(self, shard: str, skips: Skips) -> Iterator[Record]:
        try:
            for number, record in enumerate(self.source.records(shard)):
                if len(self.shards) >= self.lanes or number % self.lanes == self.lane:
                    yield record
        except Skip as skip:
            skips.add(self.source.name, shard, skip)


@runtime_checkable
class Reader(Protocol[Taken]):
    """What gives the samples of one lane of one source: a `Stream`, or rows packed from it."""

    def take(self, fit: Fit, skips: Skips) -> Taken: ...

    def state(self) -> list[int]: ...

    def load(self, state: Sequence[int]) -> None: ...


class Mixture(Generic[Taken]):
    """Samples of several sources, as many of each as are asked for."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        seed: int,
        lanes: int = 1,
        window: int = 256,
        threads: int = 1,
        skips: Skips | None = None,
        fit: Fit = lambda example: example,
        reader: Callable[[Stream], Reader[Taken]] = lambda stream: stream,  # type: ignore[assignment, return-value]
    ) -> None:
        """
        Args:
            lanes: independent streams; a multiple of the number of ranks.
            window: records that are shuffled together; 1 keeps the files' order.
            threads: lanes that are read at once.
            skips: counts what is not used.
            fit: makes examples fit the model.
            reader: what makes samples of a lane's examples; by default each example is one.

        Raises:
            ConfigError: two sources of one name.
            DataError: a source names no files.
        """
        names = [source.name for source in sources]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"data.sources: two sources are called '{name}'; their samples could not be told apart. Rename one.")
        self.sources = {source.name: source for source in sources}
        self.skips = Skips() if skips is None else skips
        self.fit = fit
        self.lanes = lanes
        self._seed, self._window = seed, window
        self._shards = {source.name: source.shards() for source in sources}
        self._reader = reader
        self._streams: dict[tuple[int, str], Reader[Taken]] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="source") if threads > 1 else None

    def take(self, chosen: Sequence[tuple[int, str]]) -> list[Taken]:
        """The next sample of each (sample index, source name); a lane's indices must come in ascending order.

        Raises:
            DataError: a source has nothing that can be used.
        """
        by_lane: dict[int, list[int]] = {}
        for place, (index, _) in enumerate(chosen):
            by_lane.setdefault(index % self.lanes, []).append(place)

        def read(lane: int) -> list[Taken]:
            return [self._stream(lane, chosen[place][1]).take(self.fit, self.skips) for place in by_lane[lane]]

        read_lanes = map(read, by_lane) if self._pool is None else self._pool.map(read, by_lane)
        taken: dict[int, Taken] = {}
        for places, found in zip(by_lane.values(), read_lanes, strict=True):
            taken.update(zip(places, found, strict=True))
        return [taken[place] for place in range(len(chosen))]

    def state(self) -> dict[str, list[int]]:
        """Where every lane of every source stands, as JSON: "lane/source" → epoch, shard, record, taken."""
        return {f"{lane}/{name}": stream.state() for (lane, name), stream in sorted(self._streams.items())}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken.

        Raises:
            CheckpointError: it is of other sources.
        """
        self._streams.clear()
        for entry, numbers in state.items():
            lane, _, name = entry.partition("/")
            if name not in self.sources or not int(lane) < self.lanes:
                raise CheckpointError(f"the saved position '{entry}' belongs to no source of this run; choose another output folder.")
            self._stream(int(lane), name).load([int(number) for number in numbers])

    def _stream(self, lane: int, name: str) -> Reader[Taken]:
        if (lane, name) not in self._streams:
            stream = Stream(self.sources[name], self._shards[name], key(self._seed, "mixture"), lane, self.lanes, self._window)
            self._streams[lane, name] = self._reader(stream)
        return self._streams[lane, name]
