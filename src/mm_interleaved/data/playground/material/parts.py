"""The parts of the corpus that are built from packages, by name: the pack of drawings and the collections beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mm_interleaved.data.playground.build import build_pack
from mm_interleaved.data.playground.build_wide import build_wide_pack
from mm_interleaved.data.playground.material import clips, lettering, signs
from mm_interleaved.data.playground.material.collection import load_collection
from mm_interleaved.data.playground.material.fonts import build_fonts
from mm_interleaved.data.playground.material.logos import build_logos
from mm_interleaved.data.playground.material.robot import build_robot

PARTS: dict[str, Callable[[Path, Path | None], Path]] = {
    "drawings": build_pack,
    "wide": build_wide_pack,
    "fonts": build_fonts,
    "logos": build_logos,
    "robot": build_robot,
}
"""Part -> function(packages, destination) that builds it; for collections the destination is their common folder."""

COLLECTIONS = {module.NAME: module.VERSION for module in (lettering, signs, clips)}
"""Collection -> version that this program reads."""


def check_collections(folder: Path | None = None) -> dict[str, int]:
    """Reads every member of every collection.

    Returns:
        Collection -> number of its members.

    Raises:
        DataError: one is missing, of another version, or was changed.
    """
    counts = {}
    for name, version in COLLECTIONS.items():
        collection = load_collection(name, version, folder)
        for member in collection.members:
            collection.read(member)
        counts[name] = len(collection.members)
    return counts
