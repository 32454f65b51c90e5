"""Document ⇄ JSON, the chat-API form: a list of text and image parts.

    {"format": "mm-interleaved/document", "version": 1, "segments": [
      {"type": "text", "text": "A cat.", "origin": "given"},
      {"type": "image", "image": "data:image/png;base64,…", "alt": "", "origin": "generated",
       "seed": 7, "model_hash": "1a2b", "steps": 24, "guidance": 3.0, "sampler": "plain"}]}

That is what is written. Read are also: the bare list; a bare string as a text; an image by "path" or "url" (a file or data URI; also in
"image"); the part `{"type": "image_url", "image_url": {"url": "data:…"}}`; `token_ids` of a text. Unknown keys are errors: a misspelt
"origin" would otherwise silently turn a generated picture into a given one.
"""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from mm_interleaved.document import Document, Generation, Image, Segment, Text
from mm_interleaved.errors import DocumentError
from mm_interleaved.export.files import data_uri, decode_utf8, read_reference
from mm_interleaved.picture_file import read_file

FORMAT = "mm-interleaved/document"
VERSION = 1
_DOCUMENT_KEYS = ("format", "version", "segments")
_TEXT_KEYS = ("type", "text", "origin", "token_ids")
_GENERATION_KEYS = ("seed", "model_hash", "steps", "guidance", "sampler")
_NEEDED_KEYS = _GENERATION_KEYS[:-1]  # earlier versions did not record the sampler
_SOURCE_KEYS = ("image", "path", "url", "image_url")
_IMAGE_KEYS = ("type", *_SOURCE_KEYS, "alt", "origin", *_GENERATION_KEYS)


def read(source: object, *, folder: str | os.PathLike[str] | None, allow_files: bool) -> list[Segment]:
    """The segments of a document in JSON; arguments and errors as in `Document.from_json`."""
    where = "JSON document"
    base = Path() if folder is None else Path(folder)
    if isinstance(source, os.PathLike) or (isinstance(source, str) and "\n" not in source and source.lower().endswith(".json")):
        path = Path(source)
        where = str(path)
        base = path.parent if folder is None else base
        source = decode_utf8(read_file(path, expected="a JSON document"), where)
    if isinstance(source, str):
        source = _parse(source, where)
    if isinstance(source, Mapping):
        _check_keys(source, _DOCUMENT_KEYS, where)
        if source.get("format", FORMAT) != FORMAT:
            raise DocumentError(f"{where}: expected the format {FORMAT!r}, got {source['format']!r:.60}.")
        version = source.get("version", VERSION)
        if type(version) is not int or version != VERSION:
            raise DocumentError(
                f"{where}: expected version {VERSION}, got {version!r:.60}; a newer mm-interleaved wrote it, or it is not ours."
            )
        if "segments" not in source:
            raise DocumentError(f'{where}: expected "segments", a list of texts and images.')
        source = source["segments"]
    if not isinstance(source, list | tuple):
        raise DocumentError(f"{where}: expected a list of segments, got {type(source).__name__}.")
    return [_read_segment(part, f"{where}, segments[{index}]", base, allow_files) for index, part in enumerate(source)]


def write(document: Document) -> dict[str, object]:
    """The document as JSON-ready objects, pictures inside."""
    return {"format": FORMAT, "version": VERSION, "segments": [_write_segment(segment) for segment in document]}


def dumps(document: Document) -> str:
    """The document as JSON text, one segment a line."""
    lines = ",\n".join(json.dumps(_write_segment(segment), ensure_ascii=False) for segment in document)
    return f'{{"format": {json.dumps(FORMAT)}, "version": {VERSION}, "segments": [\n{lines}\n]}}\n'


def _parse(source: str, where: str) -> object:
    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(source, parse_constant=refuse_constant)
    # ValueError: also numbers of thousands of digits. RecursionError: thousands of nested brackets.
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where}: not valid JSON ({error}); check it with 'python -m json.tool'.") from error


def _read_segment(part: object, where: str, folder: Path, allow_files: bool) -> Segment:
    if isinstance(part, Text | Image):
        return part
    try:
        if isinstance(part, str):
            return Text(part)
        if not isinstance(part, Mapping):
            raise DocumentError(f'{where}: expected an object with "type", got {type(part).__name__}.')
        kind = part.get("type")
        if kind == "text":
            return _read_text(part, where)
        if kind in ("image", "image_url"):
            return _read_image(part, where, folder, allow_files)
    except DocumentError as error:
        if str(error).startswith(where):
            raise
        raise DocumentError(f"{where}: {error}") from error
    raise DocumentError(f'{where}: expected "type": "text" or "image", got {kind!r:.60}{_nearest(kind, ("text", "image", "image_url"))}.')


def _read_text(part: Mapping[str, object], where: str) -> Text:
    _check_keys(part, _TEXT_KEYS, where)
    token_ids = part.get("token_ids")
    if token_ids is not None and not isinstance(token_ids, list | tuple):
        raise DocumentError(f"{where}: token_ids: expected a list of whole numbers, got {type(token_ids).__name__}.")
    # Text checks types and values itself, and says what it expected.
    return Text(part.get("text"), part.get("origin", "given"), None if token_ids is None else tuple(token_ids))  # type: ignore[arg-type]


def _read_image(part: Mapping[str, object], where: str, folder: Path, allow_files: bool) -> Image:
    _check_keys(part, _IMAGE_KEYS, where)
    sources = [key for key in _SOURCE_KEYS if part.get(key) is not None]
    if len(sources) != 1:
        raise DocumentError(
            f'{where}: expected one of "image" (a data URI) and "path", got {" and ".join(sources) if sources else "neither"}.'
        )
    reference = part[sources[0]]
    if sources[0] == "image_url" and isinstance(reference, Mapping):
        _check_keys(reference, ("url", "detail"), f"{where}, image_url")
        reference = reference.get("url")
    if not isinstance(reference, str):
        raise DocumentError(f"{where}: {sources[0]}: expected a data URI or a path, got {type(reference).__name__}.")
    made = {key: part[key] for key in _GENERATION_KEYS if part.get(key) is not None}
    missing = [key for key in _NEEDED_KEYS if key not in made]
    if made and missing:
        needed = ", ".join(_NEEDED_KEYS)
        raise DocumentError(f"{where}: {', '.join(made)} without {', '.join(missing)}; a generated picture has all of {needed}, or none.")
    found = read_reference(reference, folder=folder, where=where, allow_files=allow_files)
    generation = Generation(**made) if made else None  # type: ignore[arg-type]
    return found.described(alt=part.get("alt", ""), origin=part.get("origin", "given"), generation=generation)  # type: ignore[arg-type]


def _write_segment(segment: Segment) -> dict[str, object]:
    if isinstance(segment, Text):
        written: dict[str, object] = {"type": "text", "text": segment.text, "origin": segment.origin}
        if segment.token_ids is not None:
            written["token_ids"] = list(segment.token_ids)
        return written
    written = {"type": "image", "image": data_uri(segment), "alt": segment.alt, "origin": segment.origin}
    if segment.generation is not None:
        made = {key: getattr(segment.generation, key) for key in _GENERATION_KEYS}
        written |= {key: value for key, value in made.items() if value is not None}
    return written


def _check_keys(part: Mapping[str, object], known: Iterable[str], where: str) -> None:
    known = tuple(known)
    for key in part:
        if key not in known:
            raise DocumentError(f"{where}: unknown key {str(key)[:60]!r}{_nearest(key, known)}; known are {', '.join(known)}.")


def _nearest(name: object, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name)[:60], known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
