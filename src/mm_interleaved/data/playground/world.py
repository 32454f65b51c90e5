"""What may be shown when: which things have names, which are held out, how hard the scenes are.

Held out are *combinations* of a named thing and a style, chosen by a salted hash of their names, so the choice never depends on
a seed, on the order of the list or on how many things there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import GROUNDS, Item, Scene
from mm_interleaved.errors import ConfigError

MINIMUM_SEEN_STYLES = 3
"""Every named thing is seen in at least this many styles, however many pairs are held out."""

Pair = tuple[int, int]
"""(thing, style) as indices in the pack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """The part of a recipe that says what is shown and how hard it is."""

    things: int = 120
    """How many things, from the head of the pack's list, have names in this world."""
    held_out_things: float = 0.0
    """Share of those that are never shown nor named in training. Things after the first `things` never are anyway."""
    held_out_pairs: float = 0.08
    """Share of (thing, style) pairs that are never shown in training; the test split shows only these."""
    split: Literal["train", "test"] = "train"
    """Which side of the held-out line targets come from."""
    chinese: float = 0.2
    """Share of samples whose text is Chinese."""
    grounds: int = 8
    """How many ground colours, from the head of `GROUNDS`; 1 is white only."""
    max_items: int = 3
    """Most different things in one picture. Questions that need more are still asked with what they need (at most 4)."""
    jitter: float = 1.0
    """Scale of the random shifts and size changes: 0 puts everything exactly in its place, 1 is the full variety."""
    centred_only: bool = False
    """Captions, drawings and one-thing questions show one item, centred and large. The easy case."""
    plain_white: bool = False
    """White ground everywhere; the question for the ground colour is not asked. The easy case."""
    styles: int = 5
    """How many styles, from the head of the pack's list."""
    often: int = 0
    """In half of the draws only so many things come, from the head of the list; 0 draws all alike. For packs with more things than a small
    model can name."""

    def __post_init__(self) -> None:
        for name in ("held_out_things", "held_out_pairs", "chinese"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"world.{name} is {getattr(self, name)}; it is a share between 0 and 1.")
        if self.split not in ("train", "test"):
            raise ConfigError(f"world.split is {self.split!r}; it is 'train' or 'test'.")
        if not 1 <= self.grounds <= len(GROUNDS):
            raise ConfigError(f"world.grounds is {self.grounds}; there are 1 to {len(GROUNDS)}.")
        if self.things < 2 or self.max_items < 1 or self.jitter < 0 or self.styles < 2:
            raise ConfigError("a world needs things >= 2, styles >= 2, max_items >= 1 and jitter >= 0.")
        if self.often and not 2 <= self.often <= self.things:
            raise ConfigError(f"world.often is {self.often}; it is 0, or between 2 and world.things ({self.things}).")


