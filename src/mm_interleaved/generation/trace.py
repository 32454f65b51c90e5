"""What a document looked at: the points and weights of every MMFS, listened to while the document is read once.

    trace = trace_document(network, processor, document)
    trace.word(trace.words[-1]).looks[0].hottest()

Listening is a forward hook that exists only inside `listening`; it calls `MMFS.attend` beside the module's own forward, so nothing
that the model computes changes, and a model that is not traced pays nothing. Painted pictures are noised again as in training and
predicted once per stated noise level; the noise is keyed by (seed, picture).
Axes: B rows · Q queries · N images · H heads · L levels · P points (docs/glossary.md).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
_SIGNATURE = inspect.signature(MMFS.forward)


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


@contextmanager
def listening(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Heard]]:
    """While active, the latest call of each module is in the dictionary that this gives; afterwards no hook is left.

    Args:
        modules: synchronizers (with an `mmfs` inside) by name.
    """
    heard: dict[str, Heard] = {}

    def listen(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        asked = _SIGNATURE.bind(module, *args, **kwargs)
        asked.apply_defaults()
        heard[name] = _attended(module, asked.arguments)

    handles = []
    try:
        for name, module in modules.items():
            mmfs = cast(MMFS, module.mmfs)
            handles.append(mmfs.register_forward_pre_hook(partial(listen, name), with_kwargs=True))
        yield heard
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _attended(module: Any, asked: dict[str, Any]) -> Heard:
    query, visible = asked["query"], asked["visible"]
    config = module.config
    if visible.shape[-1] == 0:  # no picture at all
        empty = (*query.shape[:2], config.heads, 0)
        null = np.ones(empty[:3])
        return Heard(
            np.zeros((*empty, 1, config.points, 2)), np.zeros((*empty, len(config.level_sides), config.points)), null, _numbers(visible)
        )
    places, weights, null = module.attend(query, asked["reference_xy"], visible, asked["level_shapes"])
    return Heard(_numbers(places), _numbers(weights), _numbers(null), _numbers(visible))


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Everything heard of one document; `word` and `region` sum it up."""

    document: Document
    texts: dict[int, str]
    words: tuple[Word, ...]
    layers: tuple[Layer, ...]
    heard: tuple[Heard, ...]
    """Per layer of the language model; B = 1, Q = tokens of the document."""
    picture_layers: tuple[Layer, ...]
    painted: dict[int, tuple[Heard, ...]]
    """Picture → what was heard per synchronizer; B = noise levels, Q = cells of its grid. N counts from `first_seen`."""
    first_seen: dict[int, int]
    """Picture → the first of the earlier pictures that it may read."""
    noise_levels: tuple[float, ...]
    seed: int
    model_hash: str = ""

    def word(
        self,
        word: Word,
        moment: Moment = "read",
        *,
        layers: Collection[int] | None = None,
        heads: Collection[int] | None = None,
        levels: Collection[int] | None = None,
    ) -> Reading:
        """Where a word looked, averaged over its tokens and the chosen layers and heads (None: all), summed over the chosen levels."""
        queries = [token - (moment == "written") for token in word.tokens]
        rows = [(heard, 0, queries) for heard in self.heard]
        return self._reading(rows, 0, layers, heads, levels)

    def region(
        self,
        image: int,
        row: int,
        column: int,
        level: int,
        *,
        layers: Collection[int] | None = None,
        heads: Collection[int] | None = None,
        levels: Collection[int] | None = None,
    ) -> Reading:
        """Where a region of a painted picture looked at the noise level of this index; arguments as in `word`."""
        rows = []
        for heard in self.painted[image]:
            side = round(heard.null.shape[1] ** 0.5)
            down, across = _overlap(row, side), _overlap(column, side)
            rows.append((heard, level, [y * side + x for y in down for x in across]))
        return self._reading(rows, self.first_seen[image], layers, heads, levels)

    def explanation(self, moment: Moment = "read") -> Explanation:
        """Everything as plain numbers, for a page, a picture or JSON."""
        pictures = []
        for image in self.painted:
            regions = tuple(
                tuple(self.region(image, row, column, level) for row in range(REGIONS) for column in range(REGIONS))
                for level in range(len(self.noise_levels))
            )
            pictures.append(PaintedPicture(image, REGIONS, self.noise_levels, regions))
        return Explanation(
            document=self.document,
            texts=self.texts,
            words=self.words,
            readings=tuple(self.word(word, moment) for word in self.words),
            moment=moment,
            layers=self.layers,
            pictures=tuple(pictures),
            picture_layers=self.picture_layers,
            seed=self.seed,
            model_hash=self.model_hash,
        )

    def _reading(
        self,
        rows: Sequence[tuple[Heard, int, list[int]]],
        first_seen: int,
        layers: Collection[int] | None,
        heads: Collection[int] | None,
        levels: Collection[int] | None,
    ) -> Reading:
        chosen = [rows[layer] for layer in (range(len(rows)) if layers is None else layers)]
        nulls, found = [], dict[int, list[tuple[np.ndarray, np.ndarray]]]()
        for heard, batch, queries in chosen:
            used = list(range(heard.null.shape[2])) if heads is None else list(heads)
            kept = list(range(heard.weights.shape[4])) if levels is None else list(levels)
            part = 1 / (len(chosen) * len(queries) * len(used))
            nulls.append(float(heard.null[batch][queries][:, used].mean()))
            for image in np.flatnonzero(heard.visible[batch][queries].any(axis=0)).tolist():
                weights = heard.weights[batch][queries][:, used, image][:, :, kept].astype(float) * part  # Q H L P
                places = heard.places[batch][queries][:, used, image].astype(float)  # Q H L1 P 2
                if places.shape[2] == 1:
                    weights = weights.sum(axis=2, keepdims=True)  # levels share their points
                else:
                    places = places[:, :, kept]
                found.setdefault(first_seen + image, []).append((places.reshape(-1, 2), weights.reshape(-1)))
        looks = []
        for seen, parts in sorted(found.items()):
            xy = np.concatenate([places for places, _ in parts])
            looks.append(Look(seen, self._in_picture(seen, xy), np.concatenate([weights for _, weights in parts])))
        return Reading(tuple(looks), float(np.mean(nulls)), tuple(nulls))

    def _in_picture(self, image: int, xy: np.ndarray) -> np.ndarray:
        # The model sees the centred square of a picture; people see the whole.
        size = np.array(self.document.images[image].size, dtype=float)
        return (xy * size.min() + (size - size.min()) / 2) / size


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
    layers = tuple(Layer(name, float(module.gate.tanh())) for name, module in synchronizers.items())
    texts, words = _words(processor, document, layout)

    unet = network.image_decoder.unet
    readers: dict[str, nn.Module] = {f"skip {index}": module for index, module in enumerate(unet.skip_synchronizers)}
    readers["middle"] = unet.middle_synchronizer
    painted, first_seen = dict[int, tuple[Heard, ...]](), dict[int, int]()
    for number in wanted:
        if number == 0:
            continue
        first_seen[number] = number - 1 if network.behaviour.previous_image_only else 0
        with listening(readers) as seen:
            _paint_once(network, processor, state, layout, number, first_seen[number], noise_levels, seed)
        painted[number] = tuple(seen[name] for name in readers)
    return Trace(
        document=document,
        texts=texts,
        words=words,
        layers=layers,
        heard=tuple(heard[name] for name in synchronizers),
        picture_layers=tuple(Layer(name, None) for name in readers),
        painted=painted,
        first_seen=first_seen,
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
    first: int,
    noise_levels: Sequence[float],
    seed: int,
) -> None:
    """Predicts the noise in a picture of the document once per noise level, from the words and pictures before it."""
    decoder = network.image_decoder
    values = state.features.image_values()
    assert values is not None  # the document holds at least two pictures
    earlier = tuple(value[:, first:number].expand(len(noise_levels), -1, -1, -1, -1) for value in values)
    condition = network.picture_condition(state.hidden()[:, : layout.image_begin[number] + 1])
    picture = layout.images[number]
    assert picture is not None
    pixels = stack_pixels([picture], processor.target_side).to(network.device, network.dtype)
    shape = (1, decoder.latent_channels, decoder.latent_side, decoder.latent_side)
    latents = decoder.encode(pixels, torch.zeros(shape, device=network.device))
    noise = torch.randn(shape, generator=generator_for(seed, "trace", number)).to(latents.device, latents.dtype)
    levels = torch.tensor(list(noise_levels), device=latents.device)
    config = decoder.schedule.config
    timestep = levels if config.kind == "flow" else (levels * config.train_steps).long()
    count = len(noise_levels)
    noisy = decoder.schedule.add_noise(latents.expand(count, -1, -1, -1), noise.expand(count, -1, -1, -1), timestep)
    visible = torch.ones(count, number - first, dtype=torch.bool, device=latents.device)
    decoder.predict(noisy, timestep, condition.expand(count, -1, -1), earlier, visible, network.image_shapes)


