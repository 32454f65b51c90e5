"""The whole model: words and pictures in any order in, the next word or the next picture out.

    pixels ──visual tokenizer──► picture tokens + multi-scale maps
    ids + picture tokens ──language model, MMFS reads the maps──► hidden states ──text head──► next word
    hidden states from the document's start to begin-of-image ──image decoder, MMFS reads earlier maps──► next picture

Source: arXiv 2401.10208; release `models/mm_interleaved.py`. Deviations: the fields of `Behaviour` (docs/deviations.md).
Axes: B rows · T tokens · I images · N images of the fullest row · K painted images · S cells of all levels of one image ·
F feature width · D width of the language model · V vocabulary (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache

from mm_interleaved.batch import IGNORED_TARGET, NO_DOCUMENT, NO_IMAGE, Batch, ModelOutput, NoiseDraw
from mm_interleaved.errors import ConfigError
from mm_interleaved.model.conditioned_unet import DocumentValues
from mm_interleaved.model.configuration import MMFSConfig, MMInterleavedConfig
from mm_interleaved.model.feature_cache import FeatureCache, TextValues
from mm_interleaved.model.image_decoder import ImageDecoder
from mm_interleaved.model.language_model import MMFSInputs, MMFSLlamaModel, TextHead
from mm_interleaved.model.objective import document_loss, image_terms, text_terms
from mm_interleaved.model.positions import sincos_1d
from mm_interleaved.model.visual_tokenizer import VisualFeatures, VisualTokenizer
from mm_interleaved.ops.numbers import numbers_on
from mm_interleaved.ops.take import take


class MMInterleavedForConditionalGeneration(PreTrainedModel):
    """Visual tokenizer, language model with MMFS, image decoder with MMFS.

    `forward` takes plain tensors and is transformers' interface; inside, `forward_batch` takes the records of `batch.py`. Nothing
    here draws a random number.
    """

    config_class = MMInterleavedConfig
    base_model_prefix = ""
    main_input_name = "token_ids"
    input_modalities = ("text", "image")  # type: ignore[assignment]
    config: MMInterleavedConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "MMFSDecoderLayer", "InteractionBlock"]
    _keep_in_fp32_modules_strict = ["vae"]
    _supports_sdpa = True
    _supports_attention_backend = True
    fsdp_forward_methods = ("forward_batch", "encode_images", "embed", "read", "logits", "picture_condition", "predict_noise")

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        feature_width = config.vision_config.hidden_size
        decoder = config.image_decoder_part
        self.behaviour = config.behaviour_part
        self.visual_tokenizer = VisualTokenizer(config)
        self.language_model = MMFSLlamaModel(config.text_config, config.mmfs_part, feature_width=feature_width)
        self.text_head = TextHead(config)
        self.image_decoder = ImageDecoder(
            decoder,
            context_width=width,
            feature_width=feature_width,
            constant_residual_without_image=self.behaviour.constant_residual_without_image,
        )
        self.context_projection = nn.Linear(width, width)
        self.begin_image_embedding = nn.Parameter(torch.zeros(width))
        sides = self.visual_tokenizer.map_sides
        self.text_levels = _levels(config.mmfs_part.level_sides, sides, "mmfs")
        wanted = MMFSConfig.read(decoder.mmfs).level_sides
        # As many levels as there are maps means all of them: the published decoder names the sides of its own picture size whatever
        # the real ones are, and its offsets scale with the named ones.
        self.image_levels = tuple(range(len(sides))) if len(wanted) == len(sides) else _levels(wanted, sides, "image_decoder.mmfs")
        self.image_shapes = tuple((sides[level], sides[level]) for level in self.image_levels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers redoes the initialisation of everything that is not a PreTrainedModel; ours keep their own start.
        if module is self:
            init.normal_(self.context_projection.weight, std=self.context_projection.in_features**-0.5)
            init.zeros_(self.context_projection.bias)
            init.zeros_(self.begin_image_embedding)
        elif hasattr(module, "reset_parameters") and type(module).__module__.startswith("mm_interleaved."):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        pixels: Float[Tensor, "I 3 H W"] | None = None,
        *,
        document_index: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        targets: Int[Tensor, "B T"] | None = None,
        target_pixels: Float[Tensor, "K 3 height width"] | None = None,
        target_image: Int[Tensor, " K"] | None = None,
        target_weight: Float[Tensor, " K"] | None = None,
        noise: Float[Tensor, "K C h w"] | None = None,
        timestep: Tensor | None = None,
        posterior: Float[Tensor, "K C h w"] | None = None,
        drop: Float[Tensor, " K"] | None = None,
        return_dict: bool = True,
    ) -> ModelOutput | tuple[Any, ...]:
        """Predicts every next token and, where noise is given, the noise in every painted picture.

        Args:
            pixels: encoder views in [0, 1], in reading order row by row; one per begin-of-image token.
            document_index: see `Batch`; by default each row is one document and pad tokens are padding.
            position_ids: by default counted from 0.
            targets: next token at each position, `IGNORED_TARGET` where untrained; without them there is no loss.
            target_pixels: decoder views of the painted images; by default all images have to be given.
            noise, timestep, posterior, drop: the fields of `NoiseDraw`; without them pictures are not painted.
        """
        batch = self._as_batch(token_ids, pixels, document_index, position_ids, targets, target_pixels, target_image, target_weight)
        draw = None
        if noise is not None and timestep is not None and posterior is not None and drop is not None:
            draw = NoiseDraw(noise=noise, timestep=timestep, posterior=posterior, drop=drop)
        output = self.forward_batch(batch, draw)
        if targets is None and draw is None:
            output.loss = None
        return output if return_dict else output.to_tuple()

    def forward_batch(self, batch: Batch, draw: NoiseDraw | None, *, synchronized: Bool[Tensor, "B T 1"] | None = None) -> ModelOutput:
        """One pass over a packed batch: both losses, all logits.

        Args:
            draw: random numbers of the painted images; None leaves the image loss out.
            synchronized: where the language model's synchronizers add anything; None means everywhere.
        """
        features = self.visual_tokenizer(batch.pixels)
        hidden = self.read_batch(batch, features, synchronized=synchronized)
        logits = self.logits(hidden)
        if draw is not None and batch.target_pixels.shape[0]:
            squared_error = self._paint_batch(batch, draw, features, hidden)
            image = image_terms(squared_error, self._image_weight(batch), count_all=self.behaviour.image_mean_over_all)
        else:
            image = (hidden.new_zeros(()), hidden.new_zeros(()))
        terms = document_loss(
            text=text_terms(logits, batch.targets),
            image=image,
            text_loss_weight=self.config.text_loss_weight,
            image_loss_weight=self.config.image_loss_weight,
        )
        return ModelOutput(
            loss=terms.total, logits=logits, text_loss=terms.text, image_loss=terms.image, last_hidden_state=hidden, terms=terms
        )

    def counted_images(self, batch: Batch) -> int:
        """How many painted pictures of a batch the image loss is divided by, without computing it."""
        weight = self._image_weight(batch)
        return weight.numel() if self.behaviour.image_mean_over_all else int((weight != 0).sum())

    def _image_weight(self, batch: Batch) -> Float[Tensor, " K"]:
        # A picture with too little before it has no weight.
        context_length = batch.image_begin[batch.target_image] - batch.context_start() + 1
        return batch.target_weight * (context_length >= self.behaviour.minimum_context)

    # Entry points of generation. Each can be called alone; together they compute what `forward_batch` computes.

    def encode_images(self, pixels: Float[Tensor, "I 3 H W"]) -> VisualFeatures:
        """Encodes pictures in [0, 1] into tokens and maps."""
        return self.visual_tokenizer(pixels)

    def embed(self, token_ids: Int[Tensor, "B T"], image_tokens: Float[Tensor, "I M D"] | None = None) -> Float[Tensor, "B T D"]:
        """Looks tokens up; picture tokens take the places of the placeholders in reading order.

        Args:
            image_tokens: tokens of each picture, as many in all as there are placeholders.
        """
        embeddings = self.language_model.embed_tokens(token_ids)
        if image_tokens is not None:
            slots = (token_ids == self.config.image_token_id)[..., None].expand_as(embeddings)
            embeddings = embeddings.masked_scatter(slots, image_tokens.to(embeddings.dtype))
        begins = (token_ids == self.config.begin_image_token_id)[..., None]
        return embeddings + begins * self.begin_image_embedding.to(embeddings.dtype)

    def new_feature_cache(
        self, *, max_images: int | None = None, max_bytes: int | None = None, dtype: torch.dtype | None = None
    ) -> FeatureCache:
        """An empty cache for the pictures of one batch of documents; arguments as in `FeatureCache`."""
        return FeatureCache(
            self.language_model.project_features,
            self.image_decoder.project_features,
            previous_only=self.behaviour.previous_image_only,
            max_images=max_images,
            max_bytes=max_bytes,
            dtype=dtype,
        )

    def remember(self, cache: FeatureCache, features: VisualFeatures) -> None:
        """One more picture of every document joins the cache."""
        cache.append(_flatten(features.maps, self.text_levels), _flatten(features.maps, self.image_levels))

    def read(
        self,
        embeddings: Float[Tensor, "B T D"],
        *,
        visible: Bool[Tensor, "B T N"],
        cache: TextValues,
        past_key_values: Cache | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Reads on: hidden states after the final norm; `past_key_values` grows in place.

        Args:
            visible: which pictures of the cache each token may read.
            attention_mask: as transformers' decoder takes it; None is plain causal.
        """
        values = cache.text_values()
        mmfs = self._no_pictures(embeddings) if values is None else MMFSInputs(visible=visible, values=values)
        output = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            mmfs=mmfs,
        )
        return output.last_hidden_state

    def logits(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        """Hidden states → logits over the vocabulary."""
        return self.text_head(hidden, self.language_model.embed_tokens.weight)

    def picture_condition(self, hidden: Float[Tensor, "K L D"], mask: Bool[Tensor, "K L"] | None = None) -> Float[Tensor, "K M W"]:
        """Condition of the next picture from the hidden states of its document.

        Args:
            hidden: from the document's start up to and including begin-of-image, in reading order, right-aligned.
            mask: False at padding on the left; None where there is none.
        """
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        context, mask = self.context_projection(hidden).flip(1), mask.flip(1)
        return self.image_decoder.condition(self._with_distances(context), mask, _pooled(context, mask))

    def predict_noise(
        self,
        latents: Float[Tensor, "K C h w"],
        timestep: Tensor,
        condition: Float[Tensor, "K M W"],
        caches: Sequence[FeatureCache],
        rows: Sequence[Sequence[int]] | None = None,
    ) -> Float[Tensor, "K C h w"]:
        """One step of the denoiser for pictures of one or several documents; each reads the earlier pictures of its own.

        Args:
            timestep: one per row.
            caches: one per document, of one row each.
            rows: which rows are of which document: the branches of its picture, which hold the same latents at the same time; None: all
                rows are of the only one, whatever they hold.
        """
        values = [cache.image_values() for cache in caches]
        if all(value is None for value in values):
            return self.image_decoder.predict(latents, timestep, condition)
        own_rows = (range(latents.shape[0]),) if rows is None else rows
        indices = tuple(numbers_on(latents.device, own, torch.long) for own in own_rows)
        documents = DocumentValues(tuple(values), indices, branches=rows is not None)
        return self.image_decoder.predict(latents, timestep, condition, documents, None, self.image_shapes)

    # What a training pass does with a packed batch.

    def read_batch(
        self, batch: Batch, features: VisualFeatures, *, synchronized: Bool[Tensor, "B T 1"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Hidden states of a packed batch, after the final norm; `synchronized` as in `forward_batch`."""
        embeddings = self.embed(batch.token_ids, features.tokens)
        mmfs = replace(self._no_pictures(embeddings), synchronized=synchronized)
        if batch.row_images.shape[1]:
            # Projected once per picture, then laid out per row.
            projected = self.language_model.project_features(_flatten(features.maps, self.text_levels)[:, None])
            index = batch.row_images.clamp(min=0)
            values = tuple(take(each[:, 0], index) for each in projected)
            mmfs = MMFSInputs(visible=batch.visible(), values=values, synchronized=synchronized)
        output = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask(batch, isolate=self.behaviour.isolate_documents, dtype=embeddings.dtype),
            position_ids=batch.position_ids,
            use_cache=False,
            mmfs=mmfs,
        )
        return output.last_hidden_state

    def _no_pictures(self, embeddings: Float[Tensor, "B T D"]) -> MMFSInputs:
        # A word before the first picture reads the null value, whether or not pictures follow it somewhere in the batch.
        rows, tokens = embeddings.shape[:2]
        visible = torch.ones(rows, tokens, 0, dtype=torch.bool, device=embeddings.device)
        return MMFSInputs(visible=visible, values=(embeddings.new_zeros(rows, 0, 0, 0, 0),) * len(self.language_model.mmfs_layers))

    def batch_condition(self, batch: Batch, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "K M W"]:
        """Condition of every painted picture of a packed batch."""
        context, mask = self._batch_context(batch, hidden)
        return self.image_decoder.condition(self._with_distances(context), mask, _pooled(context, mask))

    def _paint_batch(self, batch: Batch, draw: NoiseDraw, features: VisualFeatures, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, " K"]:
        context, mask = self._batch_context(batch, hidden)
        visible = batch.earlier_images(previous_only=self.behaviour.previous_image_only)
        maps = map_index = None
        if visible.shape[1]:
            maps = _flatten(features.maps, self.image_levels)[:, None]
            map_index = batch.row_images[batch.image_row[batch.target_image]].clamp(min=0)
        return self.image_decoder(
            batch.target_pixels,
            self._with_distances(context),
            mask,
            maps,
            visible,
            draw,
            level_shapes=self.image_shapes,
            map_index=map_index,
            pooled=_pooled(context, mask),
        )

    def _batch_context(self, batch: Batch, hidden: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "K T D"], Bool[Tensor, "K T"]]:
        # Projected hidden states from begin-of-image backwards to the document's start, and which of them are there.
        row, begin = batch.image_row[batch.target_image], batch.image_begin[batch.target_image]
        distance = torch.arange(hidden.shape[1], device=hidden.device)  # 0 at begin-of-image, growing backwards
        position = begin[:, None] - distance  # K T
        mask = position >= batch.context_start()[:, None]
        projected = self.context_projection(hidden).flatten(0, 1)
        return take(projected, row[:, None] * hidden.shape[1] + position.clamp(min=0)), mask

    def _with_distances(self, context: Float[Tensor, "K L D"]) -> Float[Tensor, "K L D"]:
        # Position 0 is the begin-of-image token, counted backwards in time (spec §1.1).
        table = sincos_1d(torch.arange(context.shape[1], device=context.device), context.shape[2])
        return context + table.to(context.dtype)

    def _as_batch(
        self,
        token_ids: Tensor,
        pixels: Tensor | None,
        document_index: Tensor | None,
        position_ids: Tensor | None,
        targets: Tensor | None,
        target_pixels: Tensor | None,
        target_image: Tensor | None,
        target_weight: Tensor | None,
    ) -> Batch:
        rows, length = token_ids.shape
        device = token_ids.device
        side = self.config.image_side
        if pixels is None:
            pixels = torch.zeros(0, 3, side, side, device=device, dtype=self.dtype)
        if document_index is None:
            document_index = torch.where(token_ids == self.config.pad_token_id, NO_DOCUMENT, 0)
        if position_ids is None:
            position_ids = torch.arange(length, device=device).expand(rows, -1)
        image_row, image_begin = (token_ids == self.config.begin_image_token_id).nonzero(as_tuple=True)
        images = image_row.shape[0]
        per_row = torch.bincount(image_row, minlength=rows)
        slots = torch.arange(int(per_row.max()) if images else 0, device=device).expand(rows, -1)
        first = (per_row.cumsum(0) - per_row)[:, None]
        row_images = torch.where(slots < per_row[:, None], first + slots, NO_IMAGE)
        if target_pixels is None:
            painted = self.config.image_decoder_part.image_side
            target_pixels = torch.zeros(0, 3, painted, painted, device=device, dtype=self.dtype)
            target_image = torch.zeros(0, dtype=torch.long, device=device)
        elif target_image is None:
            target_image = torch.arange(images, device=device)
        if target_weight is None:
            target_weight = torch.ones(target_image.shape[0], device=device)  # type: ignore[union-attr]
        return Batch(
            token_ids=token_ids,
            document_index=document_index,
            position_ids=position_ids,
            targets=targets if targets is not None else torch.full_like(token_ids, IGNORED_TARGET),
            pixels=pixels,
            target_pixels=target_pixels,
            target_image=target_image,  # type: ignore[arg-type]
            target_weight=target_weight,
            image_row=image_row,
            image_begin=image_begin,
            row_images=row_images,
        ).check()


def attention_mask(batch: Batch, *, isolate: bool, dtype: torch.dtype) -> Float[Tensor, "B 1 T T"]:
    """Additive mask: 0 where a token may attend, the dtype's minimum elsewhere.

    Args:
        isolate: packed documents do not attend to each other; otherwise only order and padding count, as published.
    """
    length = batch.token_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=batch.token_ids.device).tril()
    key_is_real = batch.token_mask[:, None, :]
    if isolate:
        allowed = causal & (batch.document_index[:, :, None] == batch.document_index[:, None, :]) & key_is_real
    else:
        allowed = causal & key_is_real
    # Padding attends to itself, so that no row of the softmax is empty.
    allowed = allowed | torch.eye(length, dtype=torch.bool, device=allowed.device)
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def _levels(wanted: tuple[int, ...], sides: tuple[int, ...], where: str) -> tuple[int, ...]:
    missing = [side for side in wanted if side not in sides]
    if missing:
        raise ConfigError(f"{where}.level_sides {wanted} names sides {missing}; the visual tokenizer makes maps of {sides} cells.")
    return tuple(sides.index(side) for side in wanted)


def _pooled(context: Float[Tensor, "K L D"], mask: Bool[Tensor, "K L"]) -> Float[Tensor, "K D"]:
    # A sum that keeps its size: a mean over the words would leave each of them a share of 1/L.
    return (context * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).to(context.dtype).sqrt()


def _flatten(maps: tuple[Tensor, ...], levels: tuple[int, ...]) -> Float[Tensor, "I S F"]:
    return torch.cat([maps[level].flatten(2).transpose(1, 2) for level in levels], dim=1)