class World:
    """A pack seen through a `WorldConfig`: the tables that the tasks draw from."""

    def __init__(self, pack: Pack, config: WorldConfig) -> None:
        """Computes the tables.

        Raises:
            ConfigError: the config asks for more than the pack has, or holds nothing (or everything) out.
        """
        if config.things > len(pack.things) or config.styles > len(pack.styles):
            raise ConfigError(
                f"the world asks for {config.things} things in {config.styles} styles; "
                f"the pack has {len(pack.things)} in {len(pack.styles)}."
            )
        self._whole = self  # of a copy: the world that it came from
        self.pack = pack
        self.config = config
        self.numbers: dict[str, int] = {thing.id: number for number, thing in enumerate(pack.things)}
        """Id of a thing -> its index in the pack."""
        named = range(config.things)
        hidden = {thing for thing in named if fraction("thing", pack.things[thing].id) < config.held_out_things}
        self.train_things: tuple[int, ...] = tuple(thing for thing in named if thing not in hidden)
        """Things with names, in list order."""
        self.unseen_things: tuple[int, ...] = (*sorted(hidden), *range(config.things, len(pack.things)))
        """Things never named: material for references given by picture."""
        self.test_pairs: tuple[Pair, ...] = tuple(pair for thing in self.train_things for pair in self._held_out(thing))
        """Combinations of known things and known styles that training never shows."""
        held_out = set(self.test_pairs)
        every = [(thing, style) for thing in self.train_things for style in range(config.styles)]
        self.train_pairs: tuple[Pair, ...] = tuple(pair for pair in every if pair not in held_out)
        self.pairs: tuple[Pair, ...] = self.train_pairs if config.split == "train" else self.test_pairs
        """The pairs that this split shows as its subjects and targets."""
        if len({thing for thing, _ in self.pairs}) < 2:
            raise ConfigError(
                f"the {config.split} split of this world has {len(self.pairs)} pairs of fewer than two things; "
                f"raise world.things or change world.held_out_pairs ({config.held_out_pairs})."
            )
        self.styles_of: dict[int, tuple[int, ...]] = _group(self.pairs, 0)
        """Thing -> the styles in which this split shows it."""
        self.things_of: dict[int, tuple[int, ...]] = _group(self.pairs, 1)
        """Style -> the things that this split shows in it."""
        self.seen_styles_of: dict[int, tuple[int, ...]] = _group(self.train_pairs, 0)
        """Thing -> the styles in which training shows it, whatever the split."""

    def seen_through(self, pack: Pack, *, jitter: float | None = None) -> World:
        """The same world with its drawings from another pack of the same things and styles.

        It is equal to this one, so tasks find the tables that they keep of a world, none of which holds a drawing or a place.

        Args:
            jitter: at least this much of it; None leaves it.
        """
        other = copy(self)
        other.pack = pack
        if jitter is not None:
            other.config = replace(self.config, jitter=max(self.config.jitter, jitter))
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, World) and self._whole is other._whole

    def __hash__(self) -> int:
        return id(self._whole)

    @property
    def grounds(self) -> int:
        """Number of ground colours in use."""
        return 1 if self.config.plain_white else self.config.grounds

    def draw_pair(self, random: np.random.Generator, *, without: tuple[int, ...] = ()) -> Pair:
        """A thing, all equally likely (or as `often` says), then one of its styles in this split.

        Args:
            without: things that must not come.
        """
        things = [thing for thing in self.styles_of if thing not in without]
        if self.config.often and random.random() < 0.5:
            things = [thing for thing in things if thing < self.config.often] or things
        thing = choose(random, things)
        return thing, choose(random, self.styles_of[thing])

    def draw_ground(self, random: np.random.Generator) -> int:
        """A ground, all equally likely."""
        return int(random.integers(self.grounds))

    def place(self, pair: Pair, centre_x: float, centre_y: float, size: float, random: np.random.Generator) -> Item:
        """An item near a place: shifted by up to 2.5 % of the side and 8 % in size, times `jitter`."""
        shift_x, shift_y, grow = random.uniform(-1, 1, 3) * self.config.jitter
        return Item(
            thing=pair[0],
            style=pair[1],
            centre_x=round(centre_x + 0.025 * shift_x, 4),
            centre_y=round(centre_y + 0.025 * shift_y, 4),
            size=round(size * (1 + 0.08 * grow), 4),
        )

    def centred(self, pair: Pair, ground: int, random: np.random.Generator) -> Scene:
        """One large drawing in the middle: the scene of every drawing task."""
        return Scene(ground=ground, items=(self.place(pair, 0.5, 0.5, 0.8, random),))

    def _held_out(self, thing: int) -> list[Pair]:
        name = self.pack.things[thing].id
        # Ranked over all styles of the pack, so a world with fewer styles holds out a subset of the same pairs.
        scored = sorted((fraction("pair", name, style.id), index) for index, style in enumerate(self.pack.styles))
        most = max(0, self.config.styles - MINIMUM_SEEN_STYLES)
        below = [index for score, index in scored if score < self.config.held_out_pairs and index < self.config.styles]
        return [(thing, style) for style in sorted(below[:most])]


Member = TypeVar("Member")


def choose(random: np.random.Generator, options: Sequence[Member]) -> Member:
    """One member of a sequence, all equally likely (numpy's own `choice` would turn tuples into arrays).

    Raises:
        ConfigError: there is none, which only a very small world can cause.
    """
    if not options:
        raise ConfigError("this world is too small for the task: nothing is left to choose from; raise world.things.")
    return options[int(random.integers(len(options)))]


def fraction(*names: str) -> float:
    """A number in [0, 1) that depends on the names only: what is held out is decided by it.

    The salt is fixed: it names one division of the corpus (2: 8 % of the pairs at 120 things, 8 to 11 of them in each style).
    """
    digest = hashlib.blake2b("/".join(("mm-interleaved held-out 2", *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _group(pairs: tuple[Pair, ...], key: int) -> dict[int, tuple[int, ...]]:
    grouped: dict[int, list[int]] = {}
    for pair in pairs:
        grouped.setdefault(pair[key], []).append(pair[1 - key])
    return {name: tuple(members) for name, members in grouped.items()}
