"""`mmi doctor`: what this machine can run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mm_interleaved.cli.console import USER_ERROR, JsonOption, Output


def doctor(
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; by default the model in the box.")] = None,
    out: Annotated[Path, typer.Option("--output", "-o", help="Where results would be written; its disk is looked at.")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can run, and what is missing. Exit status 2 if something that is needed is missing."""
    from mm_interleaved.cli.machine import examine

    output = Output(as_json=as_json)
    findings = examine(model, out)
    for finding in findings:
        advice = f" — {finding['advice']}" if finding["advice"] else ""
        output.say(f"{finding['status']:8}{finding['name']}: {finding['found']}{advice}")
    problems = [finding["name"] for finding in findings if finding["status"] == "problem"]
    output.result({"findings": findings, "problems": problems})
    if problems:
        output.error(f"{len(problems)} problems: {', '.join(problems)}")
        raise typer.Exit(USER_ERROR)
