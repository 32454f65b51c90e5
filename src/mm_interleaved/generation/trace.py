"""What a document looked at: the points and weights of every MMFS, listened to while the document is read once.

    trace = trace_document(network, processor, document)
    trace.word(trace.words[-1]).looks[0].hottest()

Listening is a forward hook that exists only inside `listening`; it calls `MMFS.attend` beside the module's own forward, so nothing
that the model computes changes, and a model that is not traced pays nothing. Painted pictures are noised again as in training and
predicted once per stated noise level; the noise is keyed by (seed, picture).
Axes: B rows · Q queries · N images · H heads · L levels · P points (docs/glossary.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mm_interleaved.document import Document
from mm_interleaved.errors import ConfigError
from mm_interleaved.export.explanation import Explanation, Layer, Look, Moment, PaintedPicture, Reading, Word, text_places
from mm_interleaved.generation.random import generator_for
from mm_interleaved.generation.state import DocumentState, context_limit
from mm_interleaved.generation.text import IncrementalDecoder
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.mmfs import MMFS
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.processing.layout import Layout, open_layout
from mm_interleaved.processing.processor import MMInterleavedProcessor

if TYPE_CHECKING:
    from mm_interleaved.model.language_model import Synchronizer

NOISE_LEVELS = (0.25, 0.5, 0.75)
"""Shares of noise at which painted pictures are listened to."""

REGIONS = 8
"""Regions per side of a painted picture."""

_WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|(?:(?![\u3400-\u9fff])\w)+(?:['’-]\w+)*|[^\w\s]")


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What one MMFS was asked in one call, and where it looked."""

    places: np.ndarray
    """B Q H N L1 P 2: fractions of width and height of the picture's centred square."""
    weights: np.ndarray
    """B Q H N L P; with `null` they sum to 1 over N L P."""
    null: np.ndarray
    """B Q H."""
    visible: np.ndarray
    """B Q N."""

    def part(self, heads: Sequence[int] | slice, levels: Sequence[int] | slice) -> Heard:
        """The same of some heads and levels."""
        places, weights = self.places[:, :, heads], self.weights[:, :, heads][..., levels, :]
        return Heard(places if places.shape[4] == 1 else places[..., levels, :, :], weights, self.null[:, :, heads], self.visible)


@contextmanager
def listening(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Heard]]:
    """While active, the latest call of each module is in the dictionary that this gives; afterwards no hook is left.

    Args:
        modules: synchronizers (with an `mmfs` inside) by name.
    """
    heard: dict[str, Heard] = {}
    with ExitStack() as hooks:
        for name, module in modules.items():

            def listen(mmfs: nn.Module, args: tuple[Any, ...], named: dict[str, Any], name: str = name) -> None:
                heard[name] = _attended(cast(MMFS, mmfs), *args, **named)

            hooks.enter_context(cast(MMFS, module.mmfs).register_forward_pre_hook(listen, with_kwargs=True))
        yield heard


