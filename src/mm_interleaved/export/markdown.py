"""Document ⇄ Markdown: `![alt](path)` is a picture, everything else is text, kept verbatim.

Reading
    - A picture is `![alt](path "title")`; also `<path with spaces>`, a path with spaces as it is, percent-encoding, and data URIs.
      Without alt text the title takes its place. Relative paths start at the file's folder.
    - Pictures in fenced or inline code and in HTML comments, and `\\![…](…)`, stay text; so do reference links and `<img>`.
    - One blank line (or one line break) between a picture and its neighbour separates them and belongs to neither; blanks alone between
      pictures are layout, not text. The line break that ends the file belongs to the file. Line ends become "\\n".
    - Comments that begin with `<!-- mmi` carry what Markdown has no words for. Others are text.

Writing
    - Segments are separated by one blank line. A picture that the model drew is followed by how it was made:
      `<!-- mmi picture generated seed=7 model_hash=1a2b steps=24 guidance=3.0 sampler=plain -->`
    - A text is preceded by a comment where it would not be read back the same: `<!-- mmi text generated -->` for words of the model (with
      `token_ids=[…]` where known), `<!-- mmi text given -->` between neighbouring texts, and `escaped` where its own characters would be
      taken for a picture, a comment or code that swallows what follows.

So a written document is read back equal, whatever is in it, and what is read from Markdown by hand is written and read back equal too.
"""

import difflib
import html
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mm_interleaved.document import ORIGINS, Document, Generation, Image, Origin, Segment, Text
from mm_interleaved.errors import DocumentError
from mm_interleaved.export.files import data_uri, decode_utf8, read_reference, write_atomically
from mm_interleaved.picture_file import SUFFIXES, read_file

