"""A document continued as the released loop does it, on the same weights: nothing outlives a step.

Every text step encodes all pictures again and reads the whole history again; within it tokens have a key-value cache, but each token
projects all picture values again. Every picture step encodes all pictures and a grey one, reads the whole history with 64 places for the
new picture, and each denoising step projects the values of the picture before it again, for both branches. MMFS runs in the released
form. Left out is what only costs disk: the release loads its diffusion pipeline anew for every picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from published import as_published
from torch import Tensor
from transformers import DynamicCache

from mm_interleaved.document import Document, Image, Pixels
from mm_interleaved.generation.load import Model
from mm_interleaved.generation.random import generator_for
from mm_interleaved.model.feature_cache import Values
from mm_interleaved.processing.images import from_pixels, stack_pixels

GREY = 128


class _Again:
    """Projects the values at every call."""

    def __init__(self, model: Model, maps: Sequence[Tensor]) -> None:
        network = model.network
        self._project = network.language_model.project_features
        self._maps = torch.cat([maps[level].flatten(2).transpose(1, 2) for level in network.text_levels], dim=1)[None]

    def text_values(self) -> Values:
        return self._project(self._maps)


class Recomputed:
    """The growing history of one document: token ids and pictures, as the release keeps it."""

    def __init__(self, model: Model, document: Document) -> None:
        self.model = model
        layout = model.processor.open_layout(document)
        self.ids = list(layout.token_ids)
        self.begins = list(layout.image_begin)
        self.pictures: list[Pixels] = [image.array() for image in document if isinstance(image, Image)]

    @torch.no_grad()
    def write(self, tokens: Sequence[int]) -> None:
        """One text step; the tokens are given, the choice is computed and thrown away."""
        network = self.model.network
        with as_published():
            hidden, again, past = self._read_everything(self.pictures)
            visible = torch.ones(1, 1, len(self.pictures), dtype=torch.bool)
            for token in tokens:
                network.logits(hidden[:, -1:]).argmax()
                self.ids.append(token)
                places = torch.tensor([[len(self.ids) - 1]])
                embedded = network.embed(torch.tensor([[token]]))
                hidden = network.read(embedded, visible=visible, cache=again, past_key_values=past, position_ids=places)

    @torch.no_grad()
    def paint(self, *, steps: int, guidance: float, seed: int = 0) -> Pixels:
        """One picture step."""
        network, config = self.model.network, self.model.network.config
        decoder, place = network.image_decoder, len(self.pictures)
        self.begins.append(len(self.ids))
        self.ids += [config.begin_image_token_id] + [config.image_token_id] * config.image_tokens
        grey = torch.full((config.image_side, config.image_side, 3), GREY, dtype=torch.uint8).numpy()
        with as_published():
            hidden, _, _ = self._read_everything([*self.pictures, grey])
            condition = network.picture_condition(hidden[:, : self.begins[-1] + 1])
            conditions = torch.cat([decoder.negative_condition(1), condition])
            previous = network.encode_images(stack_pixels(self.pictures[-1:], config.image_side)).maps if place else None
            maps = None
            if previous is not None:
                maps = torch.cat([previous[level].flatten(2).transpose(1, 2) for level in network.image_levels], dim=1)[None].expand(
                    2, -1, -1, -1
                )
            generator = generator_for(seed, "image", place)
            shape = (decoder.latent_channels, decoder.latent_side, decoder.latent_side)
            latents = torch.randn(shape, generator=generator)[None]
            instants = decoder.schedule.inference_timesteps(steps)
            for step in range(steps):
                values = None if maps is None else decoder.project_features(maps)
                visible = None if maps is None else torch.ones(2, 1, dtype=torch.bool)
                rows = torch.cat([latents, latents])
                prediction = decoder.predict(rows, instants[step].expand(2), conditions, values, visible, network.image_shapes)
                unconditioned, conditioned = prediction.chunk(2)
                prediction = unconditioned + guidance * (conditioned - unconditioned)
                noise = torch.randn(shape, generator=generator)[None]
                latents = decoder.schedule.step(prediction, instants[step], instants[step + 1], latents, noise)
            picture = from_pixels(decoder.decode(latents)[0])
        self.pictures.append(picture)
        return picture

    def _read_everything(self, pictures: Sequence[Pixels]) -> tuple[Tensor, _Again, DynamicCache]:
        network, config = self.model.network, self.model.network.config
        features = network.encode_images(stack_pixels(pictures, config.image_side))
        again, past = _Again(self.model, features.maps), DynamicCache()
        position = torch.arange(len(self.ids))
        visible = (position[:, None] > torch.tensor(self.begins)[None, :])[None]
        embedded = network.embed(torch.tensor([self.ids]), features.tokens)
        hidden = network.read(embedded, visible=visible, cache=again, past_key_values=past, position_ids=position[None])
        return hidden, again, past
