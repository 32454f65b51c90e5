"""The documents that a command line names: files, folders of them, and JSONL with a document on every line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm_interleaved.document import Document
from mm_interleaved.errors import DocumentError
from mm_interleaved.export.files import decode_utf8
from mm_interleaved.picture_file import read_file

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
"""The prompts inside the package."""

SHOWN = ("story", "draw-a-picture", "same-style", "what-is-it", "huatu")
"""Which examples the demo continues and the page offers first, in this order."""

SUFFIXES = (".md", ".markdown", ".txt", ".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One document to be read when its turn comes."""

    name: str
    """Of its results, without suffix."""
    file: Path
    line: int | None = None
    """In a JSONL file, counted from 1."""
    content: Any = None
    """Of that line, parsed."""

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.file) if self.line is None else f"{self.file}, line {self.line}"

    def read(self) -> tuple[Document, dict[str, Any]]:
        """The document, and the settings that its line names.

        Raises:
            DocumentError: it cannot be read.
        """
        if self.line is None:
            return Document.load(self.file), {}
        settings: dict[str, Any] = {}
        content = self.content
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if key != "name"}
            if "seed" in content:
                settings["seed"] = content.pop("seed")
            if set(content) == {"prompt"}:
                content = content["prompt"]
        if isinstance(content, str):
            return Document([content]), settings
        return Document.from_json(content, folder=self.file.parent), settings


def find_prompts(paths: list[Path]) -> list[Prompt]:
    """Everything that the paths name, in order; folders by name, a file that is named twice once.

    Raises:
        DocumentError: a folder without documents, or a JSONL file that cannot be read.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.stem.lower() != "readme")
            if not found:
                expected = f"expected documents ({', '.join(SUFFIXES)}) in this folder, found none"
                raise DocumentError(f"{path}: {expected}; name a file or another folder.")
            files += found
        else:
            files.append(path)
    prompts: list[Prompt] = []
    for file in dict.fromkeys(files):
        prompts += _lines(file) if file.suffix.lower() == ".jsonl" else [Prompt(file.stem, file)]
    return prompts


def _lines(file: Path) -> Iterator[Prompt]:
    content = decode_utf8(read_file(file, expected="a JSONL file, a document on every line"), str(file))
    lines = [(number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    digits = len(str(len(content.splitlines())))
    for number, line in lines:
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"expected one JSON document, {error}"
            raise DocumentError(f"{file}, line {number}: {problem}; check the quotes and brackets there.") from error
        name = parsed.get("name") if isinstance(parsed, dict) else None
        if name is None:
            name = f"{file.stem}-{number:0{digits}d}"
        elif not isinstance(name, str) or not name or any(sign in name for sign in '/\\:*?"<>|') or name.startswith("."):
            raise DocumentError(f"{file}, line {number}: expected a name that can be a file's, got {name!r:.60}.")
        yield Prompt(name, file, number, parsed)
