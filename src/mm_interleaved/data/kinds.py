"""All kinds of sources by the name that a recipe gives, formats and fine-tuning tasks alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from mm_interleaved.data.sources import FORMATS, Source
from mm_interleaved.data.tuning import TASKS
from mm_interleaved.errors import ConfigError

KINDS: dict[str, type[Source]] = FORMATS | TASKS
"""Class of each `kind`."""


def make_source(kind: str, values: Mapping[str, Any]) -> Source:
    """A source from the fields of a recipe.

    Raises:
        ConfigError: an unknown kind or field, or a value that is wrong.
    """
    if kind not in KINDS:
        nearest = get_close_matches(kind, KINDS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"source: unknown kind '{kind}'; the nearest is '{nearest}'. Known: {', '.join(sorted(KINDS))}.")
    known = {field.name for field in fields(KINDS[kind])}
    for name in values:
        if name not in known:
            nearest = get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"source of kind '{kind}': unknown key '{name}'; the nearest is '{nearest}'. Known: {', '.join(sorted(known))}."
            )
    arguments: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return KINDS[kind](**arguments)
    except TypeError as error:
        raise ConfigError(f"source of kind '{kind}': {error}.") from error
