"""Solved examples by nearest picture: a file with one vector per record says whose pictures are alike.

    neighbours.safetensors   `vectors` (N D, unit length); metadata: `places`, the records they belong to, as a JSON list

What the vectors are is the maker's choice (`training/neighbours.py`: the model's own picture tokens, or any CLIP). Records of the very
same picture have equal vectors; they are no examples for each other, since they would give the answer away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mm_interleaved.data.sources.example import Record, Skip
from mm_interleaved.document import Image
from mm_interleaved.errors import DataError, StorageError

SAME = 1 - 1e-6
"""Cosine from which two pictures are the same one."""

Embed = Callable[[Sequence[Image]], Float[np.ndarray, "I D"]]
"""Vectors of pictures."""


class Neighbours:
    """The vectors of a file."""

    def __init__(self, path: str) -> None:
        """
        Raises:
            DataError: the file is missing or of another form.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                self._vectors = file.get_tensor("vectors")
                places = json.loads(file.metadata()["places"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"nearest: {path} holds no vectors of pictures ({error}); make it with 'mmi data embed'.") from error
        self._rows = {place: row for row, place in enumerate(places)}

    def order(self, record: Record, pool: Sequence[Record]) -> list[int]:
        """Places in `pool`, most similar picture first; without the record's own picture and without records that have no vector.

        Raises:
            Skip: the record itself has none.
        """
        if record.place not in self._rows:
            raise Skip("left out by rule", "nearest: no vector of its picture; make the file again with 'mmi data embed'")
        known = [number for number, other in enumerate(pool) if other.place in self._rows]
        similar = self._vectors[[self._rows[pool[number].place] for number in known]] @ self._vectors[self._rows[record.place]]
        return [known[place] for place in np.argsort(-similar, kind="stable") if similar[place] < SAME]


@lru_cache(maxsize=4)
def neighbours(path: str) -> Neighbours:
    """The vectors of a file, read once."""
    return Neighbours(path)


def write_neighbours(path: Path, places: Sequence[str], vectors: Float[np.ndarray, "N D"]) -> None:
    """Writes the vectors of records, scaled to unit length.

    Raises:
        StorageError: it cannot be written.
    """
    long = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": (vectors / long).astype(np.float32)}, path, metadata={"places": json.dumps(list(places))})
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be written ({error}); make room.") from error
