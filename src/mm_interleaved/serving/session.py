"""One tab of the page: its document, what its reader can do with it, and how that went. Knows nothing of the page's form.

The continuation runs in a thread of its own, so that a browser that goes away, or an error, leaves the document as far as it was made
and the model free. Everything that a reader sees stands in the session, under one lock: whoever shows it looks whenever it likes, and
what it sees is of one moment. After every run, before every replacement and when its reader goes away the document is kept as a draft
of its own in the output folder, to be taken up again.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mm_interleaved.document import Document, Image, Segment, Text
from mm_interleaved.errors import DocumentError, GenerationError, StorageError
from mm_interleaved.generation.events import Finished, ImageDone, ImageProgress
from mm_interleaved.generation.load import Model
from mm_interleaved.picture_file import READABLE, read_file
from mm_interleaved.serving.labels import Language, words

ACTS = ("set", "begin", "begin_hero", "add", "edit", "up", "remove", "go_on", "from_here", "reroll", "save")
"""What a reader can ask for, beside `stop`: methods of a session, whose arguments come from the browser."""
WHILE_RUNNING = ("set", "edit", "save")
"""What can be done while the document is continued."""
BUSY = "another document is being continued, here or in another tab; stop it, or wait until it is finished."
DRAFTS_OFFERED = 5
FORMATS = ("html", "md", "json")
PREVIEWS = 5
"""Previews of a picture while it is painted."""


@dataclass
class Growing:
    """What is being made and is not yet whole."""

    tail: tuple[Segment, ...] = ()
    """The words behind the last whole segment."""
    painting: ImageProgress | None = None
    """The picture on the easel."""
    preview: Image | None = None
    """What it looked like last."""


class Desk:
    """What all tabs share: the model, which continues one document at a time, and the folder."""

    def __init__(self, model: Model, folder: Path, demonstrations: Sequence[Path] = ()) -> None:
        """
        Args:
            folder: where documents are saved and kept.
            demonstrations: documents that a page can start from.
        """
        self.model = model
        self.folder = folder
        self.demonstrations = tuple(demonstrations)
        self.uploads = folder
        """The only folder that pictures are read from; whoever receives them sets it."""
        self.busy = threading.Lock()
        self.sessions: dict[str, Session] = {}

    def session(self, tab: str) -> Session:
        """The session of a tab. A tab that outlived the server that knew it finds its last draft in its new session.

        Args:
            tab: letters and digits that the tab keeps while it is open, also when it is loaded anew.
        """
        if tab not in self.sessions:
            self.sessions.setdefault(tab, Session(self, tab))
        return self.sessions[tab]

    def drafts(self) -> list[Path]:
        """The documents that were kept last, newest first."""
        found = [(path.stat().st_mtime_ns, path) for path in self.folder.glob("draft-*.json")]
        return [path for _, path in sorted(found, reverse=True)[:DRAFTS_OFFERED]]


class Session:
    """One tab."""

    def __init__(self, desk: Desk, tab: str) -> None:
        self.desk = desk
        self.tab = tab
        self.language: Language = "en"
        self.options: dict[str, Any] = {}
        """Fields of `generation.options.Options` for the next continuation."""
        self.segments: dict[str, Segment] = {}
        """The whole segments in their order, each under a key that it keeps when others are added, moved, edited or removed."""
        self.growing = Growing()
        """What the running continuation makes."""
        self.running = False
        """Whether the document is being continued."""
        self.news: Finished | Exception | list[Path] | None = None
        """How the last thing that was asked for, or the last continuation, went: files are those that were saved."""
        self.version = 0
        """Grows with every change of what a reader sees."""
        self.lock = threading.RLock()
        """Held while anything here is changed, and by whoever looks at more than one thing."""
        self._worker: threading.Thread | None = None
        self._stopping = threading.Event()
        self._kept = Document()
        self._begin(self._kept)
        if drafts := sorted(desk.folder.glob(f"draft-*-{tab}.json")):
            with suppress(DocumentError):
                self._begin(Document.load(drafts[-1]))
                self._draft = drafts[-1]

    @property
    def document(self) -> Document:
        """Everything that stands here, growing words included."""
        return Document((*self.segments.values(), *self.growing.tail))

    def leave(self) -> None:
        """Its reader has gone: what it makes is stopped and kept."""
        self.stop()
        with suppress(StorageError):
            self.keep()

    def ask(self, act: str, **given: Any) -> bool:
        """Does what a reader asks for, and leaves in `news` how it went. Whether it was done.

        Args:
            act: one of `ACTS`, or `stop`.
            **given: its arguments.
        """
        if act == "stop":
            self.stop()  # not under the lock: the continuation needs it to end
            return True
        with self.lock:
            self.version += 1
            try:
                if act not in ACTS:
                    raise ValueError(f"the page has no act {act!r}")
                if self.running and act not in WHILE_RUNNING:
                    raise GenerationError("the document is being continued; stop it first.")
                news = getattr(self, act)(**given)
            except Exception as error:
                self.news = error
                return False
            if act not in ("edit", "set"):
                self.news = news
            return True

    def set(self, language: Language, **options: float) -> None:
        """Changes the language of the page and the options of the next continuation."""
        self.language, self.options = "zh" if language == "zh" else "en", options

    def begin(self, start: str) -> None:
        """Starts from a demonstration or a draft, or ("") anew; what stood here is kept.

        Raises:
            DocumentError: it is not among those that are offered, or cannot be read.
            StorageError: what stood here cannot be kept; it stays on the page.
        """
        if start and Path(start) not in self.desk.demonstrations and Path(start).parent != self.desk.folder:
            raise DocumentError(f"{start} is not offered here; choose from the list.")
        begun = Document.load(start) if start else Document()
        self.keep()
        self._begin(begun)

    def begin_hero(self, text: str, pictures: Sequence[str], name: str) -> None:
        """Starts a document about a figure of the user's own, as `begin` does, and continues it.

        Args:
            text: more words for the model, or none.
            pictures: files of the figure.
            name: of the figure.

        Raises:
            DocumentError: no name, no picture, or one that cannot be read. What stood here stays.
        """
        if not pictures or not name.strip():
            raise DocumentError("a hero needs a picture and a name; give both.")
        if self.desk.busy.locked():
            raise GenerationError(BUSY)
        before, behind = (words(self.language)[label].replace("{name}", name.strip()) for label in ("hero_before", "hero_behind"))
        hero = _keyed(Text(before), *map(self._open, pictures), Text(f"{behind}\n\n{text}".strip()))
        self.begin("")
        self._start(hero)

    def add(self, text: str, pictures: Sequence[str]) -> None:
        """Appends pictures, then words; all of it or nothing.

        Raises:
            DocumentError: a file is no picture, or too large, or was not uploaded.
        """
        self.segments |= self._composed(text, pictures)

    def edit(self, key: str, text: str) -> None:
        """Replaces the words of a text; what the user changed is the user's. A running continuation has read the old ones."""
        before = self._segment(key)
        if isinstance(before, Text) and text != before.text.strip():
            blank = before.text[: len(before.text) - len(before.text.lstrip())]
            self.segments[key] = Text(blank + text)

    def remove(self, key: str) -> None:
        """Takes a segment out."""
        self._segment(key)
        del self.segments[key]

    def up(self, key: str) -> None:
        """Changes places with the segment before."""
        before = self._before(key)
        if before:
            before.popitem()
            self.segments = before | {key: self.segments[key]} | self.segments

    def go_on(self, text: str, pictures: Sequence[str]) -> None:
        """Appends as `add` does and continues the document."""
        self._start(self.segments | self._composed(text, pictures))

    def from_here(self, key: str) -> None:
        """Continues behind a segment; what followed it is dropped when the continuation has begun."""
        self._start(self._before(key) | {key: self.segments[key]})

    def reroll(self, key: str) -> None:
        """Draws a picture anew with the seed after its own; what followed it is dropped when the continuation has begun."""
        made = getattr(self._segment(key), "generation", None)
        most = max(1, self.options.get("max_images", 1))
        self._start(self._before(key), seed=0 if made is None else made.seed + 1, max_images=most, force_image=True)

    def stop(self) -> None:
        """Ends the continuation after its present token or step and waits until the document is whole."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.join()

    def save(self) -> list[Path]:
        """Writes the document into the output folder in every format; gives the files.

        Raises:
            StorageError: no space, or no permission. The document on the page stays.
        """
        file = self._file("page")
        return [self.document.save(file.with_suffix(f".{form}")) for form in FORMATS]

    def keep(self) -> None:
        """Keeps the document for another day.

        Raises:
            StorageError: it cannot be written.
        """
        with self.lock:
            if self.document not in (Document(), self._kept):
                self.document.save(self._draft)
                self._kept = self.document

    def _start(self, segments: dict[str, Segment], **changes: Any) -> None:
        """Begins to continue these segments, which may be new ones; `growing`, then `news`, tell how it goes.

        Args:
            **changes: options that differ from those that are set.
        """
        if not self.desk.busy.acquire(blocking=False):
            raise GenerationError(BUSY)
        self._stopping.clear()
        self.segments |= segments
        self.running = True
        self._worker = threading.Thread(target=self._continue, args=(dict(segments), self.options | changes), daemon=True)
        self._worker.start()

    def _continue(self, start: dict[str, Segment], options: dict[str, Any]) -> None:
        news: Finished | Exception = GenerationError("the continuation ended without a result; continue again.")
        try:
            options.setdefault("preview_every", max(1, options.get("steps", 1) // PREVIEWS))
            run = self.desk.model.stream(Document(start.values()), stop=self._stopping.is_set, **options)
            with self.lock:
                last = next(reversed(start))
                if isinstance(start[last], Text) and start[last].origin == "generated":  # the model goes on with its own words
                    self.growing.tail = (start.pop(last),)
                self.segments = {key: segment for key, segment in self.segments.items() if key in start}
            whole = len(start)
            for event in run:
                with self.lock:
                    self.growing.tail = run.document.segments[whole:]
                    if isinstance(event, ImageProgress):
                        self.growing.painting = event
                        if event.preview is not None:
                            self.growing.preview = Image.from_array(np.asarray(event.preview))
                    elif isinstance(event, ImageDone):
                        whole = len(run.document)
                        self._settle()
                    elif isinstance(event, Finished):
                        news = event
                    self.version += 1
            self.keep()
        except Exception as error:  # told by whoever shows the session
            news = error
        finally:
            with self.lock:
                self._settle()
                self.desk.busy.release()
                self.running, self.news, self.version = False, news, self.version + 1

    def _settle(self) -> None:
        """What has grown is whole."""
        self.segments |= _keyed(*self.growing.tail)
        self.growing = Growing()

    def _begin(self, document: Document) -> None:
        self.segments, self._draft, self._kept = _keyed(*document), self._file("draft"), document

    def _composed(self, text: str, pictures: Sequence[str]) -> dict[str, Segment]:
        """Pictures, then words, as segments to be appended."""
        opened = [self._open(path) for path in pictures]
        # Words behind words begin a new paragraph; only the layout sees them as one text.
        behind_words = not opened and isinstance(next(reversed(self.segments.values()), None), Text)
        return _keyed(*opened, *([Text(f"\n\n{text}" if behind_words else text)] if text.strip() else []))

    def _segment(self, key: str) -> Segment:
        if key not in self.segments:
            raise DocumentError("this paragraph or picture is no longer in the document; choose one that is.")
        return self.segments[key]

    def _before(self, key: str) -> dict[str, Segment]:
        """The segments before this one."""
        self._segment(key)
        return dict(islice(self.segments.items(), list(self.segments).index(key)))

    def _open(self, path: str) -> Image:
        if self.desk.uploads not in Path(path).resolve().parents:
            raise DocumentError("a picture was not uploaded here; paste or drop it again.")
        name = Path(path).name  # the user knows it, not where the page has put it
        return Image.from_bytes(read_file(Path(path), expected=READABLE, where=name), where=name)

    def _file(self, kind: str) -> Path:
        """A file of this kind in the output folder that no other document has."""
        return self.desk.folder / f"{kind}-{datetime.now():%Y%m%d-%H%M%S-%f}-{self.tab}.json"


def _keyed(*segments: Segment) -> dict[str, Segment]:
    return {secrets.token_hex(4): segment for segment in segments}
