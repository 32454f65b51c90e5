"""Two-way name tables: how the keys of a foreign checkpoint and ours correspond, without a key lost on either side.

A table is a list of rules, each a pair of readable templates. `{}` stands for one part of a key between dots, most often a layer
number; the parts are carried over in order:

    Rule("mm_decoder.layers.{}.mlp.{}_proj.weight", "language_model.layers.{}.mlp.{}_proj.weight")

Upstream parts whose inner names agree need one rule: a template that ends in `*` carries the rest of the key over,
whatever it is. `DROPPED` as our name lists a foreign key as deliberately unused. Of several rules that fit a key the most
specific one counts, the one with the longest written-out text, so that the order of a table means nothing in either direction.
Released vectors that carry leading axes of length 1 (`[1, 1, 1, D]`) say so in their rule; those axes are the only thing about a
tensor that ever changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Literal

from torch import Tensor

from mm_interleaved.errors import CheckpointError

DROPPED = None
"""Our name of a foreign key that is deliberately not used."""

_LISTED_KEYS = 8
"""Keys that an error names; the rest are counted."""


Direction = Literal["to_ours", "to_published"]
"""Which side of a table is read: published names, or ours."""


@dataclass(frozen=True)
class Rule:
    """One line of a name table; also accepted as a plain tuple of its fields."""

    published: str
    """Template of the foreign key."""
    ours: str | None
    """Template of our key, or `DROPPED`."""
    leading_axes: int = 0
    """How many leading axes of length 1 the foreign tensor has more than ours."""

    def __post_init__(self) -> None:
        if self.ours is not DROPPED and (_slots(self.published), self.published.endswith("*")) != (
            _slots(self.ours),
            self.ours.endswith("*"),
        ):
            raise CheckpointError(
                f"rule '{self.published}' -> '{self.ours}': both sides need the same slots; a key could not be carried back."
            )

    def reshape(self, tensor: Tensor, direction: Direction) -> Tensor:
        """Takes away, or puts back, the leading axes of length 1."""
        if direction == "to_published":
            return tensor[(None,) * self.leading_axes] if self.leading_axes else tensor
        if any(length != 1 for length in tensor.shape[: self.leading_axes]):
            raise CheckpointError(
                f"'{self.published}' has the shape {tuple(tensor.shape)}, expected are {self.leading_axes} leading axes of length 1."
            )
        return tensor.reshape(tensor.shape[self.leading_axes :])

    @cached_property
    def forward(self) -> re.Pattern[str]:
        return _pattern(self.published)

    @cached_property
    def backward(self) -> re.Pattern[str] | None:
        return None if self.ours is DROPPED else _pattern(self.ours)


RuleLike = Rule | tuple[str, str | None] | tuple[str, str | None, int]
"""A rule, or a plain tuple of its fields."""


class NameTable:
    """A list of rules, read in either direction.

    Args:
        rules: `Rule`s or plain tuples `(published, ours)`, `(published, ours, leading_axes)`; the most specific that fits a key counts.
    """

    def __init__(self, rules: Iterable[RuleLike]) -> None:
        self.rules = tuple(rule if isinstance(rule, Rule) else Rule(*rule) for rule in rules)
        self._by_length: dict[Direction, list[Rule]] = {
            "to_ours": sorted(self.rules, key=lambda rule: -_written_out(rule.published)),
            "to_published": sorted(self.rules, key=lambda rule: -_written_out(rule.ours or "")),
        }

    def to_ours(self, name: str) -> str | None:
        """Translates one published key; None where it is listed as dropped.

        Raises:
            CheckpointError: no rule fits.
        """
        return self._find(name, "to_ours")[1]

    def to_published(self, name: str) -> str:
        """Translates one key of ours.

        Raises:
            CheckpointError: no rule fits.
        """
        found = self._find(name, "to_published")[1]
        assert found is not None  # only published keys can be dropped
        return found

    def rename(
        self,
        source: Mapping[str, Tensor],
        target: Mapping[str, Sequence[int]] | None = None,
        *,
        direction: Direction = "to_ours",
        where: str = "checkpoint",
    ) -> dict[str, Tensor]:
        """Renames a state dict; tensors are handed on, not copied.

        Args:
            source: tensors by their names on the one side.
            target: shape of every key of the other side, to be filled exactly; None checks the source side only.
            direction: `to_ours` reads published names, `to_published` writes them.
            where: what is being read, for messages.

        Raises:
            CheckpointError: a source key fits no rule, two source keys meet in one target key, a target key stays empty or is not
                wanted, or a shape differs. The message names the keys and the nearest others.
        """
        renamed: dict[str, Tensor] = {}
        origin: dict[str, str] = {}
        for name, tensor in source.items():
            try:
                rule, new_name = self._find(name, direction)
                if new_name is None:
                    continue
                tensor = rule.reshape(tensor, direction)
            except CheckpointError as error:
                raise CheckpointError(f"{where}: {error}") from None
            if new_name in renamed:
                raise CheckpointError(f"{where}: the keys '{origin[new_name]}' and '{name}' both become '{new_name}'; remove one of them.")
            renamed[new_name], origin[new_name] = tensor, name
        if target is not None:
            check_keys(renamed, target, where=where, origin=origin)
        return renamed

    def _find(self, name: str, direction: Direction) -> tuple[Rule, str | None]:
        for rule in self._by_length[direction]:
            pattern = rule.forward if direction == "to_ours" else rule.backward
            if pattern is not None and (found := pattern.fullmatch(name)):
                template = rule.ours if direction == "to_ours" else rule.published
                return rule, None if template is DROPPED else _fill(template, found.groups())
        raise CheckpointError(f"no rule for the key '{name}'; {self._nearest_rule(name, direction)}")

    def _nearest_rule(self, name: str, direction: Direction) -> str:
        templates = [rule.published if direction == "to_ours" else rule.ours for rule in self.rules]
        nearest = get_close_matches(name, [template for template in templates if template is not None], n=1, cutoff=0.0)
        return f"the nearest rule is '{nearest[0]}'." if nearest else "the table is empty."


def check_keys(
    found: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], *, where: str, origin: Mapping[str, str] | None = None
) -> None:
    """Holds the keys and shapes of a state dict to what is expected, exactly.

    Args:
        found: tensors by name.
        expected: shape by name.
        where: what is being read, for messages.
        origin: the name a key had before it was renamed, for messages.

    Raises:
        CheckpointError: keys are missing or surplus, or a shape differs.
    """
    problems: list[str] = []
    missing = sorted(set(expected) - set(found))
    surplus = sorted(set(found) - set(expected))
    if missing:
        problems.append(f"{len(missing)} missing: {_listed(missing, nearest_in=surplus)}")
    if surplus:
        problems.append(f"{len(surplus)} not wanted: {_listed(surplus, nearest_in=missing or sorted(expected))}")
    differing = [name for name in sorted(set(found) & set(expected)) if tuple(found[name].shape) != tuple(expected[name])]
    if differing:
        shapes = [
            f"'{name}'{_formerly(name, origin)} is {tuple(found[name].shape)}, the model has {tuple(expected[name])}"
            for name in differing[:_LISTED_KEYS]
        ]
        problems.append(f"{len(differing)} of another shape: {'; '.join(shapes)}{_rest(differing)}")
    if problems:
        raise CheckpointError(
            f"{where}: the keys do not fit the model. {'. '.join(problems)}. "
            "Use the configuration this checkpoint was made with, or convert it."
        )


def _listed(names: Sequence[str], *, nearest_in: Sequence[str]) -> str:
    described = []
    for name in names[:_LISTED_KEYS]:
        nearest = get_close_matches(name, nearest_in[:2000], n=1, cutoff=0.6)
        described.append(f"'{name}' (nearest: '{nearest[0]}')" if nearest else f"'{name}'")
    return ", ".join(described) + _rest(names)


def _rest(names: Sequence[str]) -> str:
    return f" and {len(names) - _LISTED_KEYS} more" if len(names) > _LISTED_KEYS else ""


def _formerly(name: str, origin: Mapping[str, str] | None) -> str:
    former = None if origin is None else origin.get(name)
    return "" if former is None or former == name else f" (from '{former}')"


def _slots(template: str) -> int:
    return template.count("{}")


def _written_out(template: str) -> int:
    return len(template.replace("{}", "").removesuffix("*"))


def _pattern(template: str) -> re.Pattern[str]:
    body, rest = (template[:-1], "(.+)") if template.endswith("*") else (template, "")
    return re.compile("([^.]+)".join(re.escape(part) for part in body.split("{}")) + rest)


def _fill(template: str, parts: Sequence[str]) -> str:
    remaining = iter(parts)
    body = template[:-1] if template.endswith("*") else template
    pieces = body.split("{}")
    filled = pieces[0] + "".join(next(remaining) + piece for piece in pieces[1:])
    return filled + next(remaining) if template.endswith("*") else filled
