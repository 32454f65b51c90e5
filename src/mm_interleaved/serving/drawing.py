"""How the page shows a session, as HTML in the language of its reader; `page.js` joins it to what can be done."""

from __future__ import annotations

import html
from pathlib import Path
from urllib.parse import quote

from mm_interleaved.document import Image, Segment, Text
from mm_interleaved.errors import MMInterleavedError
from mm_interleaved.export.files import data_uri
from mm_interleaved.generation.events import Finished, ImageProgress
from mm_interleaved.serving.session import Growing

FILES = "gradio_api/file="
"""Where the page's server hands out saved files."""


def segment(key: int, place: int, number: int, segment: Segment, say: dict[str, str]) -> str:
    """A whole segment with what can be done to it.

    Args:
        place: where it stands, from 0.
        number: how many pictures stand up to here.
    """
    acts = ["from_here", "up", "remove"]
    if isinstance(segment, Text):
        label, text = f"{say['paragraph']} {place + 1}", html.escape(segment.text.strip(), quote=True)
        shown = f'<textarea rows="1" aria-label="{label}" data-text="{text}"></textarea>'
    else:
        shown = _figure(segment, f"{say['picture']} {number}", say)
        acts = [*(["reroll"] if segment.origin == "generated" else []), *acts]
    tools = "".join(f'<button type="button" data-act="{act}">{say[act]}</button>' for act in acts)
    made = "made" if segment.origin == "generated" else "given"
    return f'<section class="segment {made}" data-key="{key}">{shown}<div class="tools">{tools}</div></section>'


def growing(made: Growing | None, say: dict[str, str]) -> str:
    """Growing words and the picture on the easel."""
    if made is None:
        return ""
    words = f"<p>{html.escape(made.text.strip())}</p>" if made.text.strip() else ""
    return words + (_easel(made.painting, made.preview, say) if made.painting else "")


def ending(event: Finished, say: dict[str, str]) -> str:
    """Why a continuation ended, and the words of its prompt that the model never learnt."""
    unknown = [f"{word.word} ({', '.join(word.nearest)})" if word.nearest else word.word for word in event.unknown_words]
    return note(" ".join([say[event.reason], *([f"{say['unknown']} {'; '.join(unknown)}."] if unknown else [])]))


def saved(paths: list[Path], say: dict[str, str]) -> str:
    """Where a document was saved, each file to be fetched."""
    links = [f'<a href="{FILES}{quote(str(path.resolve()))}" download="{path.name}">{html.escape(path.name)}</a>' for path in paths]
    return f'<p role="status">{say["saved"]} {html.escape(str(paths[0].parent))}: {", ".join(links)}</p>'


def wrong(error: Exception, say: dict[str, str]) -> str:
    """What went wrong."""
    told = str(error) if isinstance(error, MMInterleavedError) else f"{say['fault']} ({type(error).__name__}: {error})"
    return f'<p class="wrong" role="alert">{html.escape(told)}</p>'


def note(text: str) -> str:
    """A message that nothing is wrong with."""
    return f'<p role="status">{html.escape(text)}</p>'


def _easel(event: ImageProgress, preview: Image | None, say: dict[str, str]) -> str:
    label = f"{say['painting']} {event.step}/{event.steps}"
    picture = "" if preview is None else f'<img src="{data_uri(preview)}" alt="">'
    bar = f'<progress max="{event.steps}" value="{event.step}" aria-label="{label}"></progress>'
    return f"<figure>{picture}<figcaption>{label}</figcaption></figure>{bar}"


def _figure(image: Image, name: str, say: dict[str, str]) -> str:
    seed = "" if image.generation is None else f" · {say['seed_of']} {image.generation.seed}"
    alt = html.escape(image.alt or name, quote=True)
    return f'<figure><img src="{data_uri(image)}" alt="{alt}"><figcaption>{name}{seed}</figcaption></figure>'
