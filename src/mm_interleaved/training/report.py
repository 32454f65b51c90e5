"""What a run tells: events for whoever watches, the loss table, the timing table, the plot.

`losses.csv` holds nothing that depends on the clock, so its rows are equal in an interrupted and an uninterrupted run;
`timing.csv` has the rest.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from mm_interleaved.errors import CheckpointError
from mm_interleaved.training.state import storage_error

SLOW_FIRST_STEPS = 3
"""Steps after every start that are left out of the measured rate: kernels are generated in them."""


@dataclass(frozen=True)
class Started:
    """The run begins, or goes on."""

    name: str
    output: Path
    steps: int
    first_step: int
    """Steps done already."""
    resumed_from: Path | None
    """The checkpoint it goes on from."""
    trained_parameters: int
    all_parameters: int
    precision: str


@dataclass(frozen=True)
class StepDone:
    """One optimizer step."""

    step: int
    """Steps done, counted from 1."""
    steps: int
    loss: float
    columns: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    samples_per_second: float
    """Since the start, the first steps left out; NaN in them."""
    seconds_left: float
    """At that rate, saving included; NaN in the first steps."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    folder: Path


@dataclass(frozen=True)
class SamplesMade:
    """A live sample page was written."""

    step: int
    page: Path


@dataclass(frozen=True)
class Finished:
    """All steps are done, or the run was asked to stop."""

    step: int
    completed: bool
    final: Path | None
    """The model, usable for generation; None when the run was stopped before its last step."""
    measures: Mapping[str, float]
    skipped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Samples of each source that were not used, by reason; of this process."""


Event = Started | StepDone | Saved | SamplesMade | Finished


class Rate:
    """Samples per second and time left, from the steps after the first few."""

    def __init__(self, steps_left: int, batch_size: int) -> None:
        self._left = steps_left
        self._batch_size = batch_size
        self._done = 0
        self._began = math.nan

    def step(self, now: float) -> tuple[float, float]:
        """Counts a step that ended at `now` (seconds); returns samples per second and seconds left."""
        self._done += 1
        self._left -= 1
        if self._done <= SLOW_FIRST_STEPS:
            self._began = now
            return math.nan, math.nan
        each = (now - self._began) / (self._done - SLOW_FIRST_STEPS)
        return self._batch_size / max(each, 1e-9), each * self._left


class Table:
    """A CSV file with one row per step that continues after the row of a given step."""

    def __init__(self, path: Path, columns: Sequence[str], *, after_step: int) -> None:
        """Opens the table; rows of steps up to `after_step` stay byte by byte, later ones are removed.

        Raises:
            CheckpointError: the row of that step is missing, or the table has other columns.
            StorageError: it cannot be written.
        """
        self.path = path
        self._columns = tuple(columns)
        try:
            if after_step == 0:
                path.write_text(",".join(("step", *columns)) + "\n", encoding="utf-8")
            else:
                with path.open(encoding="utf-8") as file:
                    header = file.readline().rstrip("\n").split(",")
                if header != ["step", *columns]:
                    raise CheckpointError(
                        f"{path} has the columns {', '.join(header)}; this version writes {', '.join(columns)}. "
                        "Choose another output folder."
                    )
                os.truncate(path, _end_of_step(path, after_step))
            self._file = path.open("a", encoding="utf-8", newline="")
        except OSError as error:
            raise storage_error(path, error) from error

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a row; floats in full precision, empty where NaN."""
        cells = [str(step), *("" if math.isnan(values[column]) else repr(values[column]) for column in self._columns)]
        try:
            self._file.write(",".join(cells) + "\n")
            self._file.flush()
        except OSError as error:
            raise storage_error(self.path, error) from error

    def sync(self) -> None:
        """Brings all rows to the disk; called before a checkpoint that relies on them."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise storage_error(self.path, error) from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def plot_losses(table: Path, picture: Path) -> None:
    """Draws the loss table: raw values pale, a running mean over 2 % of the steps on top, one panel per column."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    names = [name for name in rows[0] if name not in ("step", "learning_rate") and any(row[name] for row in rows)]
    figure = Figure(figsize=(8, 2.2 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        steps, values = [step for step, _ in points], [value for _, value in points]
        axis.plot(steps, values, linewidth=0.5, alpha=0.4)
        axis.plot(steps, _running_mean(values, max(1, len(values) // 50)), linewidth=1.5)
        axis.set_ylabel(name, fontsize=8)
        axis.grid(alpha=0.3)
        if min(values) > 0 and max(values) / min(values) > 20:
            axis.set_yscale("log")
    axis.set_xlabel("step")
    temporary = picture.with_name(f".{picture.name}")
    try:
        figure.savefig(temporary, dpi=90, format="png")
        temporary.replace(picture)
    except OSError as error:
        raise storage_error(picture, error) from error


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - width] if index >= width else 0.0)
        means.append(total / min(index + 1, width))
    return means


def _end_of_step(path: Path, step: int) -> int:
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            if line.startswith(b"%d," % step) and line.endswith(b"\n"):
                return end
    raise CheckpointError(f"{path} has no row of step {step}, after which the run goes on; it was changed. Choose another output folder.")
