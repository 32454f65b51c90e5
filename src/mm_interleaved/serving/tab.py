"""One tab as its reader sees and uses it: what is asked of its session, and what stands on the page.

The page asks for one thing after another and waits for each answer; what stands on the page comes back on another way, always whole and
of one moment, so that no answer can overtake another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mm_interleaved.document import Image
from mm_interleaved.errors import DocumentError
from mm_interleaved.generation.events import Finished
from mm_interleaved.serving import drawing
from mm_interleaved.serving.labels import Language, words
from mm_interleaved.serving.session import Session

PREVIEWS = 5
"""Previews of a picture while it is painted."""


class Tab:
    """One tab: a session, the language of its reader, and what was last told."""

    def __init__(self, session: Session, language: Language, uploads: Path) -> None:
        """
        Args:
            uploads: the folder that pictures are uploaded to; no other file is read.
        """
        self.session = session
        self.language: Language = language
        self.uploads = uploads
        self._told = ""
        self._before: Finished | Exception | None = None
        """How the last continuation before that had ended."""
        self._answers = 0

    @property
    def say(self) -> dict[str, str]:
        """The page's own words."""
        return words(self.language)

    def moment(self) -> tuple[object, ...]:
        """Differs from an earlier one if something else is to be shown; cheap."""
        session = self.session
        with session.lock:
            growing = session.growing
            made = None if growing is None else (growing.text, growing.painting and growing.painting.step)
            return len(session.document), session.running, made, self._answers, self.language

    def shown(self) -> tuple[str, str, str]:
        """The document, what grows below it, and what is told: of one moment."""
        with self.session.lock:
            number, drawn = 0, []
            for place, (key, segment) in enumerate(self.session.keyed()):
                number += isinstance(segment, Image)
                drawn.append(drawing.segment(key, place, number, segment, self.say))
            running = "running" if self.session.running else ""
            document = f'<div data-state="{running}" data-lost="{self.say["lost"]}">{"".join(drawn)}</div>'
            return document, drawing.growing(self.session.growing, self.say), f'<div data-answers="{self._answers}">{self._news()}</div>'

    def ask(self, asked: Mapping[str, Any]) -> bool:
        """Does what the page asks for and tells how it went; whether it was done.

        Args:
            asked: `act`, and what that needs: `key` of a segment, `text`, `composed`, `options`, `start`, `name`.
        """
        if asked["act"] == "stop":
            self.session.stop()  # not under the lock: the continuation needs it to end
            return True
        with self.session.lock:
            try:
                told, done = self._do(asked), True
            except Exception as error:
                told, done = drawing.wrong(error, self.say), False
            if told or asked["act"] != "edit":
                self._told, self._before = told, self.session.outcome
            self._answers += 1
        return done

    def _news(self) -> str:
        """What was told last, unless a continuation has ended since."""
        outcome = self.session.outcome
        if outcome is not None and outcome is not self._before:
            return drawing.ending(outcome, self.say) if isinstance(outcome, Finished) else drawing.wrong(outcome, self.say)
        reading = self.session.running and self.session.growing is None
        return self._told or (drawing.note(self.say["reading"]) if reading else "")

    def _do(self, asked: Mapping[str, Any]) -> str:
        session, act = self.session, asked["act"]
        text, files = self._composed(asked.get("composed"))
        place = session.place(int(asked["key"])) if "key" in asked else 0
        if act == "add":
            session.add(text, files)
        elif act == "continue":
            session.add(text, files)
            session.start(**_options(asked["options"]))
        elif act == "from_here":
            session.start(until=place + 1, **_options(asked["options"]))
        elif act == "reroll":
            options = _options(asked["options"])
            options |= {"seed": session.seed_of_next_roll(place), "force_image": True, "max_images": max(1, options["max_images"])}
            session.start(until=place, **options)
        elif act == "edit":
            session.edit(place, asked["text"])
        elif act == "up":
            session.up(place)
        elif act == "remove":
            session.remove(place)
        elif act == "begin":
            start = Path(asked["start"]) if asked["start"] else None
            if start not in (None, *session.desk.demonstrations, *session.desk.drafts(every=True)):
                raise DocumentError(f"{start} is not offered here; choose from the list.")
            session.begin(start)
        elif act == "hero":
            session.begin_hero(next(iter(files), None), asked["name"], (self.say["hero_before"], self.say["hero_behind"]))
            session.start(**_options(asked["options"]))
        elif act == "save":
            return drawing.saved(session.save(), self.say)
        else:
            raise ValueError(f"the page has no act {act!r}")
        return ""

    def _composed(self, composed: Any) -> tuple[str, list[str]]:
        """Words and the files of pictures that were composed."""
        files = [Path(file["path"]).resolve() for file in (composed or {}).get("files") or []]
        if any(self.uploads not in file.parents for file in files):
            raise DocumentError("a picture was not uploaded here; paste or drop it again.")
        return (composed or {}).get("text") or "", [str(file) for file in files]


def _options(values: Mapping[str, float]) -> dict[str, Any]:
    """The settings of the page as fields of `generation.options.Options`."""
    steps = int(values["steps"])
    whole = {
        "max_images": int(values["pictures"]),
        "seed": int(values["seed"] or 0),
        "steps": steps,
        "preview_every": max(1, steps // PREVIEWS),
    }
    return {**whole, "guidance": float(values["guidance"]), "temperature": float(values["temperature"])}
