"""What the model has read of one document, so that nothing is computed twice.

The text cache survives pictures, each picture is encoded once, each synchronizer projects it once, and the hidden states since the
document's start stay, because every picture is painted from all of them.

Axes: T tokens of this call · N pictures so far · V vocabulary · D width · K condition tokens (docs/glossary.md).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache

from mm_interleaved.document import Pixels
from mm_interleaved.errors import GenerationError
from mm_interleaved.model.configuration import MMFSConfig, MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.visual_tokenizer import VisualFeatures
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.processing.layout import Layout


class DocumentState:
    """Token cache, feature cache, hidden states and position of one document."""

    def __init__(self, model: MMInterleavedForConditionalGeneration) -> None:
        self.model = model
        self.tokens = DynamicCache()
        self.features = model.new_feature_cache()
        self.position = 0
        """Tokens read so far; where the next one will stand."""
        self._hidden: list[Tensor] = []  # 1 T D each, in reading order
        self._last: Tensor | None = None  # logits after the last token

    @property
    def images(self) -> int:
        """Pictures read so far."""
        return len(self.features)

    @torch.no_grad()
    def read(self, layout: Layout) -> None:
        """Reads a prompt: its pictures in one batch, its tokens in one pass.

        Raises:
            GenerationError: more pictures than the model can look back on, or a picture that is still to be painted.
        """
        limit = picture_limit(self.model.config)
        if len(layout.images) > limit:
            raise GenerationError(f"the prompt holds {len(layout.images)} pictures, the model looks back on at most {limit}; use fewer.")
        pictures = [image for image in layout.images if image is not None]
        if len(pictures) != len(layout.images):
            raise GenerationError("the prompt has a place for a picture that is not there; give the picture, or end the prompt before it.")
        position = torch.arange(len(layout), device=self._device)
        begin = torch.tensor(layout.image_begin, dtype=torch.long, device=self._device)
        visible = position[:, None] > begin[None, :]
        self._append(list(layout.token_ids), pictures, visible)

    @torch.no_grad()
    def append_token(self, token: int) -> None:
        """Reads one more token."""
        self._append([token], [], torch.ones(1, self.images, dtype=torch.bool, device=self._device))

    @torch.no_grad()
    def append_image(self, picture: Pixels) -> None:
        """Reads the picture that the begin-of-image token before announced, as if it had been given: its tokens see itself too."""
        slots = self.model.config.image_tokens
        visible = torch.ones(slots, self.images + 1, dtype=torch.bool, device=self._device)
        self._append([self.model.config.image_token_id] * slots, [picture], visible)

    @torch.no_grad()
    def look_ahead(self, token_ids: list[int]) -> Float[Tensor, "T V"]:
        """Logits after each of some further words, which are read and forgotten again."""
        position, last = self.position, self._last
        visible = torch.ones(len(token_ids), self.images, dtype=torch.bool, device=self._device)
        self._append(token_ids, [], visible)
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

    @property
    def _device(self) -> torch.device:
        return self.model.device

    def _append(self, token_ids: list[int], pictures: list[Pixels], visible: Bool[Tensor, "T N"]) -> None:
        image_tokens = None
        if pictures:
            side = self.model.config.image_side
            found = self.model.encode_images(stack_pixels(pictures, side).to(self._device, self.model.dtype))
            image_tokens = found.tokens
            for index in range(len(pictures)):
                one = slice(index, index + 1)
                self.model.remember(self.features, VisualFeatures(found.tokens[one], tuple(level[one] for level in found.maps)))
        ids = torch.tensor([token_ids], dtype=torch.long, device=self._device)
        places = torch.arange(self.position, self.position + len(token_ids), device=self._device)[None]
        hidden = self.model.read(
            self.model.embed(ids, image_tokens),
            visible=visible[None],
            cache=self.features,
            past_key_values=self.tokens,
            position_ids=places,
        )
        self._hidden.append(hidden)
        self._last = None
        self.position += len(token_ids)


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
