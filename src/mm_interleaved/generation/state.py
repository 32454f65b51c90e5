"""What the model has read of one document, so that nothing is computed twice.

The text cache survives pictures, each picture is encoded once, each synchronizer projects it once, and the hidden states since the
document's start stay, because every picture is painted from all of them. A state can be branched (two continuations of one
prefix), rolled back, saved and loaded; none of these reads anything again.

Axes: T tokens of this call · N pictures so far · V vocabulary · D width · K condition tokens (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mm_interleaved.document import Pixels
from mm_interleaved.errors import CheckpointError, GenerationError
from mm_interleaved.generation.encoding import encode_pictures
from mm_interleaved.generation.token_cache import GrowingCache, GrowingLayer
from mm_interleaved.model.configuration import MMFSConfig, MMInterleavedConfig
from mm_interleaved.model.feature_cache import FeatureCache, SideBySide
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.layout import Layout

READ_TOGETHER = 4096
"""Tokens, padding included, that go through the language model in one batch when several prompts are read."""

FULL_ENOUGH = 0.75
"""Prompts are read in one batch where each has at least this share of the tokens of the longest."""


class DocumentState:
    """Token cache, feature cache, hidden states and position of one document."""

    def __init__(
        self, model: MMInterleavedForConditionalGeneration, *, cache_bytes: int | None = None, cache_dtype: torch.dtype | None = None
    ) -> None:
        """
        Args:
            cache_bytes: bound of the feature cache; the oldest pictures leave first.
            cache_dtype: in which the feature cache keeps its values.
        """
        self.model = model
        self.tokens = GrowingCache()
        self.features = model.new_feature_cache(max_bytes=cache_bytes, dtype=cache_dtype)
        self.position = 0
        """Tokens read so far; where the next one will stand."""
        self.images = 0
        """Pictures read so far, those included that have left the feature cache."""
        self._hidden: list[Tensor] = []  # 1 T D each, in reading order
        self._last: Tensor | None = None  # logits after the last token

    @property
    def nbytes(self) -> int:
        """Memory of everything kept, in bytes."""
        return self.tokens.nbytes + self.features.nbytes + sum(hidden.nbytes for hidden in self._hidden)

    def read(self, layout: Layout) -> None:
        """Reads a prompt; see `read_prompts`."""
        read_prompts([self], [layout])

    def begin(self, features: FeatureCache, tokens: GrowingCache, hidden: Float[Tensor, "1 T D"], images: int) -> None:
        """Takes what the reading of a prompt has left."""
        self.features, self.tokens, self._hidden, self._last = features, tokens, [hidden], None
        self.position, self.images = hidden.shape[1], images

    @torch.no_grad()
    def append_token(self, token: int) -> None:
        """Reads one more token."""
        self._append([token], [], self._everything(1))

    @torch.no_grad()
    def append_image(self, picture: Pixels) -> None:
        """Reads the picture that the begin-of-image token before announced, as if it had been given: its tokens see itself too."""
        slots = self.model.config.image_tokens
        visible = torch.ones(slots, len(self.features) + 1, dtype=torch.bool, device=self._device)
        self._append([self.model.config.image_token_id] * slots, [picture], visible)

    @torch.no_grad()
    def look_ahead(self, token_ids: list[int]) -> Float[Tensor, "T V"]:
        """Logits after each of some further words, which are read and forgotten again."""
        position, last = self.position, self._last
        self._append(token_ids, [], self._everything(len(token_ids)))
        logits = self.model.logits(self._hidden.pop())[0]
        self.tokens.crop(-len(token_ids))
        self.position, self._last = position, last
        return logits

    @torch.no_grad()
    def next_logits(self) -> Float[Tensor, " V"]:
        """Logits of the next token."""
        if self._last is None:
            self._last = self.model.logits(self._hidden[-1][:, -1:])[0, 0]
        return self._last

    @torch.no_grad()
    def picture_condition(self) -> Float[Tensor, "1 K W"]:
        """What the next picture is painted from; call it right after begin-of-image was read."""
        return self.model.picture_condition(self.hidden())

    def hidden(self) -> Float[Tensor, "1 T D"]:
        """Hidden states of everything read, after the final norm."""
        if len(self._hidden) > 1:
            self._hidden = [torch.cat(self._hidden, dim=1)]
        return self._hidden[0]

    def note(self, logits: Float[Tensor, " V"]) -> None:
        """One more token was read elsewhere, together with other documents; what it left comes by `absorb`."""
        self.position += 1
        self._last = logits

    def absorb(self, hidden: list[Float[Tensor, "1 1 D"]]) -> None:
        """Takes the hidden states of what was read elsewhere; the token cache has its part already."""
        self._hidden.extend(hidden)

    def branch(self) -> DocumentState:
        """The same state for another continuation; memory is shared until the two differ."""
        other = DocumentState(self.model)
        other.tokens, other.features = self.tokens.branch(), self.features.branch()
        other.position, other.images, other._last = self.position, self.images, self._last
        other._hidden = list(self._hidden)
        return other

    def roll_back(self, position: int, images: int) -> None:
        """Forgets the tokens from `position` on and all but the first `images` pictures."""
        if position < self.position:
            self.tokens.crop(position - self.position)
            self._hidden = [self.hidden()[:, :position]] if position else []
            self._last = None
        self.features.drop_last(self.images - images)
        self.position, self.images = position, images

    def tensors(self) -> dict[str, Tensor]:
        """Everything kept, by name, ready for a safetensors file."""
        found = {f"features.{name}": tensor for name, tensor in self.features.tensors().items()}
        for index, layer in enumerate(self.tokens.growing):
            found |= {f"{name}.{index}": part for name, part in zip(("keys", "values"), layer.parts, strict=False)}
        if self._hidden:
            found["hidden"] = self.hidden()
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def restore(self, tensors: dict[str, Tensor], images: int) -> None:
        """Takes what `tensors` gave.

        Args:
            images: pictures that had been read.

        Raises:
            CheckpointError: the tensors are not those of a state of this model.
        """
        count = self.model.config.text_config.num_hidden_layers
        wanted = {"hidden", *(f"{part}.{layer}" for part in ("keys", "values") for layer in range(count))}
        missing = sorted(name for name in wanted if name not in tensors)
        if missing:
            raise CheckpointError(
                f"the saved state lacks {', '.join(missing[:3])} of this model's {count} layers; continue it with its own model."
            )
        moved = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        layers = [GrowingLayer() for _ in range(count)]
        for index, layer in enumerate(layers):
            layer.update(moved[f"keys.{index}"], moved[f"values.{index}"])
        self.tokens = GrowingCache(layers)
        self.features.restore({name.removeprefix("features."): moved[name] for name in moved if name.startswith("features.")})
        self._hidden, self._last = [moved["hidden"]], None
        self.position, self.images = moved["hidden"].shape[1], images

    @property
    def _device(self) -> torch.device:
        return self.model.device

    def _everything(self, tokens: int) -> Bool[Tensor, "T N"]:
        return torch.ones(tokens, len(self.features), dtype=torch.bool, device=self._device)

    def _append(self, token_ids: list[int], pictures: list[Pixels], visible: Bool[Tensor, "T N"]) -> None:
        image_tokens = None
        if pictures:
            found = encode_pictures(self.model, pictures)
            image_tokens = torch.cat([one.tokens for one in found])
            for one in found:
                self.model.remember(self.features, one)
        ids = torch.tensor([token_ids], dtype=torch.long, device=self._device)
        places = torch.arange(self.position, self.position + len(token_ids), device=self._device)[None]
        hidden = self.model.read(
            self.model.embed(ids, image_tokens),
            visible=visible[None, :, visible.shape[1] - len(self.features) :],  # the oldest may have left
            cache=self.features,
            past_key_values=self.tokens,
            position_ids=places,
        )
        self._hidden.append(hidden)
        self._last = None
        self.position += len(token_ids)
        self.images += len(pictures)


@torch.no_grad()
def read_prompts(states: Sequence[DocumentState], layouts: Sequence[Layout]) -> None:
    """Reads the prompts of documents that have read nothing yet: their pictures in common batches, prompts of similar length in one pass.

    If it fails, each state either has its whole prompt or is as it was.

    Args:
        states: of one model.
        layouts: of the prompts, in the same order.

    Raises:
        GenerationError: more pictures than the model can look back on, a picture that is still to be painted, or a picture that needs
            more memory than the feature cache may use.
    """
    model = states[0].model
    pictures = [_given_pictures(layout, model.config) for layout in layouts]
    encoded = iter(encode_pictures(model, [picture for own in pictures for picture in own]))
    prompts = []
    for state, layout in zip(states, layouts, strict=True):
        own = [next(encoded) for _ in layout.images]
        features = state.features.branch()
        for picture in own:
            model.remember(features, picture)
        prompts.append(_Prompt(state, layout, features, [picture.tokens for picture in own]))
    for group in _alike(prompts):
        _read_alike(model, group)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt whose pictures are encoded and remembered."""

    state: DocumentState
    layout: Layout
    features: FeatureCache
    image_tokens: list[Tensor]  # 1 M D each


