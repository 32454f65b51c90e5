"""`mmi explain`: which places of the earlier pictures each word and each painted picture looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mm_interleaved.cli.console import JsonOption, Output
from mm_interleaved.cli.continuing import load_quietly
from mm_interleaved.document import Document
from mm_interleaved.errors import ConfigError
from mm_interleaved.export.files import write_atomically


def explain(
    document: Annotated[Path, typer.Argument(help="A document (.md, .json), such as a result of 'mmi generate'.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("out/explain"),
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; by default the model in the box.")] = None,
    word: Annotated[list[str] | None, typer.Option(help="Also draw a PNG for this word, or for the word of this number.")] = None,
    region: Annotated[list[str] | None, typer.Option(help="Also draw a PNG for a region PICTURE,ROW,COLUMN, each from 0.")] = None,
    written: Annotated[bool, typer.Option("--written", help="Look at the moment before a word, when it is predicted.")] = False,
    noise: Annotated[str, typer.Option(help="Shares of noise at which painted pictures are traced.")] = "0.25,0.5,0.75",
    seed: Annotated[int, typer.Option(min=0, help="Seed of that noise.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write a page where words light up what they looked at, the same as JSON, and a PNG for chosen words and regions."""
    from mm_interleaved.data.playground.material.lettering import faces
    from mm_interleaved.export.explain_page import LETTERS, to_html, to_png
    from mm_interleaved.generation.trace import trace_document

    output = Output(as_json=as_json)
    levels = _numbers(noise, float, "--noise: expected shares such as 0.25,0.5,0.75")
    places = [_region(text) for text in region or []]
    read = Document.load(document)
    loaded = load_quietly(model)
    trace = trace_document(loaded.network, loaded.processor, read, noise_levels=levels, seed=seed, model_hash=loaded.model_hash)
    found = trace.explanation("written" if written else "read")
    files = {"html": out / f"{document.stem}.html", "json": out / f"{document.stem}.json"}
    if document.resolve() in {file.resolve() for file in files.values()}:
        raise ConfigError("the result would overwrite the document; choose another output folder (-o).")
    drawings = []
    for text in word or []:
        number = found.find(text)
        drawings.append((f"word-{number}", f"word {number}: {found.words[number].text}", found.readings[number]))
    for image, row, column in places:
        name = f"Picture {image + 1}, row {row + 1}, column {column + 1}"
        drawings.append((f"region-{image}-{row}-{column}", name, found.region(image, row, column)))
    write_atomically(files["html"], to_html(found).encode())
    write_atomically(files["json"], json.dumps(found.to_json(), ensure_ascii=False).encode())
    chinese = [face.at(LETTERS) for use in ("screen", "hand") for face in faces(use, "zh")] if drawings else []
    for key, name, reading in drawings:
        files[key] = out / f"{document.stem}-{key}.png"
        write_atomically(files[key], to_png(found, reading, name, chinese))
        if not reading.looks:
            output.say(f"{name} has no earlier picture to look at")
    blind = sum(not reading.looks for reading in found.readings)
    output.say(
        f"{len(found.words)} words ({blind} without an earlier picture), {len(found.pictures)} painted pictures; open {files['html']}"
    )
    result = {"words": len(found.words), "without_picture": blind, "painted": len(found.pictures), "model_hash": loaded.model_hash}
    output.result({"files": {name: str(file) for name, file in files.items()}, **result})


def _region(text: str) -> tuple[int, int, int]:
    numbers = _numbers(text, int, "--region: expected PICTURE,ROW,COLUMN such as 1,0,3")
    if len(numbers) != 3:
        raise ConfigError(f"--region: expected PICTURE,ROW,COLUMN such as 1,0,3, got {text!r}.")
    return numbers[0], numbers[1], numbers[2]


def _numbers(text: str, kind: Callable[[str], Any], expected: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{expected}, got {text!r}.") from error
