"""Draws what the benchmarks printed: `python benchmarks/plot.py mmfs.json document.json batch.json … -o speed.png`.

Each file holds the lines of one or more benchmarks; of a case that stands there twice, the later line counts. Left: the cases that
have a bar, and the bar. Middle: how the ratio of MMFS goes with the number of pictures and of queries. Right: how many times the
throughput of one document several together have.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BARS = {
    "llm_forward": 3.5,
    "llm_forward_backward": 2.0,
    "llm_decode_step": 30.0,
    "unet_forward": 4.0,
    "four_pictures_same_numerics": 2.5,
    "four_pictures_equal_quality": 8.0,
    "train_step": 2.0,
    "eight_texts": 2.5,
    "eight_documents": 1.2,
}
"""Case -> how many times faster than the other path it should be."""
TOGETHER = {"rows": "a token, rows in one pass", "texts": "texts", "documents": "documents with pictures"}
"""Kind of batch -> what the plot calls it."""
REACHED, MISSED, BAR = "#2a7f62", "#b5482f", "#222222"

Row = dict[str, Any]


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """All JSON lines of these files.

    Raises:
        SystemExit: a file cannot be read, or holds none.
    """
    rows = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise SystemExit(f"{path}: cannot be read ({error.strerror}); run the benchmark with > {path} first.") from error
        found = [json.loads(line) for line in lines if line.startswith("{")]
        if not found:
            raise SystemExit(f"{path}: expected lines that a benchmark printed, found none.")
        rows += found
    return rows


def draw(rows: list[Row], path: Path) -> None:
    """Writes the figure."""
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    bars, scaling, together = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    # Of the fast paths of MMFS the one that runs by itself, on values that are kept whole.
    preferred = [row for row in rows if row["case"] in BARS and row["path"] != "gather" and "bfloat16" not in row["path"]]
    _bars(bars, {row["case"]: row for row in preferred})
    _scaling(scaling, rows)
    _together(together, rows)
    figure.savefig(path, dpi=110)


def _bars(axes: Axes, found: dict[str, Row]) -> None:
    names = [case for case in BARS if case in found][::-1]
    ratios = [found[case]["ratio"] for case in names]
    colours = [REACHED if ratio >= BARS[case] else MISSED for case, ratio in zip(names, ratios, strict=True)]
    axes.barh(names, ratios, color=colours, height=0.6)
    for place, (case, ratio) in enumerate(zip(names, ratios, strict=True)):
        axes.plot([BARS[case]] * 2, [place - 0.42, place + 0.42], color=BAR, linewidth=2)
        axes.text(max(ratio, BARS[case]) * 1.08, place, f"{ratio:.2g} ×", va="center", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(0.8, 2.2 * max([*ratios, *BARS.values()]))
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.set_title("times faster than the published form or loop\n(black: what was aimed at)", fontsize=10)


def _scaling(axes: Axes, rows: list[Row]) -> None:
    for counted, name in (("images", "pictures, at 128 queries"), ("queries", "queries, at 2 pictures")):
        points = sorted({row[counted]: row["ratio"] for row in rows if row["case"] == counted}.items())
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    _logarithmic(axes, "number of pictures or queries")
    axes.set_ylabel("times faster than the published form")
    axes.set_title("MMFS of the language model", fontsize=10)


def _together(axes: Axes, rows: list[Row]) -> None:
    spelled = {"eight_texts": "8_texts", "eight_documents": "8_documents"}
    for kind, name in TOGETHER.items():
        points = {1: 1.0}
        for row in rows:
            parts = spelled.get(row["case"], row["case"]).split("_")
            if kind in parts and len(parts) == 2 and (count := next((part for part in parts if part.isdigit()), None)):
                points[int(count)] = row["ratio"]
        if len(points) > 1:
            axes.plot(*zip(*sorted(points.items()), strict=True), marker="o", label=name)
    _logarithmic(axes, "documents at once")
    axes.set_ylabel("times the throughput of one after the other")
    axes.set_title("many documents at once", fontsize=10)


def _logarithmic(axes: Axes, label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="what benchmarks printed")
    parser.add_argument("-o", "--output", type=Path, default=Path("speed.png"))
    arguments = parser.parse_args()
    draw(read_rows(arguments.files), arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