def _given_pictures(layout: Layout, config: MMInterleavedConfig) -> list[Pixels]:
    limit = picture_limit(config)
    if len(layout.images) > limit:
        raise GenerationError(f"the prompt holds {len(layout.images)} pictures, the model looks back on at most {limit}; use fewer.")
    pictures = [image for image in layout.images if image is not None]
    if len(pictures) != len(layout.images):
        raise GenerationError("the prompt has a place for a picture that is not there; give the picture, or end the prompt before it.")
    return pictures


def _alike(prompts: Sequence[_Prompt]) -> Iterator[list[_Prompt]]:
    """Prompts that can be read in one pass: of similar length, and with equally many pictures in their caches."""

    def form(prompt: _Prompt) -> tuple[int, str]:
        return len(prompt.features), str(prompt.features.dtype)

    ordered = sorted(prompts, key=lambda prompt: (form(prompt), -len(prompt.layout)))
    group: list[_Prompt] = []
    for prompt in ordered:
        longest = len(group[0].layout) if group else 0
        near = len(prompt.layout) >= FULL_ENOUGH * longest and longest * (len(group) + 1) <= READ_TOGETHER
        if group and not (near and form(prompt) == form(group[0])):
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group


def _read_alike(model: MMInterleavedForConditionalGeneration, prompts: Sequence[_Prompt]) -> None:
    # Shorter ones are filled up behind their end: nothing before it sees what comes after.
    longest, kept = max(len(prompt.layout) for prompt in prompts), len(prompts[0].features)
    ids = [[*prompt.layout.token_ids, *prompt.layout.token_ids[:1] * (longest - len(prompt.layout))] for prompt in prompts]
    begin = [prompt.layout.image_begin[len(prompt.layout.images) - kept :] for prompt in prompts]  # the oldest may have left
    image_tokens = [tokens for prompt in prompts for tokens in prompt.image_tokens]
    position = torch.arange(longest, device=model.device).expand(len(prompts), -1)
    tokens = GrowingCache()
    hidden = model.read(
        model.embed(torch.tensor(ids, device=model.device), torch.cat(image_tokens) if image_tokens else None),
        visible=position[..., None] > torch.tensor(begin, dtype=torch.long, device=model.device)[:, None, :],
        cache=SideBySide([prompt.features for prompt in prompts]),
        past_key_values=tokens,
        position_ids=position,
    )
    owns = tokens.split([len(prompt.layout) for prompt in prompts])
    for prompt, own, states in zip(prompts, owns, hidden.split(1), strict=True):
        prompt.state.begin(prompt.features, own, states[:, : len(prompt.layout)].clone(), len(prompt.layout.images))


def picture_limit(config: MMInterleavedConfig) -> int:
    """Pictures a document may hold: the synchronizers know by number only so many pictures back."""
    text = config.mmfs_part.max_images - 1
    if config.behaviour_part.previous_image_only:
        return text
    # The last picture is painted from the earlier ones only, but read together with itself.
    return min(text, MMFSConfig.read(config.image_decoder_part.mmfs).max_images)


def context_limit(config: MMInterleavedConfig) -> int:
    """Tokens a document may have."""
    return int(config.text_config.max_position_embeddings)