# Where text may stop being plain: an escaped character, the start of a fenced block, a run of backticks, a comment, a picture.
_MARK = re.compile(
    r"\\[!-/:-@\[-`{-~]|^[ ]{0,3}(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})[^\n]*$|(?P<code>`+)|(?P<comment><!--)|(?P<picture>!\[)", re.MULTILINE
)
_GAP = r"[ \t]*\n?[ \t]*"
# Possessive quantifiers (++, *+): no backtracking, so no input takes more than linear time.
_ALT = r"!\[(?P<alt>(?:[^\[\]\\\n]++|\\.|\n(?![ \t]*\n)|\[(?:[^\[\]\\\n]++|\\.)*+\])*+)\]"
_PATH = r"""(?:<(?P<quoted>[^<>\n]*+)>|(?P<bare>(?!<)(?:[^\s()\\]++|\\.|[ \t]++(?!["'(\n)])|\([^()\n]*+\))*+))"""
_TITLE = r"""(?:"(?P<double>(?:[^"\\\n]++|\\.)*+)"|'(?P<single>(?:[^'\\\n]++|\\.)*+)')"""
_PICTURE = re.compile(rf"{_ALT}\({_GAP}{_PATH}(?:{_GAP}{_TITLE})?{_GAP}\)")
_PICTURE_NOTE = re.compile(_GAP + r"<!--[ \t]*mmi[ \t]+(?P<note>picture\b.*?)-->")
_NOTE = re.compile(r"<!--[ \t]*mmi\b(?P<note>.*?)-->", re.DOTALL)
_NOTE_WORD = re.compile(r'([A-Za-z_]+)(?:=("(?:[^"\\]|\\.)*"|[^\s"]+))?(?:\s+|$)')
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_UNESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])|(&#?\w+;)")
_PICTURE_WORDS = ("seed", "model_hash", "steps", "guidance", "sampler")
_NEEDED_WORDS = _PICTURE_WORDS[:-1]  # earlier versions did not record the sampler
_MAX_BACKTICKS = 32
_TEXT_WORDS = ("token_ids", "escaped")


@dataclass(frozen=True, slots=True)
class _Anchor:
    """A picture or a text comment found in Markdown: what ends one text and begins the next."""

    start: int
    end: int
    picture: re.Match[str] | None
    note: str | None


def read(source: str | os.PathLike[str], *, folder: str | os.PathLike[str] | None) -> list[Segment]:
    """The segments of a Markdown document; arguments and errors as in `Document.from_markdown`."""
    where = "Markdown"
    base = Path() if folder is None else Path(folder)
    if isinstance(source, os.PathLike) or ("\n" not in source and source.lower().endswith((".md", ".markdown", ".txt"))):
        path = Path(source)
        where = str(path)
        base = path.parent if folder is None else base
        source = decode_utf8(read_file(path, expected="a Markdown document"), where)
    markdown = source.replace("\r\n", "\n").removesuffix("\n")
    anchors, _ = _scan(markdown)
    segments: list[Segment] = []
    open_note: dict[str, str] | None = None  # of the comment before the current text
    position = line = 0
    for index, anchor in enumerate([*anchors, None]):
        text = markdown[position : len(markdown) if anchor is None else anchor.start]
        if index and open_note is None:
            text = text.removeprefix("\n\n" if text.startswith("\n\n") else "\n")
        elif open_note is not None:
            text = text.removeprefix("\n")
        if anchor is not None:
            text = text.removesuffix("\n\n" if text.endswith("\n\n") else "\n")
        if open_note is not None:
            segments.append(_noted_text(text, open_note, f"{where}, line {line}"))
        elif text.strip():
            segments.append(Text(text))
        if anchor is None:
            break
        line = markdown.count("\n", 0, anchor.start) + 1
        here = f"{where}, line {line}"
        if anchor.picture is None:
            open_note = _read_note(anchor.note or "", "text", _TEXT_WORDS, here)
        else:
            open_note = None
            segments.append(_read_picture(anchor.picture, anchor.note, base, here))
        position = anchor.end
    return segments


def write(document: Document) -> str:
    """The document as Markdown, pictures inside as data URIs."""
    return _write(document, lambda index, picture: data_uri(picture))


def save(document: Document, path: Path) -> None:
    """Writes the Markdown file, and its pictures into NAME_images/ beside it.

    A picture's file is named by its content, so an older document of the same name stays whole until the new one replaces it.

    Raises:
        StorageError: a file cannot be written.
    """
    folder = f"{path.stem}_images"

    def write_picture(index: int, picture: Image) -> str:
        name = f"{index:02d}-{picture.sha256[:12]}{SUFFIXES[picture.media_type]}"
        write_atomically(path.parent / folder / name, picture.data)
        return f"{folder}/{name}"

    write_atomically(path, _write(document, write_picture).encode("utf-8"))


def _write(document: Document, reference: Callable[[int, Image], str]) -> str:
    blocks: list[str] = []
    pictures = 0
    after_text = False
    for segment in document:
        if isinstance(segment, Text):
            blocks.append(_write_text(segment, after_text))
        else:
            pictures += 1
            blocks.append(_write_picture(segment, reference(pictures, segment)))
        after_text = isinstance(segment, Text)
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _write_text(segment: Text, after_text: bool) -> str:
    anchors, open_ended = _scan(segment.text)
    words: list[str] = [segment.origin]
    if segment.token_ids is not None:
        words.append(f"token_ids=[{','.join(map(str, segment.token_ids))}]")
    text = segment.text
    if anchors or open_ended or "\r" in text:
        words.append("escaped")
        text = re.sub(r"[\\`~]|!(?=\[)|<(?=!--)", r"\\\g<0>", text).replace("\r", "\\r")
    plain = words == ["given"] and not after_text and text.strip() and not text.startswith("\ufeff")
    return text if plain else f"<!-- mmi text {' '.join(words)} -->\n{text}"


def _write_picture(picture: Image, reference: str) -> str:
    alt = re.sub(r"[\\\[\]]|&(?=#?\w+;)", r"\\\g<0>", picture.alt).replace("\n", "&#10;").replace("\r", "&#13;")
    if not reference.startswith("data:"):
        # Only what would end or change the path is encoded: names in any script stay readable.
        reference = re.sub(r"[<>%\\\x00-\x1f\ud800-\udfff]", lambda match: quote(match[0], errors="surrogateescape"), reference)
        reference = f"./{reference}" if ":" in reference else reference
        reference = f"<{reference}>" if re.search(r"""[\s()"']""", reference) else reference
    written = f"![{alt}]({reference})"
    if picture.origin == "given":
        return written
    words: list[str] = [picture.origin]
    if picture.generation is not None:
        made = {name: getattr(picture.generation, name) for name in _PICTURE_WORDS}
        words += [f"{name}={_word(value)}" for name, value in made.items() if value is not None]
    return f"{written}\n<!-- mmi picture {' '.join(words)} -->"


def _word(value: object) -> str:
    bare = str(value)
    if re.fullmatch(r"[\w.:/+-]+", bare) and "--" not in bare:
        return bare
    return json.dumps(value).replace(">", "\\u003e").replace("--", "-\\u002d")


def _scan(markdown: str) -> tuple[list[_Anchor], bool]:
    """Finds pictures and our comments; also whether code or a comment is still open at the end, and would swallow what follows."""
    anchors: list[_Anchor] = []
    open_ended = False
    last_comment_end = markdown.rfind("-->")
    position = paragraph_end = 0
    while mark := _MARK.search(markdown, position):
        position = mark.end()
        if fence := mark["fence"]:
            closing = re.compile(rf"^[ ]{{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*$", re.MULTILINE).search(markdown, position)
            if closing is None:
                return anchors, True
            position = closing.end()
        elif code := mark["code"]:
            # A code span ends within its paragraph, at a run of the same length; otherwise the backticks are just characters. So are longer
            # runs than anybody types: looking for the end of each length in turn would take a hostile document O(n^1.5).
            if len(code) > _MAX_BACKTICKS:
                continue
            if position > paragraph_end:
                blank = _BLANK_LINE.search(markdown, position)
                paragraph_end = blank.start() if blank else len(markdown)
            closing = re.compile(rf"(?<!`){code}(?!`)").search(markdown, position, paragraph_end)
            position = closing.end() if closing else position
        elif mark["comment"]:
            if last_comment_end < position:
                open_ended = True  # no comment yet, but what follows could close it
                continue
            if note := _NOTE.match(markdown, mark.start()):
                anchors.append(_Anchor(note.start(), note.end(), None, note["note"].strip()))
            position = markdown.index("-->", position) + len("-->")
        elif mark["picture"] and (picture := _PICTURE.match(markdown, mark.start())):
            note = _PICTURE_NOTE.match(markdown, picture.end())
            position = note.end() if note else picture.end()
            anchors.append(_Anchor(picture.start(), position, picture, note["note"].strip() if note else None))
    return anchors, open_ended


def _read_picture(picture: re.Match[str], note: str | None, folder: Path, where: str) -> Image:
    title = picture["double"] if picture["double"] is not None else picture["single"]
    alt = _unescape(picture["alt"]) or _unescape(title or "")
    reference = picture["quoted"] if picture["quoted"] is not None else picture["bare"]
    found = read_reference(_unescape(reference), folder=folder, where=where)
    if note is None:
        return found.described(alt=alt, origin="given")
    words = _read_note(note, "picture", _PICTURE_WORDS, where)
    origin: Origin = "generated" if words.pop("origin") == "generated" else "given"
    missing = [name for name in _NEEDED_WORDS if name not in words]
    if words and missing:
        raise DocumentError(
            f"{where}: the comment after the picture lacks {', '.join(missing)}; it has all of {', '.join(_NEEDED_WORDS)}, or none."
        )
    try:
        generation = None
        if words:
            numbers = int(words["seed"]), words["model_hash"], int(words["steps"]), float(words["guidance"])
            generation = Generation(*numbers, words.get("sampler"))
        return found.described(alt=alt, origin=origin, generation=generation)
    except (ValueError, DocumentError) as error:
        raise DocumentError(f"{where}: the comment after the picture is wrong ({error}); correct or delete it.") from error


def _noted_text(text: str, words: dict[str, str], where: str) -> Text:
    if "escaped" in words:
        text = re.sub(r"\\(.)", lambda match: "\r" if match[1] == "r" else match[1], text, flags=re.DOTALL)
    try:
        token_ids = json.loads(words["token_ids"]) if "token_ids" in words else None
        if token_ids is not None and not isinstance(token_ids, list):
            raise ValueError("token_ids is not a list")
        return Text(text, "generated" if words["origin"] == "generated" else "given", None if token_ids is None else tuple(token_ids))
    except (ValueError, RecursionError, DocumentError) as error:
        raise DocumentError(f"{where}: the comment before the text is wrong ({error}); correct or delete it.") from error


def _read_note(note: str, kind: str, known: tuple[str, ...], where: str) -> dict[str, str]:
    """The words of one of our comments: its origin and what is said about it.

    Raises:
        DocumentError: not of this kind, or a word that is not known.
    """
    form = f"<!-- mmi {kind} given|generated {' '.join(known)} -->"
    words: dict[str, str] = {}
    position = 0
    for allowed in ((kind,), ORIGINS):
        match = _NOTE_WORD.match(note, position)
        if match is None or match[2] is not None or match[1] not in allowed:
            place = " A picture's comment stands right behind its picture." if note.startswith("picture") and kind == "text" else ""
            raise DocumentError(f"{where}: expected the comment {form!r}, got '<!-- mmi {note[:60]} -->'.{place}")
        words["origin"] = match[1]
        position = match.end()
    while position < len(note):
        match = _NOTE_WORD.match(note, position)
        if match is None or match[1] not in known:
            name = note[position:].split(maxsplit=1)[0][:40].split("=")[0]
            close = difflib.get_close_matches(name, known, n=1)
            nearest = f" (did you mean {close[0]!r}?)" if close else ""
            raise DocumentError(f"{where}: unknown word {name!r}{nearest} in the comment '<!-- mmi {note[:60]} -->'; expected {form!r}.")
        value = match[2] or ""
        if value.startswith('"'):
            try:
                value = str(json.loads(value))
            except ValueError as error:
                raise DocumentError(f"{where}: {match[1]} in the comment is wrong ({error}); correct or delete it.") from error
        words[match[1]] = value
        position = match.end()
    return words


def _unescape(text: str) -> str:
    return _UNESCAPE.sub(lambda match: match[1] or html.unescape(match[2]), text)
