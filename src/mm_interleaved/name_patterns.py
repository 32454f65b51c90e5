"""Names of parameters chosen by patterns, as recipes write them: globs, and behind a `!` what is left out again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

LEFT_OUT = "!"
"""Begins a pattern whose names are left out, whatever other patterns they fit."""


def is_chosen(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits the name and none behind a `!` does; their order means nothing."""
    wanted = any(fnmatchcase(name, pattern) for pattern in patterns if not pattern.startswith(LEFT_OUT))
    return wanted and not any(fnmatchcase(name, pattern.removeprefix(LEFT_OUT)) for pattern in patterns if pattern.startswith(LEFT_OUT))


def fits_any(pattern: str, names: Iterable[str]) -> bool:
    """Whether a pattern, without its `!`, fits at least one of the names: one that fits none is most likely misspelt."""
    return any(fnmatchcase(name, pattern.removeprefix(LEFT_OUT)) for name in names)
