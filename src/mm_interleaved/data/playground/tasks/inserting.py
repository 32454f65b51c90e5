"""New things in given surroundings: "among these plants sits a large wooden house"; and several given pictures into one scene.

Surroundings are places drawn in a style, fields of plants with the new thing standing among them, and real photographs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mm_interleaved.data.playground.canvas import Picture, Piece, paint, standing
from mm_interleaved.data.playground.extras import extras_of
from mm_interleaved.data.playground.stuff import PLACE_NAMES, PLACES
from mm_interleaved.data.playground.tasks import staging
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose, fraction

FIELD_PLANTS = ("sunflower", "tulip", "rose", "cactus", "palm_tree", "tree", "mushroom")
GUESTS_AMONG_PLANTS = (
    "wooden_house", "house", "castle", "tent", "tractor", "car", "bus", "dog", "cat", "horse", "cow", "elephant", "camel", "rabbit", "fox",
    "bear", "lion", "tiger", "panda", "giraffe", "zebra", "deer", "sheep", "pig", "bicycle", "school", "robot", "temple", "penguin",
)  # fmt: skip
"""What may stand in a field; the wooden house comes most often, as its row has it."""
SIDES = {"left": (0.24, "on the left", "左边"), "middle": (0.5, "in the middle", "中间"), "right": (0.76, "on the right", "右边")}
PHOTO_WORDS = {
    "beach": ("at this beach", "在这片海滩上"),
    "canyon": ("in this canyon", "在这个峡谷里"),
    "city": ("over this city", "在这座城市里"),
    "desert": ("in this desert", "在这片沙漠里"),
    "field": ("in these fields", "在这片田野上"),
    "forest": ("near this forest", "在这片树林边"),
    "mountain": ("in these mountains", "在这些山里"),
    "sea": ("by this sea", "在这片海边"),
    "snow": ("in this snow", "在这片雪地里"),
    "lake": ("by this lake", "在这个湖边"),
}
AMONG: dict[Language, tuple[str, ...]] = {
    "en": ("among these plants {verb} {one}, {side}.", "{side}, between these plants, {verb} {one}."),
    "zh": ("在这些植物中间，{side}有{one}。", "{side}，这些植物之间出现了{one}。"),
}
HERE: dict[Language, tuple[str, ...]] = {
    "en": ("{here}, {side}, there is now {one}.", "now {one} appears {here}, {side}."),
    "zh": ("现在{here}，{side}有{one}。", "{here}，{side}出现了{one}。"),
}
JOIN: dict[Language, tuple[tuple[str, str, str, str], ...]] = {
    "en": (
        ("take this:", "and this:", "and put them both here:", "the first {first}, the second {second}."),
        ("the thing in", "and the thing in", "meet in this place:", "the first is {first}, the second {second}."),
    ),
    "zh": (
        ("把这个：", "和这个：", "一起放到这里：", "第一个在{first}，第二个在{second}。"),
        ("这张图里的东西", "和这张图里的东西", "来到这个地方：", "第一个在{first}，第二个在{second}。"),
    ),
}
PHOTO_HELD_OUT = 0.15


def surroundings(world: World, random: np.random.Generator, side: int) -> Sample:
    """A picture of surroundings, a new thing in words, then the same surroundings with it.

    The thing's pair belongs to the world's split; photographs are split by a salted hash of their file.
    """
    language = draw_language(world, random)
    kind = choose(random, ("field", "place", "photo"))
    where = choose(random, list(SIDES))
    draw = {"field": _field, "place": _place, "photo": _photo}[kind]
    before, after, name, text = draw(world, random, where, language)
    truth = {
        "language": language,
        "surroundings": kind,
        "thing": name,
        "side": where,
        "scenes": [before.as_json(), after.as_json()],
    }
    return Sample("surroundings", (paint(before, world.pack, side), text, paint(after, world.pack, side)), 2, truth)


def joined_scene(world: World, random: np.random.Generator, side: int) -> Sample:
    """Two things and a place in three pictures, then one picture with all of them. In the test split the things were never shown."""
    language = draw_language(world, random)
    style = int(random.integers(world.config.styles))
    unseen = world.config.split == "test" and len(world.unseen_things) > 1
    options = list(world.unseen_things) if unseen else [thing for thing, seen in world.seen_styles_of.items() if style in seen]
    first = choose(random, options)
    second = choose(random, [other for other in options if other != first])
    land = staging.draw_land(world, random, style, choose(random, PLACES).id)
    alone = [staging.lone(world, random, thing, style, world.draw_ground(random)) for thing in (first, second)]
    empty = Picture(landscape=land, pieces=())
    names = [world.pack.things[thing].id for thing in (first, second)]
    first_left = bool(random.integers(2))
    order = names if first_left else names[::-1]
    wanted = replace(empty, pieces=staging.on_the_floor(world, random, order, style, land.place, sizes=(0.36, 0.36)))
    words = ("left", "right") if first_left else ("right", "left")
    number = 2 if language == "zh" else 1
    texts = choose(random, JOIN[language])
    closing = texts[3].format(first=SIDES[words[0]][number], second=SIDES[words[1]][number])
    given = (*alone, empty)
    parts: list[Segment] = []
    for text, picture in zip(texts[:3], given, strict=True):
        parts += [text, paint(picture, world.pack, side)]
    parts.append(closing)
    truth = {
        "language": language,
        "things": names,
        "places": list(words),
        "style": staging.style_id(world, style),
        "unseen": unseen,
        "scenes": [picture.as_json() for picture in (*given, wanted)],
    }
    return Sample("joined_scene", (*parts, paint(wanted, world.pack, side)), len(parts), truth)


Drawn = tuple[Picture, Picture, str, str]
"""The surroundings, the same with the new thing, its name, the words."""


def _field(world: World, random: np.random.Generator, where: str, language: Language) -> Drawn:
    # Not in ink: a field of black lines hides what stands in it.
    plants = [name for name in FIELD_PLANTS if staging.is_known(world, name)]
    guests = [name for name in GUESTS_AMONG_PLANTS if staging.is_known(world, name)]
    pairs = staging.of_this_split(world, "surroundings", [(plant, guest) for plant in plants for guest in guests])
    plant, guest = choose(random, pairs)
    if (plant, "wooden_house") in pairs and random.random() < 0.2:
        guest = "wooden_house"
    style = choose(random, [style for style in staging.common_styles(world, (plant, guest)) if style in staging.coloured_styles(world)])
    land = staging.draw_land(world, random, style, "meadow")
    rows = [_row(world, random, plant, style, number) for number in range(4)]
    guest_piece = _stand(world, guest, style, (SIDES[where][0], 0.84), 0.46)
    before = Picture(landscape=land, pieces=tuple(piece for row in rows for piece in row))
    after = Picture(landscape=land, pieces=(*(piece for row in rows[:3] for piece in row), guest_piece, *rows[3]))
    return before, after, guest, _fill(world, AMONG, random, guest, where, language)


def _row(world: World, random: np.random.Generator, plant: str, style: int, number: int) -> list[Piece]:
    """One row of plants, larger and lower the nearer it is."""
    size, foot, count = (0.13, 0.17, 0.21, 0.26)[number], (0.6, 0.7, 0.82, 0.99)[number], (8, 7, 5, 5)[number]
    pieces = []
    for place in range(count):
        shift_x, shift_y = random.uniform(-1, 1, 2) * world.config.jitter
        x = (place + 0.25 + 0.5 * (number % 2)) / count + 0.02 * float(shift_x)
        pieces.append(_stand(world, plant, style, (x, foot + 0.012 * float(shift_y)), size))
    return pieces


def _place(world: World, random: np.random.Generator, where: str, language: Language) -> Drawn:
    thing, style = world.draw_pair(random)
    land = staging.draw_land(world, random, style, choose(random, PLACES).id)
    return _with_guest(world, random, Picture(landscape=land, pieces=()), world.pack.things[thing].id, style, where, language)


def _photo(world: World, random: np.random.Generator, where: str, language: Language) -> Drawn:
    photos = extras_of(world.pack.folder).photos
    wanted = world.config.split == "test"
    photo = choose(random, [name for name in photos if (fraction("photo", name) < PHOTO_HELD_OUT) == wanted])
    thing, style = world.draw_pair(random)
    return _with_guest(world, random, Picture(photo=photo, pieces=()), world.pack.things[thing].id, style, where, language)


def _with_guest(
    world: World, random: np.random.Generator, before: Picture, guest: str, style: int, where: str, language: Language
) -> Drawn:
    low, high = (0.8, 0.94) if before.landscape is None else PLACE_NAMES[before.landscape.place].stand
    foot = (SIDES[where][0], (low + high) / 2 + (high - low) / 4 * float(random.uniform(-1, 1)) * world.config.jitter)
    after = replace(before, pieces=(_stand(world, guest, style, foot, 0.42),))
    number = language == "zh"
    if before.landscape is not None:
        here = staging.place_words(before.landscape.place, language)
    else:
        assert before.photo is not None
        here = PHOTO_WORDS[extras_of(world.pack.folder).photos[before.photo]][number]
    return before, after, guest, _fill(world, HERE, random, guest, where, language, here=here, style=style)


def _stand(world: World, name: str, style: int, foot: tuple[float, float], size: float) -> Piece:
    return standing(staging.piece_kind(world, name), name, staging.style_id(world, style), foot, size, world.pack)


def _fill(
    world: World,
    templates: dict[Language, tuple[str, ...]],
    random: np.random.Generator,
    guest: str,
    where: str,
    language: Language,
    *,
    here: str = "",
    style: int | None = None,
) -> str:
    """The wish in words; over places and photographs the style is named, in a field it follows from the plants."""
    word = staging.one(world, guest, language)
    if guest == "wooden_house":
        word = "一座很大的木屋" if language == "zh" else "a large wooden house"
    verb = "sits" if guest in ("wooden_house", "house", "castle", "school", "temple", "tent") else "stands"
    text = choose(random, templates[language]).format(one=word, side=SIDES[where][2 if language == "zh" else 1], here=here, verb=verb)
    if style is None:
        return text
    suffix = staging.style_with_word(world, style, language)
    return f"{text}用{suffix}来画。" if language == "zh" else f"{text} it is drawn {suffix}."
