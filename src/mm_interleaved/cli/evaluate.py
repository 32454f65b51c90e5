"""`mmi evaluate`: measures a model on held-out samples, against chance and against itself without the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mm_interleaved.cli.console import JsonOption, Output
from mm_interleaved.cli.continuing import load_quietly
from mm_interleaved.errors import ConfigError

SUITES = ("playground",)
QUICK = 20


def evaluate(
    suite: Annotated[str, typer.Option(help="What is measured; so far: playground.")] = "playground",
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; by default the model in the box.")] = None,
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("out/evaluation"),
    n: Annotated[int, typer.Option("--n", min=1, help="Samples per task.")] = 200,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} samples per task.")] = False,
    tasks: Annotated[str, typer.Option(help="Some of the suite's tasks, separated by commas; by default those it was trained on.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of samples, noise and intervals.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps of a picture.")] = 20,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.")] = 2.0,
    split: Annotated[str, typer.Option(help="test: combinations that training never shows; or train.")] = "test",
    as_json: JsonOption = False,
) -> None:
    """Measure a model. Samples finished in the output folder are not made again; Ctrl-C loses none of them."""
    from mm_interleaved.evaluation import playground
    from mm_interleaved.generation.load import BOX

    output = Output(as_json=as_json)
    if suite not in SUITES:
        raise ConfigError(f"--suite: no suite is called {suite!r}; there are {', '.join(SUITES)}.")
    folder = BOX if model is None else model
    chosen = tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip())) or playground.tasks_of(folder)
    loaded = load_quietly(model)
    config = playground.world_of(folder, split)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.progress, transient=True) as progress:
        bar = progress.add_task("measuring", total=None)

        def told(task: str, finished: int, total: int) -> None:
            progress.update(bar, description=task, completed=finished, total=total)

        count = QUICK if quick else n
        report = playground.evaluate(loaded, config, out, tasks=chosen, count=count, seed=seed, steps=steps, guidance=guidance, told=told)
    for line in _table(report["results"]):
        output.say(line)
    spent = ", ".join(f"{task} {seconds:.1f} s" for task, seconds in report["seconds"].items())
    output.say(f"time: {spent}; results: {out / playground.RESULTS}, pictures: {out / playground.SHEET}")
    output.result({**report, "files": {"results": str(out / playground.RESULTS), "sheet": str(out / playground.SHEET)}})


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"{'task':9} {'metric':22} {'score':>6} {'95 %':>13} {'chance':>7} {'blind':>6} {'judge':>6} {'n':>5}"]
    for row in rows:
        between = f"{100 * row['low']:.1f}-{100 * row['high']:.1f}"
        others = f"{_percent(row['chance']):>7} {_percent(row['blind']):>6} {_percent(row['ceiling']):>6}"
        mark = " *" if row["main"] else ""
        lines.append(f"{row['task']:9} {row['metric']:22} {_percent(row['score']):>6} {between:>13} {others} {row['n']:>5}{mark}")
    return [*lines, "percent; blind: grey or another prompt; judge: its score of the true pictures; *: the task's main figure"]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
