"""A folder of Markdown: every file is one document, `![](dog.png)` its pictures. The form that people write.

A line `<!-- answer -->` in a file ends what is given: what follows it is trained. Without it everything is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from fsspec.core import url_to_fs

from mm_interleaved.data.sources.example import Example, Record, Skip
from mm_interleaved.data.sources.source import Note, Source
from mm_interleaved.document import Document
from mm_interleaved.errors import DataError, DocumentError

ENDINGS = (".md", ".markdown")
ANSWER = "<!-- answer -->"


@dataclass(frozen=True, kw_only=True)
class MarkdownFolder(Source):
    """Documents written by people. `files` are folders or Markdown files."""

    def shards(self) -> tuple[str, ...]:
        """All Markdown files: a shard holds one document."""
        found = tuple(name for name in super().shards() if name.lower().endswith(ENDINGS))
        if not found:
            raise DataError(f"source '{self.name}': no Markdown ({', '.join(ENDINGS)}) in {', '.join(self.files)}.")
        return found

    def records(self, shard: str) -> Iterator[Record]:
        """The file itself."""
        yield Record(shard, {"url": shard})

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        url = record.fields["url"]
        if "://" not in url:
            return self._read(Path(url), record)
        with tempfile.TemporaryDirectory() as folder:
            system, path = url_to_fs(url)
            parent = str(PurePosixPath(path).parent)
            try:
                # A picture may lie anywhere beside or below its document; nothing else of the address is copied.
                for name in system.find(parent):
                    local = Path(folder) / PurePosixPath(name).relative_to(parent)
                    if name == path or local.suffix.lower() not in ENDINGS:
                        local.parent.mkdir(parents=True, exist_ok=True)
                        system.get_file(name, str(local))
            except Exception as error:  # the file system's own
                raise Skip("not readable", f"{url}: {error}") from error
            return self._read(Path(folder) / PurePosixPath(path).name, record)

    def _read(self, path: Path, record: Record) -> Example:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise Skip("not readable", f"{record.place}: {error}") from error
        given, mark, answer = text.partition(ANSWER)
        try:
            if not mark:
                document, prompt = Document.from_markdown(text + "\n", folder=path.parent), 0
            else:
                first = Document.from_markdown(given.rstrip("\n") + "\n", folder=path.parent)
                document, prompt = first + Document.from_markdown(answer.removeprefix("\n") + "\n", folder=path.parent), len(first)
        except DocumentError as error:
            raise Skip("missing image" if "no such file" in str(error) else "broken image", str(error)) from error
        if prompt == len(document):
            raise Skip("no text", "nothing to be trained")
        return self.made(document, record, prompt=prompt)
