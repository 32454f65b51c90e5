"""Tiny files in the true form of every format, written by us, and the same files with everything wrong that is met in the wild."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from mm_interleaved.data.kinds import make_source
from mm_interleaved.data.sources import Example, Skip, Skips
from mm_interleaved.data.sources.source import Source
from mm_interleaved.document import Image, Text

HTML = b"<!doctype html><html><body>404</body></html>"


def picture_bytes(number: int, form: str = "PNG", size: tuple[int, int] = (12, 8)) -> bytes:
    """A picture of one colour that tells its number in red."""
    stream = io.BytesIO()
    pillow.new("RGB", size, (number, 100, 200)).save(stream, form)
    return stream.getvalue()


def number_of(image: Image) -> int:
    """The number that `picture_bytes` painted."""
    return int(image.array()[0, 0, 0])


def shape_of(example: Example) -> list[object]:
    """Texts as they are, pictures as their numbers."""
    return [segment.text if isinstance(segment, Text) else number_of(segment) for segment in example.segments]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten pictures 0.png … 9.png, and what is met instead of pictures."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.png").write_bytes(picture_bytes(number))
    (folder / "page.png").write_bytes(HTML)
    (folder / "cut.png").write_bytes(picture_bytes(1)[:40])
    return folder


class Reading:
    """Everything that one pass over a source gives."""

    def __init__(self, source: Source, *, draws: int = 0) -> None:
        self.skips = Skips()
        self.examples: list[Example] = []
        for shard in source.shards():
            try:
                for number, record in enumerate(source.records(shard)):
                    try:
                        if record.problem is not None:
                            raise record.problem
                        random = np.random.default_rng([draws, number])
                        self.examples.append(source.example(record, random, lambda skip, record=record: self._skip(source, record, skip)))
                    except Skip as skip:
                        self._skip(source, record, skip)
            except Skip as skip:
                self.skips.add(source.name, shard, skip)
        self.reasons = self.skips.by_reason(source.name)

    def _skip(self, source, record, skip):
        self.skips.add(source.name, record.place, skip)

    @property
    def shapes(self) -> list[list[object]]:
        return [shape_of(example) for example in self.examples]


@pytest.fixture
def read(images: Path) -> Callable[..., Reading]:
    """Reads a source of a kind once."""

    def run(kind: str, *files: Path | str, draws: int = 0, **options: object) -> Reading:
        values = {"name": kind, "files": [str(file) for file in files], "images": str(images), **options}
        return Reading(make_source(kind, values), draws=draws)

    return run


def lines(path: Path, *values: object) -> Path:
    """One JSON value per line; strings are written as they are."""
    path.write_text("".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values), encoding="utf-8")
    return path


def zipped(path: Path, *values: object) -> Path:
    """The same, as the single member of a zip, as MMC4 is published."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.name.removesuffix(".zip"), "".join(json.dumps(value) + "\n" for value in values))
    return path


def tarred(path: Path, *members: tuple[str, bytes]) -> Path:
    """A webdataset shard."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    import pyarrow as arrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path
