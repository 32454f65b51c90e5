"""How the page shows a session, as HTML in the language of its reader; `page.js` joins it to what can be done."""

from __future__ import annotations

import html
from typing import Any
from urllib.parse import quote

from mm_interleaved.document import Image, Segment, Text
from mm_interleaved.errors import MMInterleavedError
from mm_interleaved.export.files import data_uri
from mm_interleaved.generation.events import Finished
from mm_interleaved.serving.labels import words
from mm_interleaved.serving.session import Growing, Session

FILES = "gradio_api/file="
"""Where the page's server hands out saved files."""


def shown(session: Session) -> dict[str, Any]:
    """All that a reader sees, of one moment: whole segments, what grows below them, what is told, and what to tell of a lost server."""
    say = words(session.language)
    with session.lock:
        number, segments = 0, []
        for place, (key, segment) in enumerate(session.segments.items()):
            number += isinstance(segment, Image)
            segments.append(_segment(key, place, number, segment, say))
        growing, told = _growing(session.growing, say), _told(session, say)
        return {"segments": segments, "growing": growing, "told": told, "version": session.version, "lost": _wrong(say["lost"])}


def _segment(key: str, place: int, number: int, segment: Segment, say: dict[str, str]) -> str:
    """A whole segment with what can be done to it.

    Args:
        place: where it stands, from 0.
        number: how many pictures stand up to here.
    """
    acts = ["from_here", "up", "remove"]
    if isinstance(segment, Text):
        label, text = f"{say['paragraph']} {place + 1}", html.escape(segment.text.strip(), quote=True)
        drawn = f'<textarea rows="1" aria-label="{label}" data-text="{text}"></textarea>'
    else:
        name = f"{say['picture']} {number}"
        seed = "" if segment.generation is None else f" · {say['seed_of']} {segment.generation.seed}"
        alt = html.escape(segment.alt or name, quote=True)
        drawn = f'<figure><img src="{data_uri(segment)}" alt="{alt}"><figcaption>{name}{seed}</figcaption></figure>'
        acts = [*(["reroll"] if segment.origin == "generated" else []), *acts]
    tools = "".join(f'<button type="button" data-act="{act}">{say[act]}</button>' for act in acts)
    made = "made" if segment.origin == "generated" else "given"
    return f'<section class="segment {made}" data-key="{key}">{drawn}<div class="tools">{tools}</div></section>'


def _growing(growing: Growing, say: dict[str, str]) -> str:
    """Growing words and the picture on the easel."""
    text = "".join(segment.text for segment in growing.tail if isinstance(segment, Text)).strip()
    drawn = f"<p>{html.escape(text)}</p>" if text else ""
    if event := growing.painting:
        label = f"{say['painting']} {event.step}/{event.steps}"
        picture = "" if growing.preview is None else f'<img src="{data_uri(growing.preview)}" alt="">'
        drawn += f"<figure>{picture}<figcaption>{label}</figcaption></figure>"
        drawn += f'<progress max="{event.steps}" value="{event.step}" aria-label="{label}"></progress>'
    return drawn


def _told(session: Session, say: dict[str, str]) -> str:
    """How the last thing went: what was saved, why a continuation ended and the words that the model never learnt, or what went wrong."""
    news = session.news
    if isinstance(news, MMInterleavedError):
        return _wrong(str(news))
    if isinstance(news, Exception):
        return _wrong(f"{say['fault']} ({type(news).__name__}: {news})")
    if isinstance(news, Finished):
        unknown = [f"{word.word} ({', '.join(word.nearest)})" if word.nearest else word.word for word in news.unknown_words]
        return _note(" ".join([say[news.reason], *([f"{say['unknown']} {'; '.join(unknown)}."] if unknown else [])]))
    if news:
        links = [f'<a href="{FILES}{quote(str(path.resolve()))}" download="{path.name}">{path.suffix[1:]}</a>' for path in news]
        return f'<p role="status">{say["saved"]} {html.escape(str(news[0].with_suffix("")))}: {", ".join(links)}</p>'
    return _note(say["reading"]) if session.running and session.growing == Growing() else ""


def _wrong(text: str) -> str:
    return f'<p class="wrong" role="alert">{html.escape(text)}</p>'


def _note(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'