def _words(processor: MMInterleavedProcessor, document: Document, layout: Layout) -> tuple[dict[int, str], tuple[Word, ...]]:
    """Joins tokens to words; a token across two words belongs to both."""
    texts: dict[int, str] = {}
    words: list[Word] = []
    ends = (*layout.segment_start[1:], len(layout))
    for segment in text_places(document):
        first = layout.segment_start[segment]
        decoder = IncrementalDecoder(processor.tokenizer)
        text = ""
        spans: list[tuple[int, int, tuple[int, ...]]] = []  # characters, tokens
        waiting: list[int] = []

        def keep(piece: tuple[str, tuple[int, ...]] | None) -> None:
            nonlocal text
            if piece is not None:
                spans.append((len(text), len(text) + len(piece[0]), tuple(waiting)))  # noqa: B023 - called at once
                text += piece[0]
                waiting.clear()  # noqa: B023

        for position in range(first, ends[segment]):
            waiting.append(position)
            keep(decoder.add(layout.token_ids[position]))
        keep(decoder.flush())
        texts[segment] = text
        for found in _WORD.finditer(text):
            inside = [tokens for start, end, tokens in spans if start < found.end() and end > found.start()]
            words.append(Word(found[0], segment, found.start(), found.end(), tuple(token for tokens in inside for token in tokens)))
    return texts, tuple(words)


def _overlap(region: int, side: int) -> range:
    """Cells of a grid of this side that a region covers or lies in."""
    return range(region * side // REGIONS, max(-(-(region + 1) * side // REGIONS), region * side // REGIONS + 1))
