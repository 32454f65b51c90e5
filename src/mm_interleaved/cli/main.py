"""`mmi`: all verbs under one command.

Exit status: 0; 2 for what a user can mend (one line, no traceback); 1 for our own faults; 130 after Ctrl-C.
"""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from mm_interleaved import __version__
from mm_interleaved.cli import convert, data, demo, doctor, evaluate, explain, generate, page, train
from mm_interleaved.cli.console import TRACEBACK, guarded, traceback_wanted

app = typer.Typer(
    name="mmi",
    help="Read, write and train interleaved documents of words and pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(guarded(demo.demo))
app.command("generate")(guarded(generate.generate))
app.command("train")(guarded(train.train))
app.command("evaluate")(guarded(evaluate.evaluate))
app.command("explain")(guarded(explain.explain))
app.command("page")(guarded(page.page))
app.add_typer(convert.app, name="convert")
app.add_typer(data.app, name="data")
app.command("doctor")(guarded(doctor.doctor))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    traceback: Annotated[bool, typer.Option("--traceback", envvar=TRACEBACK, help="Show where an error came from.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")] = False,
) -> None:
    traceback_wanted.set(traceback)
    # Where bitsandbytes is installed, diffusers imports it, and on CPUs it then warns of a package that it can do without.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def run() -> None:
    """Entry point of the `mmi` command."""
    app()


if __name__ == "__main__":
    run()
