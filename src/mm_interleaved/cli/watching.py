"""Watches a training run at the command line: a progress bar with the time left, messages, and Ctrl-C."""

from __future__ import annotations

import math
import signal
from types import FrameType
from typing import Any, Self

from rich.progress import BarColumn, Progress, TextColumn

from mm_interleaved.cli.console import Output
from mm_interleaved.training.report import Event, Finished, SamplesMade, Saved, Started, StepDone


class Watcher:
    """While active, shows the events of a run. The first Ctrl-C (or SIGTERM) asks it to stop after its step, the second stops at once."""

    def __init__(self, output: Output) -> None:
        self.facts: dict[str, Any] = {}
        """What `--json` tells."""
        self._output = output
        self._asked = False
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} {task.fields[rate]}"))
        self._progress = Progress(*columns, console=output.progress, transient=True, refresh_per_second=2)
        self._bar = self._progress.add_task("preparing", total=None, rate="")

    def should_stop(self) -> bool:
        """Whether somebody pressed Ctrl-C."""
        return self._asked

    def tell(self, event: Event) -> None:
        """Shows an event."""
        if isinstance(event, Started):
            self._started(event)
        elif isinstance(event, StepDone):
            rate = _number(event.samples_per_second)
            self.facts |= {"step": event.step, "loss": event.loss, "samples_per_second": rate}
            left = "" if rate is None else f"{rate:.1f} samples/s, {duration(event.seconds_left)} left"
            self._progress.update(self._bar, description=f"loss {event.loss:.4f}", total=event.steps, completed=event.step, rate=left)
        elif isinstance(event, Saved):
            self.facts["checkpoint"] = str(event.folder)
        elif isinstance(event, SamplesMade):
            self._output.say(f"step {event.step}: samples on {event.page}")
        elif isinstance(event, Finished):
            final = None if event.final is None else str(event.final)
            self.facts |= {"step": event.step, "completed": event.completed, "final": final, "measures": dict(event.measures)}

    def _started(self, event: Started) -> None:
        resumed = None if event.resumed_from is None else str(event.resumed_from)
        self.facts |= {"output": str(event.output), "resumed_from": resumed, "first_step": event.first_step, "precision": event.precision}
        if resumed is not None:
            self._output.say(f"resumed_from {resumed} (step {event.first_step})")
        size = f"{event.trained_parameters / 1e6:.2f} of {event.all_parameters / 1e6:.2f} M parameters"
        self._output.say(f"{event.name}: trains {size} in {event.precision}, {event.steps} steps, into {event.output}")

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


def duration(seconds: float) -> str:
    """ "2 min 05 s", "1 h 03 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
