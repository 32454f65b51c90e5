"""The model as lmms-eval sees it: `lmms_eval --model mm_interleaved --model_args pretrained=FOLDER --tasks …` (lmms-eval 0.7).

`MMInterleaved` is the class that lmms-eval loads; it is made when it is asked for, since its base class comes from that package, which is
optional. `Adapter` holds all of its methods. One process; pictures stand before the words, or where `<image>` marks them.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import torch

from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import BackendError, ConfigError, DataError, LayoutError
from mm_interleaved.generation.load import Model, load

MARK = "<image>"
"""Where a picture stands in lmms-eval's words."""

MAX_TOKENS = 256
"""New tokens where a task names no bound."""

log = logging.getLogger(__name__)


class Adapter:
    """What lmms-eval asks of a model, without its base class."""

    is_simple = True
    task_dict: dict[str, Any]
    """Task → split → samples; lmms-eval fills it."""

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        *,
        model: Model | None = None,
    ) -> None:
        """
        Args:
            pretrained: folder of a checkpoint; None is the model in the box.
            device: where it computes; the CPU by default.
            dtype: name of a type of torch.
            batch_size: passed by lmms-eval and not used: one document after the other, so that a batch changes no result.
            max_batch_size: the same.
            model: a loaded one, instead of a folder.

        Raises:
            ConfigError: several processes.
        """
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("lmms-eval: this adapter runs in one process; start it without accelerate or torchrun.")
        self.model = load(pretrained, device=device or "cpu", dtype=getattr(torch, dtype)) if model is None else model

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer for each request, cut at the first of its stops. What the model cannot read is answered by nothing and logged."""
        answers = []
        for request in requests:
            words, settings, pictures, number, task, split = request.args
            answers.append(self._answer(self._document(words, pictures(self.task_dict[task][split][number])), settings, f"{task} {number}"))
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """The answers of all rounds of each request; its task makes every further question from the answers before it."""
        return [list(self._rounds(*request.args)) for request in requests]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """The loss of each continuation (its negative log-probability), and whether greedy decoding gives the same words.

        lmms-eval's description says log-probability, but its evaluator chooses the smallest value and its own models give their loss.
        """
        found = []
        for request in requests:
            words, target, pictures, number, task, split = request.args
            sample = self.task_dict[task][split][number]
            continuation = target if isinstance(target, str) else target(sample)
            document = self._document(words, pictures(sample))
            try:
                (score,) = self.model.score(document, [continuation])
                greedy = self._continued(document, {"max_tokens": score.tokens})
                found.append((-score.log_likelihood, greedy.strip() == continuation.strip()))
            except LayoutError as error:
                log.warning("%s %s cannot be read (%s); it counts as impossible", task, number, error)
                found.append((math.inf, False))
        return found

    def _rounds(
        self, words: str, settings: dict[str, Any], pictures: Any, further: Any, number: int, task: str, split: str
    ) -> Iterator[str]:
        sample = self.task_dict[task][split][number]
        shown, answers, told = pictures(sample), [], None
        while True:
            answers.append(self._answer(self._document(words, shown), settings, f"{task} {number}"))
            shown, words, ended, outputs, told = further(
                sample, previous_output=list(answers), round_idx=len(answers), previous_round_info=told
            )
            if ended:
                yield from outputs
                return

    def _answer(self, document: Document, settings: dict[str, Any], place: str) -> str:
        if int(settings.get("num_beams") or 1) > 1:
            raise ConfigError(f"lmms-eval: {place} asks for {settings['num_beams']} beams; only one is searched here, set num_beams=1.")
        options: dict[str, Any] = {"max_tokens": int(settings.get("max_new_tokens") or MAX_TOKENS)}
        if settings.get("do_sample") and float(settings.get("temperature") or 0) > 0:
            options |= {"temperature": float(settings["temperature"]), "top_p": float(settings.get("top_p") or 1)}
        try:
            text = self._continued(document, options)
        except LayoutError as error:
            log.warning("%s cannot be read (%s); it is answered by nothing", place, error)
            return ""
        stops = settings.get("until") or ()
        for stop in (stops,) if isinstance(stops, str) else stops:
            text = text.split(stop, 1)[0] if stop else text
        return text.strip()

    def _continued(self, document: Document, options: dict[str, Any]) -> str:
        made = self.model.continue_document(document, max_images=0, **options)
        return "".join(segment.text for segment in made.segments[len(document) :] if isinstance(segment, Text))

    def _document(self, words: str, pictures: Sequence[Any] | None) -> Document:
        shown = [_image(picture) for picture in pictures or ()]
        pieces = words.split(MARK)
        if len(pieces) - 1 != len(shown):
            return Document([*shown, words.replace(MARK, " ").strip()])
        parts: list[Image | str] = []
        for number, piece in enumerate(pieces):
            parts += [piece.strip()] if piece.strip() else []
            parts += shown[number : number + 1]
        return Document(parts)


def _image(picture: Any) -> Image:
    if not hasattr(picture, "save") or not hasattr(picture, "convert"):
        raise DataError(f"lmms-eval: expected pictures, got {type(picture).__name__}; tasks of videos and sounds cannot be answered.")
    stream = BytesIO()
    picture.convert("RGB").save(stream, format="PNG")
    return Image.from_bytes(stream.getvalue())


def manifest() -> Any:
    """What lmms-eval registers (entry point `lmms_eval.models`)."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="mm_interleaved", simple_class_path=f"{__name__}.MMInterleaved")


@lru_cache(maxsize=1)
def adapter_class() -> type:
    """`Adapter` as a subclass of lmms-eval's own base class.

    Raises:
        BackendError: lmms-eval is not installed.
    """
    try:
        from lmms_eval.api.model import lmms
    except ImportError as error:
        raise BackendError(f"lmms-eval is not installed ({error}): pip install lmms-eval.") from error
    return type("MMInterleaved", (Adapter, lmms), {"__module__": __name__, "__doc__": Adapter.__doc__})


def __getattr__(name: str) -> Any:
    if name == "MMInterleaved":
        return adapter_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
