"""The report of a benchmark: its figures beside their baselines, best and worst samples as pictures; one self-contained page.

Its parts are those of the demonstrations' report (`report.py`).
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pillow

from mm_interleaved.document import Image, Segment, Text
from mm_interleaved.errors import MMInterleavedError
from mm_interleaved.evaluation.report import LEGEND, best_and_worst, drawn, figure, foot, head, table
from mm_interleaved.evaluation.results import Row, shown
from mm_interleaved.evaluation.tasks.task import Item, Task
from mm_interleaved.export.files import data_uri, write_atomically

THUMBNAIL = 160
"""Longest side of a given or true picture on the page, in pixels."""

FIRST = 4
"""Samples that are shown where none can be called better than another."""


def write_benchmark_report(
    path: Path,
    pictures: Path,
    task: Task,
    rows: Sequence[Row],
    protocol: Mapping[str, Any],
    items: Sequence[Item],
    records: Sequence[Mapping[str, Any]],
    each: Mapping[str, Sequence[float] | None],
) -> None:
    """Writes the page.

    Args:
        pictures: folder with `TASK-INDEX-NUMBER.png`.
        each: metric → the items' own values; best and worst are chosen by the main metric, or the first that has such.

    Raises:
        StorageError: the page cannot be written.
    """
    ranked = next((name for name in (task.main, *each) if each.get(name) is not None), None)
    values = None if ranked is None else each[ranked]
    if ranked is None or values is None:
        chosen = [("sample", place, "") for place in range(min(FIRST, len(items)))]
    else:
        chosen = [(kind, place, f"{ranked} {shown(ranked, values[place])}") for kind, place in best_and_worst(values)]
    parts = [
        head(f"Evaluation: {task.name}"),
        f"<p>Model {html.escape(str(protocol['model_hash']))}, {len(items)} items, protocol “{protocol['protocol']}”. {LEGEND}.</p>",
        *_notes(protocol, len(items)),
        table(rows, {}, task.main),
        "<h2>Samples</h2>",
        '<div class="samples">',
        *(_sample(kind, value, items[place], records[place], pictures) for kind, place, value in chosen),
        "</div>",
        foot(protocol),
    ]
    write_atomically(path, "\n".join(parts).encode())


def _notes(protocol: Mapping[str, Any], count: int) -> list[str]:
    notes = ["chance, copy and ablation are taken of the demonstrations alone"]
    notes += [f"not measured: {name}, which needs {option}" for name, option in protocol["unmeasured"].items()]
    if refused := protocol["refused"]:
        name, reason = next(iter(refused.items()))
        notes.append(f"{len(refused)} of {count} items could not be answered and count as wrong, first “{name}”: {reason}")
    return [f'<p class="note">{html.escape(note)}.</p>' for note in notes]


def _sample(kind: str, value: str, item: Item, record: Mapping[str, Any], pictures: Path) -> str:
    made = record["outcome"]["made"]
    true = _shown(item.rest()) if item.rest is not None else html.escape(", ".join(f"{name}: {each}" for name, each in item.truth.items()))
    try:
        given = _shown(item.prompt())
    except MMInterleavedError as error:
        given = html.escape(str(error))
    written = made.get("reason") or made.get("text") or ", ".join(f"{each:.2f}" for each in made.get("options", ()))
    return figure(kind, html.escape(value or item.name), given=given, written=written, drawn=drawn(pictures, record), true=true)


def _shown(segments: Iterable[Segment]) -> str:
    return " ".join(
        html.escape(segment.text.strip()) if isinstance(segment, Text) else f'<img alt="picture" src="{data_uri(_small(segment))}">'
        for segment in segments
    )


def _small(image: Image) -> Image:
    picture = pillow.fromarray(image.array())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return Image.from_array(np.asarray(picture))
