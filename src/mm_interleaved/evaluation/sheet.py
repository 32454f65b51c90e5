"""The contact sheet: the first generated pictures of each task beside their targets, as one self-contained page."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mm_interleaved.data.playground.tasks import Sample
from mm_interleaved.document import Image
from mm_interleaved.export.files import data_uri, write_atomically

SHOWN = 24
"""Samples per task whose pictures are kept and shown."""

PANELS = 3
"""Pictures of a story."""

STYLE = """body{font:14px/1.4 system-ui,sans-serif;margin:1rem auto;max-width:76rem;padding:0 1rem}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:.8rem}
figure{margin:0;border-top:1px solid #ccc;padding-top:.4rem}img{width:7.5rem;height:7.5rem;border:2px solid #ddd}
img.made{border-color:#05602a}figcaption{color:#444}"""


def write_sheet(path: Path, pictures: Path, records: Sequence[Mapping[str, Any]], sample_of: Callable[[str, int], Sample]) -> None:
    """Writes the page; samples without a picture to draw are left out.

    Args:
        pictures: folder with `TASK-INDEX-NUMBER.png`.
        records: finished samples.
        sample_of: (task, index) → the sample, whose pictures are the targets.

    Raises:
        StorageError: the page cannot be written.
    """
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>generated pictures</title><style>{STYLE}</style></head><body><h1>Generated pictures beside their targets</h1>",
        "<p>Green frame: generated. Grey frame: given in the prompt, or the target.</p>",
    ]
    for task in ("picture", "style", "story"):
        shown = [record for record in records if record["task"] == task][: SHOWN // PANELS if task == "story" else SHOWN]
        if shown:
            figures = [_figure(record, sample_of(task, record["index"]), pictures) for record in shown]
            parts += [f"<h2>{task}</h2><main>", *figures, "</main>"]
    parts.append("</body></html>\n")
    write_atomically(path, "\n".join(parts).encode())


def _figure(record: Mapping[str, Any], sample: Sample, pictures: Path) -> str:
    given = [part for part in sample.segments[: sample.prompt] if not isinstance(part, str)]
    targets = [part for part in sample.segments[sample.prompt :] if not isinstance(part, str)]
    words = " ".join(part.strip() for part in sample.segments[: sample.prompt] if isinstance(part, str))
    shown = [_picture(data_uri(Image.from_array(part)), "reference") for part in given]
    for number, target in enumerate(targets):
        file = pictures / f"{record['task']}-{record['index']}-{number}.png"
        if file.is_file():
            shown.append(_picture("data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii"), "generated", made=True))
        else:
            shown.append("<em>no picture</em>")
        shown.append(_picture(data_uri(Image.from_array(target)), "target"))
    language = record["truth"]["language"]
    made = record["outcome"]["made"]
    told = f"<br>{html.escape(' · '.join(made['texts']))}" if "texts" in made else ""
    judged = made.get("judged")
    seen = f"<br>judged: {html.escape(' '.join(judged))}" if judged else ""
    return f'<figure>{"".join(shown)}<figcaption lang="{language}">{html.escape(words)}{told}{seen}</figcaption></figure>'


def _picture(address: str, kind: str, *, made: bool = False) -> str:
    return f'<img{" class=made" if made else ""} alt="{kind}" src="{address}">'
