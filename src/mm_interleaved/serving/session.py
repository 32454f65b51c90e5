"""One tab of the page: its document and what can be done with it. Knows nothing of the page's form.

The continuation runs in a thread of its own, so that a browser that goes away, or an error, leaves the document as far as it was made
and the model free. Everything that a reader sees of it stands in the session, under one lock: whoever shows it looks whenever it likes,
and what it sees is of one moment. After every run and before every replacement the document is kept as a draft of its own in the output
folder, to be taken up again.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from mm_interleaved.document import Document, Image, Segment, Text
from mm_interleaved.errors import DocumentError, GenerationError, StorageError
from mm_interleaved.generation.events import Event, Finished, ImageDone, ImageProgress, TextDelta
from mm_interleaved.generation.load import Model

DRAFT = "draft-"
"""Files of kept documents begin so."""
DRAFTS_OFFERED = 5
FORMATS = ("html", "md", "json")


@dataclass
class Growing:
    """What is being made and is not yet a whole segment."""

    text: str = ""
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

    def drafts(self, *, every: bool = False) -> list[Path]:
        """The documents that were kept, newest first; the last few, or `every` one."""
        found = [(path.stat().st_mtime_ns, path) for path in self.folder.glob(f"{DRAFT}*.json")]
        return [path for _, path in sorted(found, reverse=True)[: None if every else DRAFTS_OFFERED]]


class Session:
    """One tab."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.document = Document()
        self.growing: Growing | None = None
        """What the running continuation makes; None before its first word or step, and when nothing runs."""
        self.outcome: Finished | Exception | None = None
        """How the last continuation ended; None while one runs."""
        self.running = False
        """Whether the document is being continued."""
        self.lock = threading.RLock()
        """Held while anything here is changed, and by whoever looks at more than one thing."""
        self._draft = _new_draft()
        self._kept = Document()
        self._whole = 0
        self._keys: list[int] = []
        self._fresh = count()
        self._worker: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def whole(self) -> tuple[Segment, ...]:
        """The segments that no longer grow."""
        return self.document.segments[: self._whole] if self.running else self.document.segments

    def keyed(self) -> list[tuple[int, Segment]]:
        """The segments that no longer grow, each with a key that it keeps when others are added, moved, edited or removed."""
        with self.lock:
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
        self.document, self._draft, self._keys, self._kept = begun, _new_draft(), [], begun

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

    def start(self, *, until: int | None = None, **options: Any) -> None:
        """Begins to continue the document; `growing`, then `outcome`, tell how it goes.

        Args:
            until: only the segments before this one stay; the rest is dropped when the continuation has begun.
            **options: fields of `generation.options.Options`.

        Raises:
            GenerationError: a document is being continued, here or in another tab.
        """
        if not self.desk.busy.acquire(blocking=False):
            raise GenerationError("another document is being continued, here or in another tab; stop it, or wait until it is finished.")
        with self.lock:
            self._stopping.clear()
            self._whole = len(self.document) if until is None else until
            self._keys = self._keys[: self._whole]
            self.running, self.growing, self.outcome = True, None, None
            start = Document(self.document.segments[: self._whole])
            self._worker = threading.Thread(target=self._work, args=(start, options), daemon=True)
            self._worker.start()

    def wait(self) -> Finished:
        """Waits until the continuation has ended.

        Raises:
            Exception: what it ended with. The document so far is kept.
        """
        if self._worker is not None:
            self._worker.join()
        if not isinstance(self.outcome, Finished):
            raise self.outcome or GenerationError("nothing was continued; continue first.")
        return self.outcome

    def stop(self) -> None:
        """Ends the continuation after its present token or step and waits until the document is whole. Not under the lock."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.join()

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
        with self.lock:
            if self.document in (Document(), self._kept):
                return
            path = self.document.save(self.desk.folder / self._draft)
            os.utime(path, ns=(time.time_ns(),) * 2)  # the file system's own clock is too coarse to order drafts by
            self._kept = self.document

    def _work(self, start: Document, options: dict[str, Any]) -> None:
        outcome: Finished | Exception = GenerationError("the continuation ended without a result; continue again.")
        try:
            run = self.desk.model.stream(start, stop=self._stopping.is_set, **options)
            for event in run:
                with self.lock:
                    self._take(event, run.document)
                if isinstance(event, Finished):
                    outcome = event
            self.keep()
        except Exception as error:  # told by whoever shows the session, or raised by `wait`
            outcome = error
        finally:
            with self.lock:
                self.desk.busy.release()
                self.running, self.growing, self.outcome = False, None, outcome

    def _take(self, event: Event, document: Document) -> None:
        """Puts what has happened where it is seen."""
        growing = self.growing = self.growing or Growing()
        if not isinstance(event, ImageProgress):
            self.document = document
        if isinstance(event, TextDelta):
            growing.text += event.text
        elif isinstance(event, ImageProgress):
            growing.painting = event
            growing.preview = growing.preview if event.preview is None else Image.from_array(np.asarray(event.preview))
        elif isinstance(event, ImageDone):
            self.growing, self._whole = Growing(), len(document)

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
