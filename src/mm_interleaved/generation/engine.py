"""Continues one document with words and pictures, as a state machine: the model's own tokens say when to draw and when to stop.

    words ──begin-of-image──► paint ──the picture joins the context──► words ── … ──end──► finished

A finished picture goes through 8 bits into the document and is then read exactly as a given one would be. Generated text keeps its
tokens, since decoding and encoding again is not the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from mm_interleaved.document import Document, Generation, Image, Pixels, Segment, Text
from mm_interleaved.generation.events import Event, Finished, FinishReason, ImageDone, ImageProgress, TextDelta, UnknownWord
from mm_interleaved.generation.image import denoise
from mm_interleaved.generation.options import Options
from mm_interleaved.generation.random import generator_for
from mm_interleaved.generation.state import DocumentState, context_limit, picture_limit
from mm_interleaved.generation.text import IncrementalDecoder, TokenChooser, decode
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.images import from_pixels
from mm_interleaved.processing.layout import open_layout
from mm_interleaved.processing.processor import MMInterleavedProcessor

ALT_LENGTH = 120
"""Characters of the words before a generated picture that become its alternative text."""


def stream(
    model: MMInterleavedForConditionalGeneration,
    processor: MMInterleavedProcessor,
    document: Document,
    *,
    model_hash: str = "",
    stop: Callable[[], bool] | None = None,
    **options: Any,
) -> Continuation:
    """Continues a document and tells what happens as it happens.

    Args:
        document: the prompt; it may be a document that was generated before, then it goes on where that one ended.
        model_hash: fingerprint of the weights, kept in every generated picture.
        stop: asked before every token and every denoising step; True ends the continuation and keeps what was made.
        **options: fields of `Options`: max_images, max_tokens, seed, steps, guidance, temperature …

    Returns:
        An iterator of events whose last one is `Finished`; its `document` holds, at any moment, everything made so far.

    Raises:
        ConfigError: an unknown option or a value out of range.
        LayoutError: nothing in the document, or more tokens than the model can read.
        GenerationError: more pictures than the model can look back on.
    """
    return Continuation(model, processor, document, Options.read(options), model_hash=model_hash, stop=stop)


def continue_document(
    model: MMInterleavedForConditionalGeneration,
    processor: MMInterleavedProcessor,
    document: Document,
    *,
    model_hash: str = "",
    stop: Callable[[], bool] | None = None,
    **options: Any,
) -> Document:
    """The document with its continuation; arguments and errors as in `stream`."""
    run = stream(model, processor, document, model_hash=model_hash, stop=stop, **options)
    for _ in run:
        pass
    return run.document


class Continuation(Iterator[Event]):
    """The running continuation of one document. Iterate for events; an interrupt between or inside two events loses nothing finished."""

    def __init__(
        self,
        model: MMInterleavedForConditionalGeneration,
        processor: MMInterleavedProcessor,
        document: Document,
        options: Options,
        *,
        model_hash: str = "",
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.options = options
        self.model_hash = model_hash
        self._stop = stop
        self._layout = open_layout(document, processor.tokens, limit=context_limit(model.config))
        self._state = DocumentState(model)
        self._chooser = TokenChooser(options)
        self._decoder = IncrementalDecoder(processor.tokenizer)
        self._segments: list[Segment] = list(document)
        self._text_ids: list[int] = []  # of the generated text that is still growing
        self._written: list[int] = []  # every token chosen in this run
        self._new_images = 0
        self._missed_image = False  # it wanted to draw after the last allowed picture
        self._never = self._never_chosen()
        self._resume_text()
        self.unknown_words = self._find_unknown_words(document)
        self._events = self._run()

    def __next__(self) -> Event:
        return next(self._events)

    @property
    def document(self) -> Document:
        """The prompt and everything made so far; unfinished pictures are not in it."""
        return Document((*self._segments, *self._open_text()))

    def _run(self) -> Iterator[Event]:
        self._state.read(self._layout)
        force_image = self.options.force_image
        while True:
            reason = self._exhausted()
            if reason is not None:
                break
            token = self.model.config.begin_image_token_id if force_image else self._choose()
            force_image = False
            if token == self.processor.tokens.end:
                reason = "max_images" if self._missed_image else "end"
                break
            if token != self.model.config.begin_image_token_id:
                yield from self._write(token)
            elif not self._has_room_for_image():
                reason = "context_full"
                break
            elif not (yield from self._paint(token)):
                reason = "stopped"
                break
        yield from self._close_text()
        yield Finished(self.document, reason, self.unknown_words)

    def _exhausted(self) -> FinishReason | None:
        if self._stop is not None and self._stop():
            return "stopped"
        if len(self._written) >= self.options.max_tokens:
            return "max_tokens"
        return "context_full" if self._state.position >= context_limit(self.model.config) else None

    def _choose(self) -> int:
        begin_image = self.model.config.begin_image_token_id
        logits = self._state.next_logits()
        suppressed = self._never
        if self._new_images >= self.options.max_images:
            self._missed_image = self._missed_image or int(logits.argmax()) == begin_image
            suppressed = suppressed | {begin_image}
        return self._chooser.choose(logits, written=self._written, suppressed=suppressed, position=self._state.position)

    # Words.

    def _write(self, token: int) -> Iterator[Event]:
        self._written.append(token)
        self._text_ids.append(token)
        self._state.append_token(token)
        complete = self._decoder.add(token)
        if complete is not None:
            yield TextDelta(*complete)

    def _close_text(self) -> Iterator[Event]:
        rest = self._decoder.flush()
        self._segments.extend(self._open_text())
        self._text_ids = []
        if rest is not None:
            yield TextDelta(*rest)

    def _open_text(self) -> list[Text]:
        if not self._text_ids:
            return []
        return [Text(decode(self.processor.tokenizer, self._text_ids), "generated", tuple(self._text_ids))]

    def _resume_text(self) -> None:
        # A generated text at the end of the prompt and what is written now are one text.
        last = self._segments[-1]
        if not isinstance(last, Text) or last.origin != "generated" or not last.token_ids:
            return
        if decode(self.processor.tokenizer, last.token_ids) == last.text:
            self._text_ids = list(last.token_ids)
            self._segments.pop()

    # Pictures.

    def _has_room_for_image(self) -> bool:
        config = self.model.config
        needed = 1 + config.image_tokens
        return self._state.position + needed <= context_limit(config) and self._state.images < picture_limit(config)

    def _paint(self, token: int) -> Generator[Event, None, bool]:
        """Paints the next picture; returns False if it was stopped before the last step."""
        yield from self._close_text()
        options = self.options
        yield ImageProgress(0, options.steps)
        self._written.append(token)
        self._state.append_token(token)
        place = self._state.images
        latents: Tensor | None = None
        for step, latents in enumerate(self._denoise(generator_for(options.seed, "image", place)), start=1):
            if step < options.steps and self._stop is not None and self._stop():
                return False
            previewed = options.preview_every > 0 and step % options.preview_every == 0 and step < options.steps
            yield ImageProgress(step, options.steps, self._to_picture(latents) if previewed else None)
        assert latents is not None  # at least one step, checked by Options
        picture = self._to_picture(latents)
        image = Image.from_array(
            picture,
            alt=_alternative_text(self._segments),
            origin="generated",
            generation=Generation(seed=options.seed, model_hash=self.model_hash, steps=options.steps, guidance=options.guidance),
        )
        self._state.append_image(picture)
        self._segments.append(image)
        self._new_images += 1
        yield ImageDone(image)
        return True

    def _denoise(self, generator: torch.Generator) -> Iterator[Tensor]:
        decoder = self.model.image_decoder

        def predict(latents: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
            return self.model.predict_noise(latents, timestep, condition, self._state.features)

        condition = self._state.picture_condition()
        return denoise(
            predict,
            decoder.schedule,
            condition=condition,
            negative=decoder.negative_condition(1).to(condition.dtype),
            guidance=self.options.guidance,
            steps=self.options.steps,
            shape=(decoder.latent_channels, decoder.latent_side, decoder.latent_side),
            generators=[generator],
        )

    @torch.no_grad()
    def _to_picture(self, latents: Tensor) -> Pixels:
        return from_pixels(self.model.image_decoder.decode(latents)[0])

    # What is known before the first token.

    def _never_chosen(self) -> frozenset[int]:
        """Control tokens that only the layout places, and ids that the tokenizer does not have."""
        tokens = self.processor.tokens
        surplus = range(len(self.processor.tokenizer), self.model.config.text_config.vocab_size)
        return (frozenset(tokens.control) | frozenset(surplus)) - {tokens.end, tokens.begin_image}

    def _find_unknown_words(self, document: Document) -> tuple[UnknownWord, ...]:
        found: dict[str, UnknownWord] = {}
        for text in document.texts:
            if text.origin == "given":
                for word, nearest in self.processor.unknown_words(text.text):
                    found.setdefault(word, UnknownWord(word, tuple(nearest)))
        return tuple(found.values())


def _alternative_text(segments: list[Segment]) -> str:
    """The last line of the words before a picture, for those who cannot see it."""
    for segment in reversed(segments):
        if isinstance(segment, Text) and segment.text.strip():
            line = segment.text.strip().splitlines()[-1].strip().replace("\ufffd", "")
            return line if len(line) <= ALT_LENGTH else f"{line[: ALT_LENGTH - 1]}…"
    return ""
