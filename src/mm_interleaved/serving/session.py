"""One tab of the page: its document and what can be done with it. Knows nothing of the page's form.

The continuation runs in a thread of its own, so that a browser that goes away, or an error, leaves the document as far as it was made
and the model free. After every run and before every replacement the document is kept as a draft of its own in the output folder, to be
taken up again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mm_interleaved.document import Document, Image, Segment, Text
from mm_interleaved.errors import DocumentError, GenerationError, StorageError
from mm_interleaved.generation.events import Event, Finished, ImageDone, TextDelta
from mm_interleaved.generation.load import Model

DRAFT = "draft-"
"""Files of kept documents begin so."""
DRAFTS_OFFERED = 5
FORMATS = ("html", "md", "json")


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
        self.busy = threading.Lock()
        self.sessions: dict[str, Session] = {}

    def session(self, key: str) -> Session:
        """The session of a tab."""
        return self.sessions.setdefault(key, Session(self))

    def leave(self, key: str) -> None:
        """A tab was closed: what it makes is stopped and kept."""
        session = self.sessions.pop(key, None)
        if session is not None:
            session.stop()
            with suppress(StorageError):
                session.keep()

    def drafts(self) -> list[Path]:
        """The documents that were kept last, newest first."""
        found = [(path.stat().st_mtime, path) for path in self.folder.glob(f"{DRAFT}*.json")]
        return [path for _, path in sorted(found, reverse=True)[:DRAFTS_OFFERED]]


class Session:
    """One tab."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.document = Document()
        self._draft = _new_draft()
        self._whole = 0
        self._keys: list[int] = []
        self._fresh = count()
        self.changing = threading.RLock()
        """Held from finding a place by its key until what stands there is changed."""
        self._running: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def whole(self) -> tuple[Segment, ...]:
        """The segments that no longer grow."""
        return self.document.segments[: self._whole] if self.running else self.document.segments

    @property
    def running(self) -> bool:
        """Whether the document is being continued."""
        return self._running is not None and self._running.is_alive()

    def keyed(self) -> list[tuple[int, Segment]]:
        """The segments that no longer grow, each with a key that it keeps when others are added, moved, edited or removed."""
        with self.changing:
            whole = self.whole
            self._keys = [*self._keys, *islice(self._fresh, max(0, len(whole) - len(self._keys)))][: len(whole)]
            return list(zip(self._keys, whole, strict=True))

    def place(self, key: int) -> int:
        """Where the segment with this key stands now.

        Raises:
            DocumentError: it is gone.
        """
        if key not in self._keys:
            raise DocumentError("this paragraph or picture is no longer in the document; choose one that is.")
        return self._keys.index(key)

    def begin(self, start: Path | None) -> None:
        """Starts from a demonstration or a draft, or (None) anew; what stood here is kept.

        Raises:
            DocumentError: it cannot be read.
            StorageError: what stood here cannot be kept; it stays on the page.
        """
        self._refuse_while_running()
        begun = Document() if start is None else Document.load(start)
        self.keep()
        self.document, self._draft, self._keys = begun, _new_draft(), []

    def begin_hero(self, picture: str | None, name: str, words: tuple[str, str]) -> None:
        """Starts a document about a figure of the user's own.

        Args:
            picture: its file.
            words: what stands before its picture and behind, with "{name}".

        Raises:
            DocumentError: no name, no picture, or one that cannot be read. What stood here stays.
        """
        if picture is None or not name.strip():
            raise DocumentError("a hero needs a picture and a name; give both.")
        figure = self._open(picture)
        self.begin(None)
        before, behind = (text.replace("{name}", name.strip()) for text in words)
        self.document = Document((Text(before), figure, Text(behind)))

    def add(self, text: str, pictures: list[str]) -> None:
        """Appends pictures, then words; all of it or nothing.

        Raises:
            DocumentError: a file is no picture, or too large.
        """
        self._refuse_while_running()
        added: list[Segment] = [self._open(path) for path in pictures]
        if text.strip():
            # Words behind words begin a new paragraph; only the layout sees them as one text.
            before = (*self.document, *added)[-1:]
            added.append(Text(f"\n\n{text}" if isinstance(before[0] if before else None, Text) else text))
        self.document = Document((*self.document, *added))

    def edit(self, index: int, text: str) -> None:
        """Replaces the words of a text; what the user changed is the user's."""
        self._refuse_while_running()
        before = self.document[index]
        if isinstance(before, Text) and text != before.text.strip():
            blank = before.text[: len(before.text) - len(before.text.lstrip())]
            self.document = Document((*self.document.segments[:index], Text(blank + text), *self.document.segments[index + 1 :]))

    def remove(self, index: int) -> None:
        """Takes a segment out."""
        self._refuse_while_running()
        self._arrange([place for place in range(len(self.document)) if place != index])

    def up(self, index: int) -> None:
        """Changes places with the segment before."""
        self._refuse_while_running()
        if index > 0:
            self._arrange([*range(index - 1), index, index - 1, *range(index + 1, len(self.document))])

    def seed_of_next_roll(self, index: int) -> int:
        """The seed after the one that a picture was made with."""
        segment = self.document[index]
        made = segment.generation if isinstance(segment, Image) else None
        return 0 if made is None else made.seed + 1

    def run(self, *, until: int | None = None, **options: Any) -> Iterator[Event]:
        """Continues the document; every event comes when it happens, the last is `Finished`.

        Args:
            until: only the segments before this one stay; the rest is dropped when the continuation has begun.
            **options: fields of `generation.options.Options`.

        Raises:
            GenerationError: another tab is being continued; and all errors of `stream`. The document so far is kept.
        """
        if not self.desk.busy.acquire(blocking=False):
            raise GenerationError("another document is being continued, here or in another tab; stop it, or wait until it is finished.")
        self._stopping.clear()
        self._whole = len(self.document) if until is None else until
        self._keys = self._keys[: self._whole]
        start = self.document if until is None else Document(self.document.segments[:until])
        told: SimpleQueue[Event | Exception] = SimpleQueue()
        self._running = threading.Thread(target=self._work, args=(start, options, told), daemon=True)
        self._running.start()
        try:
            while True:
                event = told.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.stop()  # also when nobody asks for the next event any more

    def stop(self) -> None:
        """Ends the continuation after its present token or step and waits until the document is whole."""
        self._stopping.set()
        if self._running is not None and self._running is not threading.current_thread():
            self._running.join()

    def save(self) -> list[Path]:
        """Writes the document into the output folder in every format; gives the files.

        Raises:
            StorageError: no space, or no permission. The document on the page stays.
        """
        name = time.strftime("page-%Y%m%d-%H%M%S")
        return [self.document.save(self.desk.folder / f"{name}.{form}") for form in FORMATS]

    def keep(self) -> None:
        """Keeps the document for another day.

        Raises:
            StorageError: it cannot be written.
        """
        if len(self.document):
            self.document.save(self.desk.folder / self._draft)

    def _work(self, start: Document, options: dict[str, Any], told: SimpleQueue[Event | Exception]) -> None:
        last: Event | Exception | None = None
        try:
            run = self.desk.model.stream(start, stop=self._stopping.is_set, **options)
            for event in run:
                if isinstance(event, TextDelta | ImageDone | Finished):
                    self.document = run.document
                if isinstance(event, ImageDone):
                    self._whole = len(run.document)
                if isinstance(event, Finished):
                    last = event
                else:
                    told.put(event)
            self.keep()
        except Exception as error:  # handed to whoever reads the events, with its cause
            last = error
        finally:
            self._whole = len(self.document)
            self.desk.busy.release()
            told.put(last or GenerationError("the continuation ended without a result; continue again."))

    def _arrange(self, places: list[int]) -> None:
        """Puts the segments that stand at these places, with their keys, in this order; the others go."""
        keys = [key for key, _ in self.keyed()]
        self.document = Document(self.document[place] for place in places)
        self._keys = [keys[place] for place in places]

    def _refuse_while_running(self) -> None:
        if self.running:
            raise GenerationError("the document is being continued; stop it first.")

    @staticmethod
    def _open(path: str) -> Image:
        try:
            return Image.open(path)
        except DocumentError as error:  # the user knows the file's name, not where the page has put it
            raise DocumentError(str(error).replace(path, Path(path).name)) from error


def _new_draft() -> str:
    return f"{DRAFT}{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.json"
