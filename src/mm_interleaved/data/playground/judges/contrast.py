"""The judge of everything that can be drawn again: is a picture nearer to the true one than to every rival?

A rival differs from the truth in one aspect alone: another thing, another style, another step, another place. Ground, positions and all
else are the true ones, so the judge asks for that aspect only; chance is one in (rivals + 1). It has no weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from mm_interleaved.data.playground.canvas import Picture, paint
from mm_interleaved.data.playground.extras import extras_of
from mm_interleaved.data.playground.filters import SETTINGS, apply_filter
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.stuff import PLACES, label_picture
from mm_interleaved.data.playground.tasks import building, silhouettes
from mm_interleaved.data.playground.tasks.layouts import layout_classes
from mm_interleaved.errors import ConfigError

COMPARED_SIDE = 64
"""Side in pixels at which pictures are compared: that of the pictures the smallest model makes. At 32 faces are lost."""
DRAWN_SIDE = 224
"""Side at which the corpus composes; candidates are drawn at the side of the true pictures and then brought to the compared one."""
Scene = dict[str, Any]


def redraw(scene: Scene, pack: Pack, side: int) -> np.ndarray:
    """The picture of one entry of a sample's `truth["scenes"]`, H W 3 uint8.

    Raises:
        ConfigError: the entry is of another kind.
    """
    if "silhouette" in scene:
        return silhouettes.draw(silhouettes.Silhouette(**scene["silhouette"]), pack, side)
    if "blocks" in scene:
        return building.draw_blocks(scene["blocks"], side)
    if "blobs" in scene:
        return label_picture(layout_classes(scene, pack, side))
    if "pieces" not in scene:
        raise ConfigError(f"no picture can be drawn from a scene with {', '.join(scene)}.")
    drawn = paint(Picture.from_json({name: value for name, value in scene.items() if name != "filter"}), pack, side)
    return drawn if scene.get("filter") is None else apply_filter(drawn, (scene["filter"][0], scene["filter"][1]))


def nearest(picture: np.ndarray, scenes: Sequence[Scene], pack: Pack, side: int = DRAWN_SIDE) -> int:
    """Which of some scenes a picture shows: the index of the one that it differs least from.

    Args:
        side: at which the true pictures were composed. A candidate of another side has its pieces elsewhere by fractions of a pixel,
            which at 32 pixels is more than a smile: true feelings were then misread.
    """
    seen = _shrunk(picture).astype(np.float32)
    return int(np.argmin([((seen - _candidate(json.dumps(scene), pack, side)) ** 2).mean() for scene in scenes]))


def judge(picture: np.ndarray, truth: Scene, others: dict[str, list[Scene]], pack: Pack, side: int = DRAWN_SIDE) -> dict[str, bool]:
    """For every aspect: does the picture show the true scene rather than any rival? `side` as in `nearest`."""
    return {aspect: nearest(picture, [truth, *scenes], pack, side) == 0 for aspect, scenes in others.items()}


def rivals(scene: Scene, pack: Pack, things: Sequence[str], styles: Sequence[str]) -> dict[str, list[Scene]]:
    """The rivals of a scene by aspect.

    Args:
        things: ids that may stand in for a thing.
        styles: ids of styles that may stand in for a style.
    """
    if "silhouette" in scene:
        mine = silhouettes.Silhouette(**scene["silhouette"])
        drawn = silhouettes.rivals(mine, tuple(name for name in silhouettes.OBJECTS if name in things or name not in _ids(pack)))
        return {aspect: [{"silhouette": other.as_json()} for other in others] for aspect, others in drawn.items()}
    if "blocks" in scene:
        return _block_rivals(scene["blocks"])
    pieces = scene["pieces"]
    found: dict[str, list[Scene]] = {}
    for number, piece in enumerate(pieces):
        if piece["kind"] == "thing":
            others = [name for name in things if name != piece["name"]]
            found[f"thing {number}"] = [_with_piece(scene, number, name=name) for name in others]
        elif piece["kind"] == "figure":
            found |= _figure_rivals(scene, number, pack)
    kinds = {piece["kind"] for piece in pieces}
    if kinds <= {"thing"} and (pieces or scene["landscape"]):
        found["style"] = [_in_style(scene, style) for style in styles if style != _style_of(scene)]
    if scene["landscape"] is not None:
        land = scene["landscape"]
        places = [place.id for place in PLACES if place.id != land["place"]]
        found["place"] = [{**scene, "landscape": {**land, "place": place}} for place in places]
    if scene.get("filter") is not None:
        every = [[name, setting] for name, settings in SETTINGS.items() for setting in settings]
        found["filter"] = [{**scene, "filter": other} for other in (None, *every) if other != list(scene["filter"])]
    if pieces:
        found["without"] = [{**scene, "pieces": pieces[:-1]}]
    return found


def _ids(pack: Pack) -> set[str]:
    return {thing.id for thing in pack.things}


def _block_rivals(state: dict[str, Any]) -> dict[str, list[Scene]]:
    goal, size = state["goal"], state["size"]
    sizes = [other for other in building.GOALS[goal][1] if other != size]
    steps = len(building.steps_of(goal, size, state["material"]))
    return {
        "step": [{"blocks": {**state, "done": other}} for other in range(steps + 1) if other != state["done"]],
        "material": [{"blocks": {**state, "material": other}} for other in building.MATERIALS if other != state["material"]],
        "size": [{"blocks": {**state, "size": other}} for other in sizes],
    }


def _figure_rivals(scene: Scene, number: int, pack: Pack) -> dict[str, list[Scene]]:
    """Another figure in the same pose, and the same figure with another feeling."""
    figures = extras_of(pack.folder).figures
    piece = scene["pieces"][number]
    pose, feeling = piece["look"].split("/")
    return {
        f"figure {number}": [_with_piece(scene, number, name=name) for name in figures if name != piece["name"]],
        f"feeling {number}": [
            _with_piece(scene, number, look=f"{pose}/{other}") for other in figures[piece["name"]].emotions if other != feeling
        ],
    }


def _with_piece(scene: Scene, number: int, **changed: str) -> Scene:
    pieces = list(scene["pieces"])
    pieces[number] = {**pieces[number], **changed}
    return {**scene, "pieces": pieces}


def _style_of(scene: Scene) -> str:
    return scene["pieces"][0]["look"] if scene["pieces"] else scene["landscape"]["style"]


def _in_style(scene: Scene, style: str) -> Scene:
    land = scene["landscape"]
    return {
        **scene,
        "pieces": [{**piece, "look": style} for piece in scene["pieces"]],
        "landscape": None if land is None else {**land, "style": style},
    }


@lru_cache(maxsize=4096)
def _candidate(scene: str, pack: Pack, side: int) -> np.ndarray:
    """A scene as JSON, drawn and shrunk; several pictures are often judged against the same rivals. 12 kB each."""
    return _shrunk(redraw(json.loads(scene), pack, side))


def _shrunk(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((COMPARED_SIDE, COMPARED_SIDE), Image.Resampling.BOX))
