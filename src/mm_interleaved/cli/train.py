"""`mmi train`: trains a recipe, or goes on where its output folder stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mm_interleaved.cli.console import INTERRUPTED, JsonOption, Output


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, such as recipes/playground-nano.yaml.")],
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value: training.steps=100.")] = None,
    trackers: Annotated[list[str] | None, typer.Option("--tracker", help="Also tell a tracker of accelerate: tensorboard, wandb …")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe. Ctrl-C saves a checkpoint and stops (exit status 130); the same command goes on from there."""
    from transformers.utils.logging import disable_progress_bar

    from mm_interleaved.cli.sample_page import sample_page
    from mm_interleaved.cli.watching import Watcher
    from mm_interleaved.training.loop import train as run
    from mm_interleaved.training.recipe import read_recipe

    disable_progress_bar()
    output = Output(as_json=as_json)
    chosen = read_recipe(recipe, [*(changes or []), *([f"training.trackers=[{', '.join(trackers)}]"] if trackers else [])])
    page = partial(sample_page, tasks=tuple(chosen.data.tasks))
    with Watcher(output) as watcher:
        finished = run(chosen, on_event=watcher.tell, should_stop=watcher.should_stop, sample_page=page)
    if finished.completed and finished.final is None:
        return  # the main process of several tells
    output.result(watcher.facts)
    if not finished.completed:
        output.say(f"stopped after step {finished.step}, saved; the same command goes on from there")
        raise typer.Exit(INTERRUPTED)
    for name, value in finished.measures.items():
        output.say(f"{name}: {value:.4g}")
    for source, reasons in finished.skipped.items():
        if reasons:
            told = ", ".join(f"{count} × {reason}" for reason, count in reasons.items())
            output.say(f"{source}: not used: {told} (list: {chosen.output}/skipped.jsonl)")
    output.say(f"finished: {finished.final} (losses: {chosen.output}/losses.csv, losses.png)")
