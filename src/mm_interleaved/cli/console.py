"""What all verbs share: results on stdout, progress on stderr, errors in one line with the right exit status."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from mm_interleaved.errors import MMInterleavedError

TRACEBACK = "MMI_TRACEBACK"
"""Environment variable that does what `--traceback` does."""

traceback_wanted: ContextVar[bool] = ContextVar("traceback_wanted", default=False)
"""Whether `--traceback` was given to the command that is running."""

USER_ERROR, OUR_ERROR, INTERRUPTED = 2, 1, 130

JsonOption = Annotated[bool, typer.Option("--json", help="Print one machine-readable object on stdout; progress stays on stderr.")]

Command = TypeVar("Command", bound=Callable[..., None])


class Output:
    """Where a verb writes: `say` for people on stdout, `result` for programs on stdout, `progress` on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.progress = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """A line for people; with --json it goes to stderr."""
        typer.echo(line, err=self.as_json)

    def error(self, message: str) -> None:
        """An error line on stderr."""
        typer.echo(f"error: {_one_line(message)}", err=True)

    def result(self, values: dict[str, Any]) -> None:
        """The result for programs; nothing without --json."""
        if self.as_json:
            typer.echo(json.dumps(values, ensure_ascii=False, indent=2))


def guarded(command: Command) -> Command:
    """Turns exceptions of a verb into messages and exit statuses; parameters and help stay the verb's own."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        output = Output(as_json=bool(kwargs.get("as_json", False)))
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except MMInterleavedError as error:
            _show_traceback()
            output.error(str(error))
            output.result({"error": {"kind": type(error).__name__, "message": str(error)}})
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader of stdout has gone; Python would complain once more while it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(OUR_ERROR) from error
        except Exception as error:
            shown = _show_traceback()
            hint = "" if shown else f" This is a fault of mm-interleaved; '{TRACEBACK}=1 mmi …' or 'mmi --traceback …' shows where."
            output.error(f"{type(error).__name__}: {error}.{hint}")
            output.result({"error": {"kind": type(error).__name__, "message": str(error)}})
            raise typer.Exit(OUR_ERROR) from error

    return wrapped  # type: ignore[return-value]


def _show_traceback() -> bool:
    wanted = traceback_wanted.get() or os.environ.get(TRACEBACK, "") not in ("", "0")
    if wanted:
        traceback.print_exc()
    return wanted


def _one_line(message: str) -> str:
    return " ".join(message.split())
