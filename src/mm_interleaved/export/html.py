"""Document → one HTML page: self-contained, for a phone, for print and for a screen reader. No script, nothing from outside.

What the model wrote has a bar beside it, or a tint where it goes on in a given paragraph; what it drew says how. Text is shown as simple
Markdown: headings, paragraphs, lists, quotes, code, bold, italic, links. Every character of it is escaped, so it can never become HTML;
a content security policy in the page forbids everything but its own style and pictures besides.
"""

import base64
import hashlib
import html
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby

from mm_interleaved.document import Document, Image, Segment, Text
from mm_interleaved.export.files import data_uri

SMALL_SIDE = 320
"""CSS pixels: a picture whose longer side has fewer is enlarged to this, so that what a small model draws can be seen."""
_LABELS = {
    "en": {
        "given": "given",
        "generated": "generated",
        "seed": "seed {}",
        "steps": "{} steps",
        "model": "model {}",
        "guidance": "guidance {}",
        "by_you": "given",
        "by_model": "written or drawn by the model",
        "picture": "Picture {}",
        "made": "Made with mm-interleaved",
    },
    "zh": {
        "given": "给定",
        "generated": "生成",
        "seed": "种子 {}",
        "steps": "{} 步",
        "model": "模型 {}",
        "guidance": "引导 {}",
        "by_you": "给定",
        "by_model": "由模型书写或绘制",
        "picture": "图 {}",
        "made": "由 mm-interleaved 制作",
    },
}
"""The page's own few words by language; other languages get the English ones."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; {script}base-uri 'none'; form-action 'none'"
# Characters that HTML forbids become the replacement character; one for one, so that offsets stay.
_FORBIDDEN = dict.fromkeys((*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0)), "\ufffd")
_HASH_SHOWN = 8  # letters of a model's fingerprint; the whole is in the tooltip

_FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})[^`]*$")
_HEADING = re.compile(r"[ ]{0,3}(#{1,6})[ \t]+(?=\S)")
_RULE = re.compile(r"[ ]{0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$")
_BULLET = re.compile(r"[ \t]*[-*+•][ \t]+(?=\S)")
_NUMBER = re.compile(r"[ \t]*(\d{1,9})[.)][ \t]+(?=\S)")
_QUOTE = re.compile(r"[ ]{0,3}>[ ]?")
_INLINE = re.compile(
    r"\\(?P<escape>[!-/:-@\[-`{-~])|`(?P<code>[^`\n]+)`|\*\*(?P<strong>(?=\S)[^*\n]*[^*\s])\*\*"
    # Not between letters or digits: 2*3*4 is arithmetic, not emphasis.
    r"|(?<![0-9A-Za-z])\*(?P<star>(?=\S)[^*\n]*[^*\s])\*(?![0-9A-Za-z])"
    r"|(?<!\w)__(?P<strong_>(?=\S)[^_\n]*[^_\s])__(?!\w)|(?<!\w)_(?P<under>(?=\S)[^_\n]*[^_\s])_(?!\w)"
    r"|(?<!!)\[(?P<link>[^\[\]\n]+)\]\((?P<url>(?:https?://|mailto:)[^\s()<>]+)\)"
)


def to_html(document: Document, title: str | None = None, language: str = "en") -> str:
    """The page as a string.

    Args:
        title: shown above the document, and the name of the window; absent: the document's first line names the window.
        language: BCP 47 tag of the document ("en", "zh", …), for screen readers and line breaking.
    """
    label = _LABELS.get(language.lower().split("-")[0], _LABELS["en"])
    generated = any(segment.origin == "generated" for segment in document)
    body: list[str] = []
    if title is not None:
        body.append(f"<h1>{_escape(title)}</h1>")
    if generated:
        body.append(f'<p class="legend"><span>{label["by_you"]}</span><span class="by-model">{label["by_model"]}</span></p>')
    picture_number = 0
    for is_text, run in groupby(document, key=lambda segment: isinstance(segment, Text)):
        members = list(run)
        if is_text:
            body.append(_Texts(members, heading_shift=0 if title is None else 1, label=label["generated"]).render())
        else:
            figures = []
            for member in members:
                picture_number += 1
                figures.append(_figure(member, picture_number, label))
            body.append(f'<div class="pictures{" several" if len(figures) > 1 else ""}">{"".join(figures)}</div>')
    body.append(f"<footer>{label['made']}</footer>")
    return framed("\n".join(body), title if title is not None else _first_line(document), language)


def framed(content: str, title: str, language: str = "en", *, style: str = "", data: str = "", script: str = "") -> str:
    """A whole page around its content. Its policy allows its own style, pictures that stand in it, and this one script.

    Args:
        content: HTML of the main part.
        title: name of the window.
        style: CSS beside that of all pages.
        data: JSON that the script finds in the element `data`.
        script: JavaScript that runs when the content stands.
    """
    allowed = f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'; " if script else ""
    # "<" never stands in the data, so no text can end its element.
    held = data.replace("<", "\\u003c")
    behind = f'<script type="application/json" id="data">{held}</script>\n<script>{script}</script>\n' if script else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{_escape(language)}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY.format(script=allowed)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{_escape(title)}</title>\n<style>\n{resource('page.css')}{style}</style>\n</head>\n"
        f"<body>\n<main>\n{content}\n</main>\n{behind}</body>\n</html>\n"
    )


@cache
def resource(name: str) -> str:
    """A file of style or script that stands beside this one."""
    return files("mm_interleaved.export").joinpath(name).read_text(encoding="utf-8")


def _escape(text: str) -> str:
    return html.escape(text.translate(_FORBIDDEN), quote=True)


def _first_line(document: Document) -> str:
    for text in document.texts:
        for line in text.text.splitlines():
            if words := line.strip(" \t#*_>`-"):
                return words if len(words) <= 70 else f"{words[:69]}…"
    return "mm-interleaved"


def _figure(picture: Segment, number: int, label: dict[str, str]) -> str:
    assert isinstance(picture, Image)
    width, height = picture.size
    enlarged = max(1, round(width * max(1.0, SMALL_SIDE / max(width, height))))
    name = label["picture"].format(number)
    alt = _escape(picture.alt.strip()) or f"{name} ({label[picture.origin]})"
    details = ""
    if (made := picture.generation) is not None:
        shown = made.model_hash if len(made.model_hash) <= _HASH_SHOWN else made.model_hash[:_HASH_SHOWN]
        parts = [label["seed"].format(made.seed), label["steps"].format(made.steps), label["guidance"].format(f"{made.guidance:g}")]
        parts += [made.sampler] if made.sampler not in (None, "plain") else []
        details = "".join(f' <span class="detail">{_escape(part)}</span>' for part in parts)
        if shown:
            details += f' <span class="detail" title="{_escape(made.model_hash)}">{_escape(label["model"].format(shown))}</span>'
    kind = "drawn" if picture.origin == "generated" else "given"
    return (
        f'<figure class="{kind}"><img src="{data_uri(picture)}" alt="{alt}" width="{width}" height="{height}" '
        f'style="width:min(100%,{enlarged}px)">'
        f'<figcaption><span class="badge">{label[picture.origin]}</span>{details}</figcaption></figure>'
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the joined texts, without its line break: offsets of its first character and behind its last."""

    start: int
    end: int


