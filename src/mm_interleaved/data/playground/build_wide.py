"""The wide pack: beside things of ours, every drawing that all five sets have, for parts that learn to see or to paint.

A few hundred drawings teach a way of drawing badly: a plain network that learnt 552 told the styles of half of the pairs that it had not
seen, one that learnt 3,340 of 75 % (docs/log.md). The added things have the names that Unicode gives them and stand in no
sentence of ours. It is not in the box: `mmi data build PACKAGES --part wide -o packs/wide`, then `data.pack: packs/wide` in a recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mm_interleaved.data.playground.build import (
    SOURCES,
    STYLE_WORDS,
    Package,
    Painter,
    read_things,
    style_painters,
    write_pack,
)
from mm_interleaved.data.playground.pack import Thing
from mm_interleaved.errors import ConfigError, DataError

SHOWN = 220
"""Things of ours, from the head of the list, that are in it. The last ones no recipe of nano shows: they are given by picture in tests."""
LITTLE_WORDS = frozenset({"a", "and", "in", "of", "on", "the", "with"})
PEOPLE = re.compile(
    "arm|baby|body|boy|bust|child|claus|detective|ear|eyes?|face|family|finger|fist|foot|gesture|girl|guard|hair|hands?|leg|lips?|m[ae]n|mouth"
    "|nose|officer|palm|people|person|prince|princess|selfie|skier|snowboarder|thumbs?|troll|wedding|wom[ae]n"
)
"""Words of names and keywords of people and their parts, none of whom are in our corpus."""
LETTERED = frozenset({"button", "input", "thirty"})
"""Words of names of drawings that differ by letters or by the hands of a clock."""
CATEGORY = "more"


def build_wide_pack(packages: Path, destination: Path | None = None) -> Path:
    """Builds a pack of our first 220 things, in their order, and after them all others that every set has drawn.

    Left out: people, signs with letters, and whatever shares a word of its name with a thing of ours, since another drawing of a
    dog would show what a held-out dog is like.

    Args:
        packages: folder with the npm packages of `build.SOURCES`; comicgen is not needed.
        destination: the pack's folder.

    Returns:
        The pack's folder.

    Raises:
        ConfigError: no destination is named; the pack in the box would be overwritten.
        DataError: a package is missing, of an untested version, or lacks a drawing of ours.
        StorageError: the pack cannot be written.
    """
    if destination is None:
        raise ConfigError("part 'wide' does not go into the box; name a folder for it, such as --output packs/wide.")
    opened = {key: Package(SOURCES[key], Path(packages)) for key in (*STYLE_WORDS, "names")}
    painters = style_painters(opened)
    ours = read_things()
    others = tuple(thing for thing in _others(ours, opened["names"]) if _drawn_by_all(thing, painters))
    return write_pack(Path(destination), ours[:SHOWN] + others, painters, opened)


def _others(ours: tuple[Thing, ...], names: Package) -> Iterator[Thing]:
    """All of Unicode's single characters with names in both languages, less what is to be left out."""
    english, chinese = (names.json(f"annotations/{tongue}/annotations.json")["annotations"]["annotations"] for tongue in ("en", "zh"))
    known = {thing.code_point for thing in ours}
    taken = frozenset().union(*(_words(f"{thing.id} {thing.name_en} {thing.plural_en}") for thing in ours)) - LITTLE_WORDS
    ids = {thing.id for thing in ours}
    for character, entry in english.items():
        name = entry["tts"][0].lower()
        words, code_point = _words(name), f"{ord(character):x}" if len(character) == 1 else ""
        keywords = frozenset().union(*(_words(keyword) for keyword in entry["default"]))
        if not code_point or code_point in known or character not in chinese:
            continue
        if words & (taken | LETTERED) or any(PEOPLE.fullmatch(word) for word in words | keywords):
            continue
        thing_id = "_".join(re.findall(r"[a-z0-9]+", name))
        if not thing_id or thing_id in ids:
            continue
        ids.add(thing_id)
        yield Thing(
            id=thing_id,
            code_point=code_point,
            article_en="an" if name[0] in "aeiou" else "a",
            name_en=name,
            plural_en=f"{name}s",
            name_zh=chinese[character]["tts"][0],
            measure_zh="个",
            category=CATEGORY,
        )


def _drawn_by_all(thing: Thing, painters: dict[str, Painter]) -> bool:
    try:
        return all(paint(thing).getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox() for paint in painters.values())
    except DataError:
        return False


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", text.lower()))
