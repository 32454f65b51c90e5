"""The settings of many phones: each has its own menu tree, made from one table of lists and toggles.

A phone chooses a name for every entry, which entries it has and in which order, and which lists are opened up into the list above.
What follows from its number alone; a fifth of the numbers is held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from mm_interleaved.data.playground.world import fraction

TABLE = Path(__file__).parent / "menus.txt"
PHONES = 400
"""Phones there are."""
HELD_OUT = 0.2
"""Share of phones that training never shows."""
ROWS = 7
"""Most rows of a screen."""
FLATTENED = 0.25
"""Share of inner lists that a phone opens up into the list above."""
TITLE = {"en": "settings", "zh": "设置"}


@dataclass(slots=True)
class Entry:
    """A list, or a toggle."""

    key: str
    """Its first English name."""
    names: dict[str, tuple[str, ...]]
    toggle: bool
    children: list[Entry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Screen:
    """One list of a phone: title and rows, as entry keys."""

    title: str
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone's menu tree."""

    number: int
    screens: dict[str, Screen]
    """Key of a list → its screen; "settings" is the first one."""
    paths: tuple[tuple[str, ...], ...]
    """For every toggle: the keys of the rows to tap, from the first screen to the toggle itself."""

    def name(self, key: str, language: str) -> str:
        """What this phone calls an entry."""
        if key == TITLE["en"]:
            return TITLE[language]
        names = entries()[key].names[language]
        return names[int(fraction("phone name", str(self.number), key, language) * len(names))]

    @property
    def held_out(self) -> bool:
        """Whether training never shows it."""
        return fraction("phone", str(self.number)) < HELD_OUT


@lru_cache(maxsize=1)
def entries() -> dict[str, Entry]:
    """All entries by key."""
    found: dict[str, Entry] = {}

    def collect(entry: Entry) -> None:
        found[entry.key] = entry
        for child in entry.children:
            collect(child)

    for child in _root().children:
        collect(child)
    return found


@lru_cache(maxsize=1)
def phones(held_out: bool) -> tuple[int, ...]:
    """Numbers of the phones on one side of the held-out line."""
    return tuple(number for number in range(PHONES) if (fraction("phone", str(number)) < HELD_OUT) == held_out)


@lru_cache(maxsize=512)
def phone(number: int) -> Phone:
    """One phone."""
    screens: dict[str, Screen] = {}
    paths: list[tuple[str, ...]] = []

    def chance(purpose: str, key: str) -> float:
        return fraction(f"phone {purpose}", str(number), key)

    def open_list(entry: Entry, path: tuple[str, ...]) -> None:
        children: list[Entry] = []
        for child in entry.children:
            inner = path and not child.toggle and all(member.toggle for member in child.children)
            children += child.children if inner and chance("flat", child.key) < FLATTENED else [child]
        # The largest draws stay when there are too many; order is another draw, so that place tells nothing.
        kept = sorted(children, key=lambda child: chance("kept", child.key))[:ROWS]
        rows = sorted(kept, key=lambda child: chance("order", child.key))
        screens[entry.key] = Screen(entry.key, tuple(child.key for child in rows))
        for child in rows:
            if child.toggle:
                paths.append((*path, child.key))
            else:
                open_list(child, (*path, child.key))

    open_list(_root(), ())
    return Phone(number, screens, tuple(paths))


def characters() -> set[str]:
    """Every character that a screen in Chinese shows."""
    return set("".join(name for entry in entries().values() for name in entry.names["zh"]) + TITLE["zh"] + "0123456789:%")


def names() -> Iterator[str]:
    """Every name in both languages."""
    yield from TITLE.values()
    for entry in entries().values():
        yield from entry.names["en"]
        yield from entry.names["zh"]


@lru_cache(maxsize=1)
def _root() -> Entry:
    root = Entry(TITLE["en"], {"en": (TITLE["en"],), "zh": (TITLE["zh"],)}, toggle=False)
    levels = [root]
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        toggle = line.lstrip().startswith("* ")
        english, chinese = (tuple(name.strip() for name in part.split(" ; ")) for part in line.strip().removeprefix("* ").split(" | "))
        entry = Entry(english[0], {"en": english, "zh": chinese}, toggle)
        levels[depth].children.append(entry)
        levels[depth + 1 :] = [entry]
    return root