class _Texts:
    """Neighbouring texts shown as one flow: a sentence that the user began and the model went on with stays one paragraph."""

    def __init__(self, texts: list[Segment], *, heading_shift: int, label: str) -> None:
        self._heading_shift = heading_shift
        self._label = label
        self._starts: list[int] = []  # of each text in the joined string
        self._by_model: list[bool] = []
        joined = ""
        for text in texts:
            assert isinstance(text, Text)
            self._starts.append(len(joined))
            self._by_model.append(text.origin == "generated")
            joined += text.text.replace("\r\n", "\n").replace("\r", "\n").translate(_FORBIDDEN)
        self._text = joined

    def render(self) -> str:
        """HTML of all blocks; blocks that are entirely the model's stand together beside one bar."""
        parts: list[str] = []
        for by_model, blocks in groupby(self._blocks(), key=lambda block: block[0]):
            content = "\n".join(block for _, block in blocks)
            parts.append(f'<div class="model" role="group" aria-label="{self._label}">\n{content}\n</div>' if by_model else content)
        return "\n".join(parts)

    def _blocks(self) -> Iterator[tuple[bool, str]]:
        """Each block: whether all of it is the model's, and its HTML."""
        lines = self._lines()
        index = 0
        while index < len(lines):
            first = index
            line = self._content(lines[index])
            if not line.strip():
                index += 1
                continue
            fence, heading, quote = _FENCE.match(line), _HEADING.match(line), _QUOTE.match(line)
            bullet, number = _BULLET.match(line), _NUMBER.match(line)
            index += 1
            if fence is not None:
                mark = fence[1]
                while index < len(lines) and not re.fullmatch(rf"[ ]{{0,3}}{mark[0]}{{{len(mark)},}}[ \t]*", self._content(lines[index])):
                    index += 1
                content = html.escape("\n".join(self._content(inner) for inner in lines[first + 1 : index]))
                index += 1
                by_model, rendered = self._whole(lines[first : min(index, len(lines))]), f'<pre dir="ltr"><code>{content}</code></pre>'
            elif heading is not None:
                level = min(6, len(heading[1]) + self._heading_shift)
                by_model, inner = self._inline([_Line(lines[first].start + heading.end(), lines[first].end)])
                rendered = f'<h{level} dir="auto">{inner}</h{level}>'
            elif _RULE.match(line):
                by_model, rendered = self._whole(lines[first:index]), "<hr>"
            elif quote is not None:
                while index < len(lines) and _QUOTE.match(self._content(lines[index])):
                    index += 1
                by_model, inner = self._inline([self._without(_QUOTE, inner) for inner in lines[first:index]])
                rendered = f'<blockquote dir="auto">{inner}</blockquote>'
            elif bullet is not None or number is not None:
                pattern, tag = (_BULLET, "ul") if bullet is not None else (_NUMBER, "ol")
                while index < len(lines) and pattern.match(self._content(lines[index])):
                    index += 1
                by_model = self._whole(lines[first:index])
                items = "".join(
                    f"<li>{self._inline([self._without(pattern, item)], marked=not by_model)[1]}</li>" for item in lines[first:index]
                )
                start = f' start="{int(number[1])}"' if number is not None and int(number[1]) != 1 else ""
                rendered = f'<{tag}{start} dir="auto">{items}</{tag}>'
            else:
                while index < len(lines) and self._content(lines[index]).strip() and not self._begins_block(self._content(lines[index])):
                    index += 1
                by_model, inner = self._inline(lines[first:index])
                rendered = f'<p dir="auto">{inner}</p>'
            yield by_model, rendered

    def _lines(self) -> list[_Line]:
        lines: list[_Line] = []
        start = 0
        for content in self._text.split("\n"):
            lines.append(_Line(start, start + len(content)))
            start += len(content) + 1
        return lines

    def _content(self, line: _Line) -> str:
        return self._text[line.start : line.end]

    def _without(self, prefix: re.Pattern[str], line: _Line) -> _Line:
        match = prefix.match(self._content(line))
        return line if match is None else _Line(line.start + match.end(), line.end)

    @staticmethod
    def _begins_block(line: str) -> bool:
        return any(pattern.match(line) for pattern in (_FENCE, _HEADING, _RULE, _QUOTE, _BULLET, _NUMBER))

    def _whole(self, lines: list[_Line]) -> bool:
        """Whether every visible character of the lines is the model's."""
        return all(
            by_model or not self._text[start:end].strip() for line in lines for start, end, by_model in self._pieces(line.start, line.end)
        )

    def _inline(self, lines: list[_Line], *, marked: bool | None = None) -> tuple[bool, str]:
        """Whether all of it is the model's, and the HTML; its words are marked one by one only where given ones stand beside them."""
        by_model = self._whole(lines)
        if marked is None:
            marked = not by_model
        return by_model, "<br>\n".join(self._span(line.start, line.end, marked) for line in lines)

    def _span(self, start: int, end: int, marked: bool) -> str:
        parts: list[str] = []
        position = start
        for match in _INLINE.finditer(self._text, start, end):
            parts.append(self._leaf(position, match.start(), marked))
            position = match.end()
            kind = match.lastgroup
            if kind == "url":
                parts.append(
                    f'<a href="{html.escape(match["url"])}" rel="noopener noreferrer">{self._leaf(*match.span("link"), marked)}</a>'
                )
            elif kind == "escape":
                parts.append(self._leaf(*match.span("escape"), marked))
            elif kind == "code":
                parts.append(f"<code>{self._leaf(*match.span('code'), marked)}</code>")
            elif kind in ("strong", "strong_", "star", "under"):
                tag = "strong" if kind.startswith("strong") else "em"
                parts.append(f"<{tag}>{self._span(*match.span(kind), marked)}</{tag}>")
        parts.append(self._leaf(position, end, marked))
        return "".join(parts)

    def _leaf(self, start: int, end: int, marked: bool) -> str:
        parts: list[str] = []
        for piece_start, piece_end, by_model in self._pieces(start, end):
            piece = self._text[piece_start:piece_end]
            words = html.escape(piece.strip())
            if marked and by_model and words:  # the blanks around the words stay outside of the tint
                before, after = piece[: len(piece) - len(piece.lstrip())], piece[len(piece.rstrip()) :]
                parts.append(f"{before}<mark>{words}</mark>{after}")
            else:
                parts.append(html.escape(piece))
        return "".join(parts)

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cuts a range where the origin may change."""
        index = bisect_right(self._starts, start) - 1
        while start < end:
            following = self._starts[index + 1] if index + 1 < len(self._starts) else end
            if following > start:
                yield start, min(end, following), self._by_model[index]
            start = max(start, following)
            index += 1
