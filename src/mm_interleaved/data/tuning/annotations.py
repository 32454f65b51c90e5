"""Official annotation files: one JSON (or a Python pickle of plain values) with lists that refer to each other."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from mm_interleaved.data.sources.example import Record, Skip
from mm_interleaved.data.sources.files import open_stream


def read_json(url: str) -> Any:
    """The value of a JSON file.

    Raises:
        Skip: it is missing or not JSON.
    """
    try:
        with open_stream(url) as stream:
            return json.loads(stream.read())
    except (ValueError, RecursionError, OSError) as error:
        raise Skip("not readable", f"{url}: {error}") from error


def read_plain_pickle(url: str) -> Any:
    """A pickle of lists, mappings, words and numbers, as RefCOCO's `refs(unc).p`. Anything that would call code is refused.

    Raises:
        Skip: it is missing, broken, or holds objects.
    """
    try:
        with open_stream(url) as stream:
            return _PlainUnpickler(io.BytesIO(stream.read()), encoding="latin1").load()
    # The unpickler's own parsers raise nearly anything on broken bytes.
    except Exception as error:
        raise Skip("not readable", f"{url}: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module}.{name}; only lists, mappings, words and numbers are read")


def entries(values: Any, name: str, url: str) -> list[Any]:
    """A list inside an annotation file.

    Raises:
        Skip: the file has no such list.
    """
    found = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(found, list):
        raise Skip("not readable", f"{url}: expected an object with a list '{name}'")
    return found


def by_id(items: Iterable[Any], key: str) -> dict[Any, dict[str, Any]]:
    """Objects by one of their fields; those without it are left out."""
    return {item[key]: item for item in items if isinstance(item, dict) and key in item}


def joined(item: Any, number: int, url: str, *, key: str, others: Mapping[Any, dict[str, Any]], name: str) -> Record:
    """An annotation together with what it refers to.

    Args:
        key: field of the annotation that names the other one.
        name: what the other one is called in the record.
    """
    place = f"{url}[{number}]"
    if not isinstance(item, dict) or key not in item:
        return Record(place, {}, Skip("wrong fields", f"an annotation without '{key}'"))
    if item[key] not in others:
        return Record(place, {}, Skip("unknown image", f"{key} {item[key]!r}"))
    return Record(place, item | {name: others[item[key]]})
