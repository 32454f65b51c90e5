"""The report: every figure beside everything that it is compared with, best and worst samples as pictures; one self-contained page.

A figure is a bar with its interval; the marks on its line are the baselines. Colours are told apart by shape as well.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mm_interleaved.data.playground.tasks import Sample, Segment
from mm_interleaved.data.playground.world import World
from mm_interleaved.document import Image
from mm_interleaved.evaluation.results import UNSCALED, Row, score, shown
from mm_interleaved.evaluation.scoring import Names
from mm_interleaved.export.files import data_uri, write_atomically

BASELINES = {"chance": "|", "blind": "○", "copy": "△", "ablation": "◇", "ceiling": "—"}
"""Baselines and the signs that stand for them."""

LEGEND = "Shares in percent; the thin line is the 95 % bootstrap interval. " + ", ".join(
    f"{sign} {name}" for name, sign in BASELINES.items()
)
"""What a reader of a plot must know."""

EXTREMES = 2
"""Best samples of a task that are shown, and worst."""

WIDTH = 320
"""Of a plot, in pixels."""

STYLE = """body{font:14px/1.45 system-ui,sans-serif;margin:1rem auto;max-width:76rem;padding:0 1rem;color:#1b1b1b;background:#fff}
table{border-collapse:collapse;margin:.5rem 0}th,td{padding:.15rem .5rem;text-align:right;border-bottom:1px solid #e3e3e3}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}td svg{display:block}
.main{font-weight:600}.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr));gap:.8rem}
figure{margin:0;border-top:3px solid #999;padding-top:.4rem}figure.best{border-color:#05602a}figure.worst{border-color:#9c2a10}
img{width:5.5rem;height:5.5rem;object-fit:contain;border:1px solid #ccc;background:#fff}img.made{border:2px solid #05602a}
figcaption{overflow-wrap:anywhere}.note{color:#555}pre{white-space:pre-wrap;background:#f6f6f6;padding:.6rem}h2{margin-top:2rem}"""


def write_report(
    path: Path,
    pictures: Path,
    rows: Sequence[Row],
    protocol: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    sample_of: Callable[[str, int], Sample],
    world: World,
) -> None:
    """Writes the page.

    Args:
        pictures: folder with `TASK-INDEX-NUMBER.png`.
        rows: the figures.
        protocol: what decided them; its `tasks` say which metric is a task's main one.
        records: samples of which pictures were kept; best and worst are chosen among them.
        sample_of: (task, index) → the sample.
        world: whose names the scores are read with.

    Raises:
        StorageError: the page cannot be written.
    """
    tasks: Mapping[str, Mapping[str, Any]] = protocol["tasks"]
    main = [row for row in rows if row["metric"] == tasks[row["task"]]["main"]]
    parts = [
        head("Evaluation"),
        f"<p>Model {html.escape(str(protocol['model_hash']))}, {protocol['n']} samples a task, split “{protocol['world']['split']}”. "
        f"{LEGEND}.</p>",
        "<h2>Main figure of every task</h2>",
        table(main, {task: about["row"] for task, about in tasks.items()}),
    ]
    names = Names.of(world.pack)
    for task, about in tasks.items():
        parts += [f"<h2>{task} <small>(demonstration {html.escape(about['row'])})</small></h2>", _notes(about, protocol["n"])]
        parts.append(table([row for row in rows if row["task"] == task], {}, about["main"]))
        parts.append(_extremes([record for record in records if record["task"] == task], about["main"], names, sample_of, pictures))
    parts.append(foot(protocol))
    write_atomically(path, "\n".join(parts).encode())


def head(title: str) -> str:
    """The beginning of a page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>evaluation</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
    )


def foot(protocol: Mapping[str, Any]) -> str:
    """The protocol, and the end of a page."""
    return f"<h2>Protocol</h2><pre>{html.escape(json.dumps(protocol, ensure_ascii=False, indent=2))}</pre></body></html>\n"


def plot(row: Row) -> str:
    """One share as a drawing: its bar, its interval, and a sign for each baseline; nothing for what is no share."""
    if row["metric"] in UNSCALED or not 0 <= row["score"] <= 1:
        return ""
    parts = [f'<svg width="{WIDTH + 16}" height="26" viewBox="-8 0 {WIDTH + 16} 26" role="img" aria-label="{_spoken(row)}">']
    parts.append(f'<rect x="0" y="3" width="{WIDTH}" height="10" fill="#eee"/>')
    parts.append(f'<rect x="0" y="3" width="{row["score"] * WIDTH:.1f}" height="10" fill="#2b6cb0"/>')
    if row["low"] is not None:
        parts.append(f'<path d="M{row["low"] * WIDTH:.1f} 8H{min(row["high"], 1) * WIDTH:.1f}" stroke="#111" stroke-width="2"/>')
    for name, sign in BASELINES.items():
        if row[name] is not None:
            parts.append(f'<text x="{row[name] * WIDTH:.1f}" y="24" font-size="11" text-anchor="middle"><title>{name}</title>{sign}</text>')
    return "".join([*parts, "</svg>"])


def _spoken(row: Row) -> str:
    return f"{shown(row['metric'], row['score'])} percent, {shown(row['metric'], row['low'])} to {shown(row['metric'], row['high'])}"


def table(rows: Sequence[Row], demonstrations: Mapping[str, str], main: str | None = None) -> str:
    """Figures with their baselines.

    Args:
        demonstrations: task → its row of the mission; empty where the table is about one task.
        main: the metric that stands for the task.
    """
    columns = "".join(f"<th>{name}</th>" for name in ("score", "95 %", *BASELINES, "n"))
    lines = [f"<table><thead><tr><th>{'task' if demonstrations else ''}</th><th>metric</th>{columns}<th></th></tr></thead><tbody>"]
    for row in rows:
        score, low, high, *others = (shown(row["metric"], row[name]) for name in ("score", "low", "high", *BASELINES))
        cells = [score, f"{low}–{high}" if row["low"] is not None else "–", *others, str(row["n"])]
        first = f"{demonstrations[row['task']]} · {row['task']}" if demonstrations else ""
        kind = ' class="main"' if row["metric"] == main else ""
        lines.append(
            f"<tr{kind}><td>{html.escape(first)}</td><td>{html.escape(row['metric'])}</td>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + f"<td>{plot(row)}</td></tr>"
        )
    return "\n".join([*lines, "</tbody></table>"])


def _notes(about: Mapping[str, Any], count: int) -> str:
    notes = [f"{about['seconds']:.0f} s of computing"]
    if unread := about["prompts with words that the model never read"]:
        notes.append(f"{unread} of {count} prompts hold words that this model never read")
    notes += [f"no {name}: {reason}" for name, reason in about["absent"].items()]
    if about["refused"]:
        reasons = "; ".join(f"{number} × {reason}" for reason, number in about["reasons"].items())
        notes.append(f"{about['refused']} prompts could not be taken and count as wrong: {reasons}")
    return f'<p class="note">{html.escape("; ".join(notes))}.</p>'


def _extremes(
    records: Sequence[Mapping[str, Any]], metric: str, names: Names, sample_of: Callable[[str, int], Sample], pictures: Path
) -> str:
    values = [score(record, names)[metric] for record in records]
    figures = [
        _figure(
            records[place], kind, f"{shown(metric, values[place])} %", sample_of(records[place]["task"], records[place]["index"]), pictures
        )
        for kind, place in best_and_worst(values)
    ]
    return '<div class="samples">' + "\n".join(figures) + "</div>"


def best_and_worst(values: Sequence[float]) -> list[tuple[str, int]]:
    """Which samples are shown: best or worst, and their places; earlier ones first among equals."""
    ranked = sorted(range(len(values)), key=lambda place: (-values[place], place))
    return [*(("best", place) for place in ranked[:EXTREMES]), *(("worst", place) for place in ranked[EXTREMES:][-EXTREMES:])]


def _figure(record: Mapping[str, Any], kind: str, value: str, sample: Sample, pictures: Path) -> str:
    given, wanted = sample.segments[: sample.prompt], sample.segments[sample.prompt :]
    made = record["outcome"]["made"]
    written = made.get("reason") or made.get("text") or " ▢ ".join(made.get("texts", ()))
    return figure(
        kind,
        value,
        given=_shown(given),
        written=written,
        drawn=drawn(pictures, record),
        true=_shown(wanted),
        language=record["truth"]["language"],
    )


def drawn(pictures: Path, record: Mapping[str, Any]) -> list[Path]:
    """The kept pictures of a sample, in order."""
    return sorted(pictures.glob(f"{record['task']}-{record['index']}-*.png"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))


def figure(kind: str, value: str, *, given: str, written: str, drawn: Sequence[Path], true: str, language: str = "en") -> str:
    """One sample: what was given, what was made of it, what is true.

    Args:
        given: HTML.
        written: plain words.
        true: HTML.
    """
    encoded = (base64.b64encode(path.read_bytes()).decode("ascii") for path in drawn)
    made = (f'<img class="made" alt="made" src="data:image/png;base64,{each}">' for each in encoded)
    lines = [
        f'<figure class="{kind}"><figcaption lang="{language}"><b>{kind}, {value}</b><br>',
        f"given: {given}<br>made: {html.escape(written)} ",
        *made,
        "" if written or drawn else "<em>nothing</em>",
        f"<br>true: {true}</figcaption></figure>",
    ]
    return "".join(lines)


def _shown(parts: Sequence[Segment]) -> str:
    return " ".join(
        html.escape(part.strip()) if isinstance(part, str) else f'<img alt="picture" src="{data_uri(Image.from_array(part))}">'
        for part in parts
    )
