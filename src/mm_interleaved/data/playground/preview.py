"""One page with samples of every task, to be looked at by a person."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from mm_interleaved.data.playground.tasks import TASKS, Sample, sample
from mm_interleaved.data.playground.world import World
from mm_interleaved.errors import StorageError

STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:1rem auto;max-width:72rem;padding:0 1rem}
article{border-top:1px solid #ccc;padding:.6rem 0;display:flex;flex-wrap:wrap;gap:.6rem;align-items:center}
img{width:128px;height:128px;border:1px solid #ddd}.made{color:#05602a;font-weight:600}img.made{border:3px solid #05602a}
details{flex-basis:100%;font-size:.8rem;color:#555}pre{white-space:pre-wrap;margin:0}"""


def preview(path: Path, world: World, seed: int, per_task: int) -> Path:
    """Writes one self-contained HTML page: prompts in black, what the model must produce in green.

    Raises:
        StorageError: the page cannot be written.
    """
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>playground samples</title><style>{STYLE}</style></head><body>",
        f"<h1>Playground, {world.config.split} split, seed {seed}</h1>",
        f"<p>{len(world.train_things)} named things, {len(world.train_pairs)} pairs in training, {len(world.test_pairs)} held out.</p>",
        '<p>Black is the prompt, <span class="made">green</span> is what the model must produce.</p>',
    ]
    for task in TASKS:
        parts.append(f"<h2>{html.escape(task)}</h2>")
        parts += [_article(sample(task, world, seed, index)) for index in range(per_task)]
    parts.append("</body></html>\n")
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(parts), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the preview cannot be written to {path} ({error}); name another file or free some space.") from error
    return path


def _article(document: Sample) -> str:
    language = "zh" if document.truth["language"] == "zh" else "en"
    shown = []
    for number, segment in enumerate(document.segments):
        kind = ' class="made"' if number >= document.prompt else ""
        if isinstance(segment, str):
            shown.append(f'<span{kind} lang="{language}">{html.escape(segment.strip())}</span>')
        else:
            shown.append(f'<img{kind} alt="{_describe(document, number)}" src="{_data_uri(segment)}">')
    truth = html.escape(json.dumps(document.truth, ensure_ascii=False))
    return f"<article>{''.join(shown)}<details><summary>truth</summary><pre>{truth}</pre></details></article>"


def _describe(document: Sample, number: int) -> str:
    return f"{'to produce' if number >= document.prompt else 'given'} picture of a {html.escape(document.task)} sample"


def _data_uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
