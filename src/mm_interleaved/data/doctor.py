"""The data doctor: what a source really holds — every skipped sample by reason, duplicates, sizes, tokens — and a page with samples.

One pass over the files, without training. Nothing is kept but counts and hashes, so it may be run over a whole corpus.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mm_interleaved.data.seeds import random_of
from mm_interleaved.data.sources import Example, Skip, Skips, Source
from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import ConfigError, DataError
from mm_interleaved.export.files import data_uri, write_atomically

SMALL = 64
"""Pixels of the shorter side below which a picture is called small."""

STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:1rem auto;max-width:72rem;padding:0 1rem}
article{border-top:1px solid #ccc;padding:.6rem 0;display:flex;flex-wrap:wrap;gap:.6rem;align-items:center}
img{max-width:160px;max-height:160px;border:1px solid #ddd}.made{color:#05602a;font-weight:600;white-space:pre-wrap}
img.made{border:3px solid #05602a}.given{white-space:pre-wrap}small{flex-basis:100%;color:#555}"""


@dataclass
class Findings:
    """What one source holds."""

    source: str
    shards: int = 0
    records: int = 0
    """Records seen, those with a problem included."""
    documents: int = 0
    """Documents that can be trained on."""
    images: int = 0
    images_per_document: Counter[int] = field(default_factory=Counter)
    small_images: int = 0
    """Pictures whose shorter side is below 64 pixels."""
    characters: int = 0
    repeated_documents: int = 0
    """Documents that are equal to an earlier one."""
    repeated_images: int = 0
    """Pictures whose file is equal to an earlier one."""
    tokens: list[int] = field(default_factory=list)
    """Tokens of each document, where a tokenizer is known."""
    longest: str = ""
    """Where the document with most tokens stands."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Samples and pictures that are not used, by reason."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        tokens = sorted(self.tokens)
        spread = {f"p{share}": tokens[min(len(tokens) - 1, len(tokens) * share // 100)] for share in (50, 90, 99)} if tokens else {}
        return {
            "source": self.source,
            "shards": self.shards,
            "records": self.records,
            "documents": self.documents,
            "images": self.images,
            "images_per_document": {str(count): number for count, number in sorted(self.images_per_document.items())},
            "small_images": self.small_images,
            "characters": self.characters,
            "repeated_documents": self.repeated_documents,
            "repeated_images": self.repeated_images,
            "tokens": {"all": sum(tokens), "largest": tokens[-1], **spread} if tokens else {},
            "longest": self.longest,
            "skipped": self.skipped,
        }


def read_through(
    source: Source, skips: Skips, *, seed: int = 0, limit: int | None = None, seen: Callable[[], None] = lambda: None
) -> Iterator[Example]:
    """Every usable example of one pass over a source, in the order of its files.

    Args:
        skips: gets what is not used.
        limit: records that are looked at; None looks at all.
        seen: told of every record.
    """
    left = limit
    for shard in source.shards():
        if left == 0:
            return
        try:
            for record in islice(source.records(shard), left):
                left = None if left is None else left - 1
                seen()
                try:
                    if record.problem is not None:
                        raise record.problem
                    random = random_of(seed, source.name, 0, record.place)
                    yield source.example(record, random, lambda skip, place=record.place: skips.add(source.name, place, skip))
                except Skip as skip:
                    skips.add(source.name, record.place, skip)
        except Skip as skip:
            skips.add(source.name, shard, skip)


def examine(
    source: Source, skips: Skips, *, count_tokens: Callable[[Example], int] | None = None, seed: int = 0, limit: int | None = None
) -> Findings:
    """Reads a source once and counts.

    Args:
        count_tokens: tokens of an example; it raises `Skip` where the example does not fit the model. None counts none.

    Raises:
        DataError: a source names no files.
    """
    found = Findings(source.name, shards=len(source.shards()))
    documents: set[bytes] = set()
    pictures: set[str] = set()

    def seen() -> None:
        found.records += 1

    for example in read_through(source, skips, seed=seed, limit=limit, seen=seen):
        if count_tokens is not None:
            try:
                tokens = count_tokens(example)
            except Skip as skip:
                skips.add(source.name, example.place, skip)
                continue
            if not found.tokens or tokens > max(found.tokens):
                found.longest = example.place
            found.tokens.append(tokens)
        found.documents += 1
        found.images_per_document[len(example.images)] += 1
        digest = hashlib.blake2b(digest_size=16)
        for segment in example.segments:
            if isinstance(segment, Text):
                found.characters += len(segment.text)
                digest.update(b"t" + segment.text.encode())
                continue
            found.images += 1
            found.small_images += min(segment.size) < SMALL
            found.repeated_images += segment.sha256 in pictures
            pictures.add(segment.sha256)
            digest.update(b"i" + segment.sha256.encode())
        found.repeated_documents += digest.digest() in documents
        documents.add(digest.digest())
    found.skipped = skips.by_reason(source.name)
    return found


def preview(path: Path, sources: Sequence[Source], count: int, *, seed: int = 0) -> dict[str, int]:
    """Writes one page with the first samples of every source: what is given in black, what is trained in green.

    Returns:
        How many samples of each source the page shows.

    Raises:
        StorageError: the page cannot be written.
    """
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>samples</title><style>{STYLE}</style></head><body><h1>Samples</h1>",
        '<p>Black is given, <span class="made">green</span> is trained.</p>',
    ]
    shown = {}
    for source in sources:
        skips = Skips()
        examples = list(islice(read_through(source, skips, seed=seed), count))
        shown[source.name] = len(examples)
        reasons = ", ".join(f"{number} × {reason}" for reason, number in skips.by_reason(source.name).items())
        parts.append(f"<h2>{html.escape(source.name)}</h2>" + (f"<p>Skipped on the way: {html.escape(reasons)}.</p>" if reasons else ""))
        parts += [_article(example) for example in examples]
    write_atomically(path, "\n".join([*parts, "</body></html>\n"]).encode())
    return shown


def convert(source: Source, folder: Path, skips: Skips, *, per_shard: int = 1000, seed: int = 0, limit: int | None = None) -> list[Path]:
    """Writes a source's documents as chat messages in JSON lines, pictures inside: one form for everything, read by kind `messages`.

    Raises:
        DataError: the source has no usable sample.
        ConfigError: `per_shard` is not positive.
        StorageError: a shard cannot be written.
    """
    if per_shard < 1:
        raise ConfigError(f"per_shard: expected at least 1, got {per_shard}.")
    examples = read_through(source, skips, seed=seed, limit=limit)
    written: list[Path] = []
    while chunk := list(islice(examples, per_shard)):
        path = folder / f"{source.name}-{len(written):05d}.jsonl"
        write_atomically(path, "".join(json.dumps(_messages(example), ensure_ascii=False) + "\n" for example in chunk).encode())
        written.append(path)
    if not written:
        raise DataError(f"source '{source.name}': not one usable sample ({skips.by_reason(source.name)}); nothing was written.")
    return written


def _messages(example: Example) -> dict[str, Any]:
    def content(document: Document) -> list[dict[str, Any]]:
        return [
            {"type": "text", "text": segment.text} if isinstance(segment, Text) else {"type": "image", "image": data_uri(segment)}
            for segment in document
        ]

    given, trained = Document(example.segments[: example.prompt]), Document(example.segments[example.prompt :])
    messages = [{"role": "user", "content": content(given)}] if len(given) else []
    return {"messages": [*messages, {"role": "assistant", "content": content(trained)}]}


def _article(example: Example) -> str:
    shown = []
    for number, segment in enumerate(example.segments):
        kind = "made" if number >= example.prompt else "given"
        if isinstance(segment, Image):
            shown.append(f'<img class="{kind}" alt="{kind}, {segment.size[0]} x {segment.size[1]} pixels" src="{data_uri(segment)}">')
        else:
            shown.append(f'<span class="{kind}">{html.escape(segment.text.strip())}</span>')
    return f"<article>{''.join(shown)}<small>{html.escape(example.place)}</small></article>"