@torch.no_grad()
def _attended(
    mmfs: MMFS, query: Tensor, reference_xy: Tensor, values: Tensor, visible: Tensor, level_shapes: Any = None, **_: Any
) -> Heard:
    """Where the module looks when it is called with these arguments of its forward."""
    return Heard(*(tensor.cpu().numpy() for tensor in (*mmfs.attend(query, reference_xy, visible, level_shapes), visible)))


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Everything heard of one document; `word` and `region` sum it up: the mean of tokens, layers and heads, the sum of levels."""

    document: Document
    texts: dict[int, str]
    words: tuple[Word, ...]
    layers: tuple[Layer, ...]
    heard: tuple[Heard, ...]
    """Per layer of the language model; B = 1, Q = tokens of the document."""
    picture_layers: tuple[Layer, ...]
    painted: dict[int, tuple[Heard, ...]]
    """Picture → what was heard per synchronizer; B = noise levels, Q = cells of its grid, N = the pictures just before it."""
    noise_levels: tuple[float, ...]
    seed: int
    model_hash: str = ""

    def part(
        self, *, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None, levels: Sequence[int] | None = None
    ) -> Trace:
        """What these layers, heads and levels (None: all) say of the words; shares of left-out levels are missing."""
        kept = range(len(self.layers)) if layers is None else layers
        every = slice(None)
        heard = tuple(self.heard[layer].part(every if heads is None else heads, every if levels is None else levels) for layer in kept)
        return replace(self, layers=tuple(self.layers[layer] for layer in kept), heard=heard)

    def word(self, word: Word, moment: Moment = "read") -> Reading:
        """Where a word looked."""
        queries = [token - (moment == "written") for token in word.tokens]
        return self._reading([(heard, 0, queries) for heard in self.heard], 0)

    def region(self, image: int, row: int, column: int, level: int) -> Reading:
        """Where a region of a painted picture looked at the noise level of this index."""
        rows = []
        for heard in self.painted[image]:
            side = round(heard.null.shape[1] ** 0.5)
            rows.append((heard, level, [y * side + x for y in _overlap(row, side) for x in _overlap(column, side)]))
        return self._reading(rows, image - rows[0][0].visible.shape[-1])

    def explanation(self, moment: Moment = "read") -> Explanation:
        """Everything as plain numbers, for a page, a picture or JSON."""
        cells = [divmod(cell, REGIONS) for cell in range(REGIONS**2)]
        pictures = []
        for image in self.painted:
            regions = tuple(tuple(self.region(image, *cell, level) for cell in cells) for level in range(len(self.noise_levels)))
            pictures.append(PaintedPicture(image, REGIONS, self.noise_levels, regions))
        same = ("document", "texts", "words", "layers", "picture_layers", "seed", "model_hash")
        return Explanation(
            **{name: getattr(self, name) for name in same},
            readings=tuple(self.word(word, moment) for word in self.words),
            moment=moment,
            pictures=tuple(pictures),
        )

    def _reading(self, rows: Sequence[tuple[Heard, int, list[int]]], first: int) -> Reading:
        """The mean of rows: what was heard, its index of B, its indices of Q. Their pictures are counted from `first`."""
        nulls, found = [], dict[int, list[tuple[np.ndarray, np.ndarray]]]()
        for heard, batch, queries in rows:
            nulls.append(float(heard.null[batch, queries].mean()))
            part = 1 / (len(rows) * len(queries) * heard.null.shape[2])
            for image in np.flatnonzero(heard.visible[batch, queries].any(axis=0)).tolist():
                places = heard.places[batch, queries][:, :, image].astype(float)  # Q H L1 P 2
                weights = heard.weights[batch, queries][:, :, image].astype(float) * part  # Q H L P
                if places.shape[2] == 1:
                    weights = weights.sum(axis=2, keepdims=True)  # levels share their points
                found.setdefault(first + image, []).append((places.reshape(-1, 2), weights.reshape(-1)))
        looks = []
        for seen, parts in sorted(found.items()):
            xy, shares = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            # The model sees the centred square of a picture; people see the whole.
            size = np.array(self.document.images[seen].size, dtype=float)
            looks.append(Look(seen, (xy * size.min() + (size - size.min()) / 2) / size, shares))
        return Reading(tuple(looks), float(np.mean(nulls)), tuple(nulls))


@torch.no_grad()
def trace_document(
    network: MMInterleavedForConditionalGeneration,
    processor: MMInterleavedProcessor,
    document: Document,
    *,
    pictures: Collection[int] | None = None,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    seed: int = 0,
    model_hash: str = "",
) -> Trace:
    """Reads a document once and keeps where each token, and each cell of painted pictures, looked.

    Args:
        pictures: numbers of the pictures whose painting is traced; None: the generated ones. Those without an earlier picture
            have nothing to tell and are left out.
        noise_levels: shares of noise, above 0 and below 1.
        seed: of the noise.

    Raises:
        ConfigError: a noise level out of range, or no such picture.
        LayoutError, GenerationError: the document cannot be read; as in `stream`.
    """
    images = document.images
    wanted = [number for number, image in enumerate(images) if image.origin == "generated"] if pictures is None else sorted(set(pictures))
    if any(not 0 < level < 1 for level in noise_levels) or not noise_levels:
        raise ConfigError(f"noise levels: expected shares above 0 and below 1, got {list(noise_levels)}.")
    if any(not 0 <= number < len(images) for number in wanted):
        raise ConfigError(f"pictures: expected numbers from 0 to {len(images) - 1}, got {wanted}.")
    layout = open_layout(document, processor.tokens, limit=context_limit(network.config))
    state = DocumentState(network)
    decoder = network.language_model
    synchronizers = {f"layer {index}": cast("Synchronizer", decoder.layers[index].synchronizer) for index in decoder.mmfs_layers}
    with listening(synchronizers) as heard:
        state.read(layout)
    unet = network.image_decoder.unet
    readers: dict[str, nn.Module] = {f"skip {index}": module for index, module in enumerate(unet.skip_synchronizers)}
    readers["middle"] = unet.middle_synchronizer
    painted = {}
    for number in filter(None, wanted):
        with listening(readers) as seen:
            _paint_once(network, processor, state, layout, number, noise_levels, seed)
        painted[number] = tuple(seen[name] for name in readers)
    texts, words = _words(processor, document, layout)
    return Trace(
        document=document,
        texts=texts,
        words=words,
        layers=tuple(Layer(name, float(module.gate.tanh())) for name, module in synchronizers.items()),
        heard=tuple(heard[name] for name in synchronizers),
        picture_layers=tuple(Layer(name, None) for name in readers),
        painted=painted,
        noise_levels=tuple(noise_levels),
        seed=seed,
        model_hash=model_hash,
    )


def _paint_once(
    network: MMInterleavedForConditionalGeneration,
    processor: MMInterleavedProcessor,
    state: DocumentState,
    layout: Layout,
    number: int,
    noise_levels: Sequence[float],
    seed: int,
) -> None:
    """Predicts the noise in a picture of the document once per noise level, from the words and pictures before it."""
    decoder, count = network.image_decoder, len(noise_levels)
    values, picture = state.features.image_values(), layout.images[number]
    assert values is not None and picture is not None  # the document holds at least two pictures
    first = number - 1 if network.behaviour.previous_image_only else 0
    earlier = tuple(value[:, first:number].expand(count, -1, -1, -1, -1) for value in values)
    visible = torch.ones(count, number - first, dtype=torch.bool, device=network.device)
    condition = network.picture_condition(state.hidden()[:, : layout.image_begin[number] + 1])
    pixels = stack_pixels([picture], processor.target_side).to(network.device, network.dtype)
    shape = (1, decoder.latent_channels, decoder.latent_side, decoder.latent_side)
    latents = decoder.encode(pixels, torch.zeros(shape, device=network.device))
    noise = torch.randn(shape, generator=generator_for(seed, "trace", number)).to(latents.device, latents.dtype)
    levels = torch.tensor(list(noise_levels), device=latents.device)
    config = decoder.schedule.config
    timestep = levels if config.kind == "flow" else (levels * config.train_steps).long()
    noisy = decoder.schedule.add_noise(latents.expand(count, -1, -1, -1), noise.expand(count, -1, -1, -1), timestep)
    decoder.predict(noisy, timestep, condition.expand(count, -1, -1), earlier, visible, network.image_shapes)


def _words(processor: MMInterleavedProcessor, document: Document, layout: Layout) -> tuple[dict[int, str], tuple[Word, ...]]:
    """Joins tokens to words; a token across two words belongs to both."""
    texts: dict[int, str] = {}
    words: list[Word] = []
    ends = (*layout.segment_start[1:], len(layout))
    for segment in text_places(document):
        token, decoder = layout.segment_start[segment], IncrementalDecoder(processor.tokenizer)
        pieces = [*(decoder.add(layout.token_ids[position]) for position in range(token, ends[segment])), decoder.flush()]
        text, spans = "", list[tuple[int, int, range]]()  # characters, tokens
        for piece, token_ids in filter(None, pieces):
            spans.append((len(text), len(text) + len(piece), range(token, token + len(token_ids))))
            text, token = text + piece, token + len(token_ids)
        texts[segment] = text
        for found in _WORD.finditer(text):
            inside = [tokens for start, end, tokens in spans if start < found.end() and end > found.start()]
            words.append(Word(found[0], segment, found.start(), found.end(), tuple(token for tokens in inside for token in tokens)))
    return texts, tuple(words)


def _overlap(region: int, side: int) -> range:
    """Cells of a grid of this side that a region covers or lies in."""
    return range(region * side // REGIONS, max(-(-(region + 1) * side // REGIONS), region * side // REGIONS + 1))
