"""Continues one document with words and pictures, as a state machine: the model's own tokens say when to draw and when to stop.

    words ──begin-of-image──► paint ──the picture joins the context──► words ── … ──end──► finished

A finished picture goes through 8 bits into the document and is then read exactly as a given one would be. Generated text keeps its
tokens, since decoding and encoding again is not the identity.

What costs time is asked for, not done, by the state machine (`Phase`): a `Continuation` that is iterated serves itself, the scheduler
serves many together. Between two events it can be branched, rolled back by a segment, or saved (`generation/saving.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mm_interleaved.document import Document, Generation, Image, Pixels, Segment, Text
from mm_interleaved.errors import GenerationError
from mm_interleaved.generation.events import Event, Finished, FinishReason, ImageDone, ImageProgress, TextDelta, UnknownWord
from mm_interleaved.generation.image import Painting, denoise_step
from mm_interleaved.generation.options import Options
from mm_interleaved.generation.random import generator_for
from mm_interleaved.generation.samplers import sampler_for
from mm_interleaved.generation.state import DocumentState, context_limit, picture_limit
from mm_interleaved.generation.text import IncrementalDecoder, TokenChooser, decode
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.images import from_pixels
from mm_interleaved.processing.layout import Layout, open_layout
from mm_interleaved.processing.processor import MMInterleavedProcessor

ALT_LENGTH = 120
"""Characters of the words before a generated picture that become its alternative text."""

_CACHE_DTYPES = {"same": None, "bfloat16": torch.bfloat16}


class Phase(Enum):
    """What a continuation waits for."""

    READ = "its prompt is read"
    WRITE = "its next token is chosen"
    PAINT = "a denoising step is taken"


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


@dataclass(frozen=True, slots=True)
class Position:
    """Where a continuation stands, beside what it has read and made: enough to go on in another process."""

    starts: list[int]
    """First token of each segment, the growing text included."""
    growing: bool
    """The last segment is a generated text that still grows."""
    drawing: int
    """Token at which a picture was begun that is not there yet; 0 is none."""
    written: list[int]
    """Tokens chosen in this run."""
    new_images: int
    """Pictures painted in this run."""
    missed_image: bool
    """It wanted to draw after the last allowed picture."""
    images: int
    """Pictures read."""


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
        self.painting: Painting | None = None
        """The picture that is being painted, from its first step on."""
        self._stop = stop
        self._layout = open_layout(document, processor.tokens, limit=context_limit(model.config))
        self._state = DocumentState(model, cache_bytes=options.cache_mib * 2**20 or None, cache_dtype=_CACHE_DTYPES[options.cache_dtype])
        self._chooser = TokenChooser(options)
        self._decoder = IncrementalDecoder(processor.tokenizer)
        self._segments: list[Segment] = list(document)
        self._starts: list[int] = list(self._layout.segment_start)  # where each segment begins, in tokens
        self._text_ids: list[int] = []  # of the generated text that is still growing
        self._text_start = 0
        self._written: list[int] = []  # every token chosen in this run
        self._pending: int | None = None  # chosen, not yet read
        self._chosen = (0, 0)
        self._drawing = 0  # token of a begin-of-image whose picture is not there yet; 0 is none
        self._new_images = 0
        self._missed_image = False  # it wanted to draw after the last allowed picture
        self._never = self._never_chosen()
        self._never_exhausted = self._never | {model.config.begin_image_token_id}
        self._resume_text()
        self.unknown_words = self._find_unknown_words(document)
        self._steps = self._run()

    def __next__(self) -> Event:
        while True:
            step = next(self._steps)
            if not isinstance(step, Phase):
                return step
            self.serve(step)

    @property
    def document(self) -> Document:
        """The prompt and everything made so far; unfinished pictures are not in it."""
        return Document((*self._segments, *self._open_text()))

    @property
    def state(self) -> DocumentState:
        """What the model has read; the token chosen last may still be `pending`."""
        return self._state

    @property
    def prompt(self) -> Layout:
        """What was there at the beginning, as tokens and pictures."""
        return self._layout

    # For whoever serves the continuation: itself, or the scheduler.

    def advance(self) -> Event | Phase | None:
        """Goes on to the next event or to the next thing it waits for; None at the end."""
        return next(self._steps, None)

    def serve(self, phase: Phase) -> None:
        """Does what it waits for, alone."""
        if phase is Phase.READ:
            self._state.read(self._layout)
        elif phase is Phase.WRITE:
            self.settle()
            token, favourite = self.choose(self._state.next_logits()).tolist()
            self.answer(token, favourite)
        else:
            denoise_step(
                lambda latents, timestep, condition, rows: self.model.predict_noise(
                    latents, timestep, condition, [self._state.features], rows
                ),
                [self.ready_painting()],
            )

    @property
    def pending(self) -> int | None:
        """The token that was chosen but not read yet."""
        return self._pending

    def settle(self, *, elsewhere: bool = False) -> None:
        """Reads the token that was chosen last, unless it was read elsewhere."""
        token, self._pending = self._pending, None
        if token is not None and not elsewhere:
            self._state.append_token(token)

    def choose(self, logits: Float[Tensor, " V"]) -> Int[Tensor, " 2"]:
        """The next token, and the one it would be without limits, on the device of the logits."""
        exhausted = self._new_images >= self.options.max_images
        suppressed = self._never_exhausted if exhausted else self._never
        token = torch.as_tensor(
            self._chooser.choose(logits, written=self._written, suppressed=suppressed, position=self._state.position),
            device=logits.device,
        )
        return torch.stack([token, logits.argmax() if exhausted else token])

    def answer(self, token: int, favourite: int) -> None:
        """Tells it what `choose` gave."""
        self._chosen = token, favourite

    def ready_painting(self) -> Painting:
        """The picture to be painted; begins it if need be."""
        if self.painting is None:
            decoder, options = self.model.image_decoder, self.options
            self.settle()
            condition = self._state.picture_condition()
            self.painting = Painting(
                decoder.schedule,
                sampler_for(options.sampler, decoder.schedule, options.steps, condition.device),
                condition=condition,
                negative=decoder.negative_condition(1).to(condition.dtype),
                guidance=options.guidance,
                steps=options.steps,
                shape=(decoder.latent_channels, decoder.latent_side, decoder.latent_side),
                generator=generator_for(options.seed, "image", self._state.images),
            )
        return self.painting

    # For whoever owns the continuation.

    def branch(self, **changes: Any) -> Continuation:
        """Another continuation of what stands here; nothing is read again. A picture in the middle is painted from its beginning.

        Args:
            **changes: options that shall differ, such as the seed.

        Raises:
            ConfigError: an unknown option or a value out of range.
        """
        self.settle()
        other = copy.copy(self)
        other.options = Options.read({**asdict(self.options), **changes})
        other.painting = None
        other._chooser = TokenChooser(other.options)
        other._state = self._state.branch()
        other._segments, other._starts = list(self._segments), list(self._starts)
        other._text_ids, other._written = list(self._text_ids), list(self._written)
        other._restart()
        return other

    def roll_back(self) -> Segment | None:
        """Takes the last segment back, whoever wrote it, so that it can be made anew; nothing is read again.

        Returns:
            The segment; None if it was a picture not finished yet.

        Raises:
            GenerationError: the document would be empty.
        """
        if self._state.position == 0:
            self.serve(Phase.READ)
        self.settle()
        taken: Segment | None = None
        if self._drawing:
            start, tokens = self._drawing, 1
        elif len(self._segments) + bool(self._text_ids) < 2:
            raise GenerationError("nothing to take back: the document has one segment, and an empty one cannot be continued.")
        elif self._text_ids:
            (taken,) = self._open_text()
            start, tokens = self._text_start, len(self._text_ids)
            self._text_ids = []
        else:
            taken, start = self._segments.pop(), self._starts.pop()
            tokens = 1 if isinstance(taken, Image) else len(taken.token_ids or ())
        if isinstance(taken, Image) and taken.origin == "generated":
            self._new_images = max(0, self._new_images - 1)
        self._drawing, self.painting, self._missed_image = 0, None, False
        del self._written[max(0, len(self._written) - tokens) :]
        self._state.roll_back(start, sum(isinstance(segment, Image) for segment in self._segments))
        self._resume_text()
        self._restart()
        return taken

    @property
    def position(self) -> Position:
        """Where it stands, for `resume`."""
        growing = bool(self._text_ids)
        return Position(
            starts=[*self._starts, *([self._text_start] if growing else [])],
            growing=growing,
            drawing=self._drawing,
            written=list(self._written),
            new_images=self._new_images,
            missed_image=self._missed_image,
            images=self._state.images,
        )

    def resume(self, position: Position, tensors: dict[str, Tensor]) -> None:
        """Goes on where another continuation of this document stood.

        Args:
            position: of that one.
            tensors: of its state.

        Raises:
            CheckpointError: the tensors are not those of a state of this model.
        """
        self._segments, self._starts = [*self._segments, *self._open_text()], list(position.starts)
        self._text_ids = []
        if position.growing:
            last = self._segments.pop()
            assert isinstance(last, Text)  # as `Position` says
            self._text_ids, self._text_start = list(last.token_ids or ()), self._starts.pop()
        self._drawing, self._written = position.drawing, list(position.written)
        self._new_images, self._missed_image = position.new_images, position.missed_image
        self._state.restore(tensors, position.images)
        self._restart()

    # The state machine.

    def _run(self) -> Iterator[Event | Phase]:
        if self._state.position == 0:
            yield Phase.READ
        begin_image, end = self.model.config.begin_image_token_id, self.processor.tokens.end
        while True:
            if not self._drawing:
                reason = self._exhausted()
                if reason is not None:
                    break
                if self.options.force_image and not self._written:
                    token = begin_image
                else:
                    yield Phase.WRITE
                    token, favourite = self._chosen
                    exhausted = self._new_images >= self.options.max_images
                    self._missed_image = self._missed_image or (exhausted and favourite == begin_image)
                if token == end:
                    reason = "max_images" if self._missed_image else "end"
                    break
                if token != begin_image:
                    yield from self._write(token)
                    continue
                if not self._has_room_for_image():
                    reason = "context_full"
                    break
            if not (yield from self._paint()):
                reason = "stopped"
                break
        yield from self._close_text()
        yield Finished(self.document, reason, self.unknown_words)

    def _restart(self) -> None:
        # The machine stands between two segments or two tokens again; the characters of a half-written token are still to come.
        self._decoder = IncrementalDecoder(self.processor.tokenizer)
        for token in self._text_ids:
            self._decoder.add(token)
        self._steps = self._run()

    @property
    def _position(self) -> int:
        """Where the next token will stand."""
        return self._state.position + (self._pending is not None)

    def _exhausted(self) -> FinishReason | None:
        if self._stop is not None and self._stop():
            return "stopped"
        if len(self._written) >= self.options.max_tokens:
            return "max_tokens"
        return "context_full" if self._position >= context_limit(self.model.config) else None

    # Words.

    def _write(self, token: int) -> Iterator[Event]:
        if not self._text_ids:
            self._text_start = self._position
        self._written.append(token)
        self._text_ids.append(token)
        self._pending = token
        complete = self._decoder.add(token)
        if complete is not None:
            yield TextDelta(*complete)

    def _close_text(self) -> Iterator[Event]:
        rest = self._decoder.flush()
        for text in self._open_text():
            self._segments.append(text)
            self._starts.append(self._text_start)
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
            self._text_start = self._starts.pop()

    # Pictures.

    def _has_room_for_image(self) -> bool:
        config = self.model.config
        needed = 1 + config.image_tokens
        return self._position + needed <= context_limit(config) and self._state.images < picture_limit(config)

    def _paint(self) -> Generator[Event | Phase, None, bool]:
        """Paints the next picture; returns False if it was stopped before the last step."""
        yield from self._close_text()
        options = self.options
        yield ImageProgress(0, options.steps)
        if not self._drawing:
            self._drawing = self._position
            self._pending = self.model.config.begin_image_token_id
            self._written.append(self._pending)
        self.painting = None
        for step in range(1, options.steps + 1):
            yield Phase.PAINT
            assert self.painting is not None  # whoever served the phase began it
            if step < options.steps and self._stop is not None and self._stop():
                return False
            previewed = options.preview_every > 0 and step % options.preview_every == 0 and step < options.steps
            yield ImageProgress(step, options.steps, self._to_picture(self.painting.foreseen()) if previewed else None)
        assert self.painting is not None  # at least one step, checked by Options
        picture = self._to_picture(self.painting.latents)
        image = Image.from_array(
            picture,
            alt=_alternative_text(self._segments),
            origin="generated",
            generation=Generation(options.seed, self.model_hash, options.steps, options.guidance, options.sampler),
        )
        self._state.append_image(picture)
        self._segments.append(image)
        self._starts.append(self._drawing)
        self._new_images += 1
        self._drawing, self.painting = 0, None
        yield ImageDone(image)
        return True

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
