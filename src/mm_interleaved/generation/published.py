"""Generation as the release did it, for comparison with it: token rows in, token rows or pictures out.

    rows ──one pass──► hidden states ──greedy, sampling or beams, with caches──► new tokens
    rows ──one pass──► one condition per picture ──DDPM with guidance──► pictures

`engine.stream` is the way to use a model; this module gives the released numbers on the same model class (`Behaviour` must be
`PUBLISHED` for that). Nothing is computed twice: pictures are encoded once, the synchronizers of the language model and of the UNet
project each picture once, the beams share one reading of the prompt. Every random number of a picture is an argument.

Source: arXiv 2401.10208; release `generate_texts`, `generate_images`, `sd.py`, `/inference.py` (spec §4.1, §4.2, §5.4).
Deviations: results are the same, the caches are new; sampling draws on the CPU; several beams cannot be sampled.
Axes: B rows · T tokens · I images · N images of the fullest row · K painted images · R = candidates · K · S denoising steps ·
M condition tokens · W condition width · V vocabulary · C latent channels · h w latent grid (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mm_interleaved.batch import IGNORED_TARGET, NO_DOCUMENT, NO_IMAGE, Batch
from mm_interleaved.errors import GenerationError, ShapeError
from mm_interleaved.generation.beam import beam_search
from mm_interleaved.generation.published_options import HIDDEN_TOP_K, PublishedImageOptions, PublishedTextOptions
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.language_model import MMFSInputs

PICTURES_AT_ONCE = 8
"""The release painted so many pictures at a time, which decides the order of its random numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoisingStep:
    """What one denoising step saw and made; R2 is R, doubled (negative branch first) under guidance."""

    timestep: Int[Tensor, ""] | Float[Tensor, ""]
    condition: Float[Tensor, "R2 M W"]
    visible: Bool[Tensor, "R2 1"]
    """Whether there is a previous picture; guidance leaves it to the negative branch too."""
    prediction: Float[Tensor, "R C h w"]
    """Predicted noise after guidance."""
    latents: Float[Tensor, "R C h w"]
    """Latents after the step."""


@torch.no_grad()
def generate_texts(
    model: MMInterleavedForConditionalGeneration,
    token_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    pixels: Float[Tensor, "I 3 H W"],
    options: PublishedTextOptions | None = None,
    *,
    generator: torch.Generator | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Int[Tensor, "Texts L"]:
    """Continues rows with words until end of text or begin-of-image.

    Args:
        token_ids: rows padded on the left; images as begin-of-image and placeholders.
        attention_mask: 0 at padding, 1 elsewhere. The padding id is a real token, so it cannot tell.
        pixels: encoder views in [0, 1], one per begin-of-image token in reading order.
        options: released defaults where None.
        generator: a CPU generator, for sampling; None is torch's own.
        watch: called in every step with the scores after the processors, one row per text or beam: logits with one beam,
            log-probabilities with several.

    Returns:
        A placeholder bos and the new tokens of each text, `options.returned` texts per row, padded on the right. The prompt is not
        repeated.

    Raises:
        GenerationError: a row does not end with a token.
        ShapeError: more or fewer pictures than begin-of-image tokens.
    """
    options = options or PublishedTextOptions()
    config = model.config
    if not bool((attention_mask[:, -1] > 0).all()):
        raise GenerationError("a row ends with padding; for text generation pad rows on the left, so that every row ends with a token.")
    batch = _as_batch(model, token_ids, attention_mask, pixels, ())
    stop = (config.eos_token_id, config.begin_image_token_id)
    processors = _processors(options, stop, model.device)
    if watch is not None:
        processors.append(_Watch(watch))
    beams = options.beams
    reader = _PromptReader(model, batch, copies=beams if beams > 1 else options.returned)

    if beams == 1:
        return _one_by_one(
            reader.first_logits(),
            reader.read,
            options,
            processors,
            begin=config.bos_token_id,
            stop=stop,
            pad=config.pad_token_id,
            generator=generator,
        )
    return beam_search(
        reader.first_logits(),
        reader.read,
        beams=beams,
        processors=processors,
        begin=config.bos_token_id,
        stop=stop,
        pad=config.pad_token_id,
        longest=1 + options.max_new_tokens,
        length_penalty=options.length_penalty,
        returned=options.returned,
    )


@torch.no_grad()
def generate_images(
    model: MMInterleavedForConditionalGeneration,
    token_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    pixels: Float[Tensor, "I 3 H W"],
    *,
    initial_latents: Float[Tensor, "R C h w"],
    step_noise: Float[Tensor, "S R C h w"],
    targets: Sequence[int] | None = None,
    guidance: float = PublishedImageOptions.guidance,
    watch: Callable[[DenoisingStep], None] | None = None,
) -> Float[Tensor, "R 3 Height Width"]:
    """Paints pictures at begin-of-image tokens of rows that go on behind them.

    Each picture is painted from the hidden states from its row's start to its begin-of-image token, and from the picture before it in
    the same row. What stands in the place of the picture itself reaches neither.

    Args:
        token_ids: rows padded on the right.
        attention_mask: 0 at padding, 1 elsewhere.
        pixels: encoder views in [0, 1] of all pictures; anything for those that are to be painted.
        initial_latents: standard normal, one per painted picture, for several candidates one after another; see `draw_noise`.
        step_noise: standard normal numbers of each step; their number is the number of steps.
        targets: flat indices of the pictures to be painted, in reading order over all rows; None is all.
        guidance: scale of classifier-free guidance; none up to 1.
        watch: called after every step.

    Returns:
        Pictures in [0, 1], all of the first candidate, then all of the second, …

    Raises:
        ShapeError: the noise does not fit the pictures, or more or fewer pictures than begin-of-image tokens.
        GenerationError: `targets` names a picture that is not there.
    """
    images = pixels.shape[0]
    targets = range(images) if targets is None else targets
    if not targets or any(not 0 <= target < images for target in targets):
        raise GenerationError(f"targets {list(targets)} must name pictures between 0 and {images - 1}.")
    rows = initial_latents.shape[0]
    if rows % len(targets) or step_noise.shape[1:] != initial_latents.shape:
        raise ShapeError(
            f"noise for {len(targets)} pictures: initial_latents {tuple(initial_latents.shape)} must hold a multiple of them, and each "
            f"step of step_noise {tuple(step_noise.shape)} as many."
        )
    condition, values, visible = _what_pictures_are_painted_from(model, token_ids, attention_mask, pixels, targets)
    decoder = model.image_decoder
    candidates, guided = rows // len(targets), guidance > 1
    condition = condition.repeat(candidates, 1, 1)
    if guided:
        condition = torch.cat([decoder.negative_condition(rows).to(condition.dtype), condition])
    # The branches share the pictures: guidance strengthens the words only.
    copies = condition.shape[0] // len(targets)
    values = tuple(value.repeat(copies, *(1,) * (value.dim() - 1)) for value in values)
    visible = visible.repeat(copies, 1)

    latents = initial_latents.to(condition.device, torch.float32)
    instants = decoder.schedule.inference_timesteps(step_noise.shape[0]).to(latents.device)
    for step, noise in enumerate(step_noise.to(latents.device, torch.float32)):
        timestep = instants[step]
        doubled = torch.cat([latents, latents]) if guided else latents
        prediction = decoder.predict(doubled, timestep.expand(doubled.shape[0]), condition, values, visible, model.image_shapes).float()
        if guided:
            negative, conditioned = prediction.chunk(2)
            prediction = negative + guidance * (conditioned - negative)
        latents = decoder.schedule.step(prediction, timestep, instants[step + 1], latents, noise)
        if watch is not None:
            watch(DenoisingStep(timestep=timestep, condition=condition, visible=visible, prediction=prediction, latents=latents))
    return decoder.decode(latents)


def draw_noise(
    pictures: int, shape: tuple[int, int, int], options: PublishedImageOptions
) -> tuple[Float[Tensor, "R C h w"], Float[Tensor, "S R C h w"]]:
    """Draws initial latents and step noise in the release's order.

    Candidate c has one generator with the seed `options.seed + c`; it serves eight pictures at a time, first their initial latents,
    then their noise step by step. The release drew on its GPU, whose numbers differ from these of the CPU.

    Args:
        pictures: K.
        shape: (C, h, w).
    """
    initial: list[Tensor] = []
    steps: list[Tensor] = []
    for candidate in range(options.candidates):
        generator = torch.Generator().manual_seed(options.seed + candidate)
        for first in range(0, pictures, PICTURES_AT_ONCE):
            count = min(PICTURES_AT_ONCE, pictures - first)
            initial.append(torch.randn(count, *shape, generator=generator))
            steps.append(torch.stack([torch.randn(count, *shape, generator=generator) for _ in range(options.steps)]))
    return torch.cat(initial), torch.cat(steps, dim=1)


class _PromptReader:
    """Reads prompts once, then token by token in `copies` branches per prompt."""

    def __init__(self, model: MMInterleavedForConditionalGeneration, batch: Batch, *, copies: int) -> None:
        self._model = model
        self._batch = batch
        self._copies = copies
        self._past = DynamicCache()
        self._mask = batch.token_mask.long()
        self._values: tuple[Tensor, ...] = ()
        self._visible = batch.visible()

    def first_logits(self) -> Float[Tensor, "R V"]:
        """Reads the prompts; logits of the first new token, one row per branch."""
        features = self._model.encode_images(self._batch.pixels)
        projected = self._model.language_model.project_features(_flatten(features.maps, self._model.text_levels)[:, None])
        index = self._batch.row_images.clamp(min=0)
        self._values = tuple(values[:, 0][index] for values in projected)
        embeddings = self._model.embed(self._batch.token_ids, features.tokens)
        logits = self._forward(embeddings, self._batch.position_ids)
        # From here on new tokens see what the last token of their prompt saw, and every branch goes its own way.
        self._visible = self._visible[:, -1:].repeat_interleave(self._copies, dim=0)
        self._mask = self._mask.repeat_interleave(self._copies, dim=0)
        self._past.batch_repeat_interleave(self._copies)
        self._values = tuple(_repeat_rows(values, self._copies) for values in self._values)
        return logits.repeat_interleave(self._copies, dim=0)

    def read(self, tokens: Int[Tensor, " R"], origins: Int[Tensor, " R"] | None = None) -> Float[Tensor, "R V"]:
        """Reads one token per branch; logits of the token after it.

        Args:
            origins: the branch that each one continues, always one of the same prompt; None is itself.
        """
        if origins is not None:
            self._past.reorder_cache(origins)  # type: ignore[arg-type]
        positions = self._mask.sum(dim=1, keepdim=True)
        self._mask = torch.cat([self._mask, self._mask.new_ones(self._mask.shape[0], 1)], dim=1)
        return self._forward(self._model.embed(tokens[:, None]), positions)

    def _forward(self, embeddings: Float[Tensor, "R T D"], positions: Int[Tensor, "R T"]) -> Float[Tensor, "R V"]:
        output = self._model.language_model(
            inputs_embeds=embeddings,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._past,
            use_cache=True,
            mmfs=MMFSInputs(visible=self._visible, values=self._values),
        )
        return self._model.logits(output.last_hidden_state[:, -1:])[:, 0]


def _one_by_one(
    logits: Float[Tensor, "R V"],
    advance: Callable[[Tensor], Tensor],
    options: PublishedTextOptions,
    processors: LogitsProcessorList,
    *,
    begin: int,
    stop: tuple[int, ...],
    pad: int,
    generator: torch.Generator | None,
) -> Int[Tensor, "R L"]:
    """Greedy search, or sampling."""
    warpers = _warpers(options)
    tokens = torch.full((logits.shape[0], 1), begin, dtype=torch.long, device=logits.device)
    stops = torch.tensor(stop, device=logits.device)
    is_open = torch.ones(logits.shape[0], dtype=torch.bool, device=logits.device)
    while True:
        scores = processors(tokens, logits.float())  # type: ignore[arg-type]
        if options.sample:
            probabilities = warpers(tokens, scores).softmax(dim=-1)  # type: ignore[arg-type]
            chosen = torch.multinomial(probabilities.cpu(), 1, generator=generator)[:, 0].to(tokens.device)
        else:
            chosen = scores.argmax(dim=-1)
        chosen = torch.where(is_open, chosen, pad)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        is_open = is_open & ~torch.isin(chosen, stops)
        if tokens.shape[1] > options.max_new_tokens or not bool(is_open.any()):
            return tokens
        logits = advance(chosen)


class _Watch(LogitsProcessor):
    """Lets someone see the scores as the processors before it left them."""

    def __init__(self, watch: Callable[[Tensor], None]) -> None:
        self._watch = watch

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._watch(scores)
        return scores


def _processors(options: PublishedTextOptions, stop: tuple[int, ...], device: torch.device) -> LogitsProcessorList:
    # Their ids are the placeholder and the new tokens: the prompt is not punished, and the placeholder counts as one token.
    processors = LogitsProcessorList()
    if options.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty=float(options.repetition_penalty)))
    if options.min_length > 0:
        processors.append(MinLengthLogitsProcessor(options.min_length, list(stop), device=str(device)))
    return processors


def _warpers(options: PublishedTextOptions) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if options.temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(options.temperature)))
    warpers.append(TopKLogitsWarper(top_k=HIDDEN_TOP_K))
    if options.top_p < 1:
        warpers.append(TopPLogitsWarper(top_p=options.top_p))
    return warpers


def _what_pictures_are_painted_from(
    model: MMInterleavedForConditionalGeneration, token_ids: Tensor, attention_mask: Tensor, pixels: Tensor, targets: Sequence[int]
) -> tuple[Float[Tensor, "K M W"], tuple[Tensor, ...], Bool[Tensor, "K 1"]]:
    """Conditions, the UNet's values of the picture before each target, and whether there is one."""
    batch = _as_batch(model, token_ids, attention_mask, pixels, targets)
    length = token_ids.shape[1]
    batch = replace(batch, position_ids=torch.arange(length, device=token_ids.device).expand(token_ids.shape[0], -1))
    features = model.encode_images(batch.pixels)
    hidden = model.read_batch(batch, features)
    # The release is not told of packed documents here: context and previous picture reach back to the start of the row.
    whole_rows = replace(batch, document_index=batch.document_index.clamp(max=0))
    condition = model.batch_condition(whole_rows, hidden)
    visible = whole_rows.earlier_images(previous_only=True).any(dim=1, keepdim=True)
    previous = (batch.target_image - 1).clamp(min=0)
    values = model.image_decoder.project_features(_flatten(features.maps, model.image_levels)[previous][:, None])
    return condition, values, visible


def _as_batch(
    model: MMInterleavedForConditionalGeneration, token_ids: Tensor, attention_mask: Tensor, pixels: Tensor, targets: Sequence[int]
) -> Batch:
    """Rows as the model's batch record; a bos begins a document, positions count the real tokens."""
    config, device = model.config, model.device
    token_ids, real = token_ids.to(device), (attention_mask > 0).to(device)
    document = ((token_ids == config.bos_token_id) & real).cumsum(dim=1)
    image_row, image_begin = ((token_ids == config.begin_image_token_id) & real).nonzero(as_tuple=True)
    counts = torch.bincount(image_row, minlength=token_ids.shape[0])
    slots = torch.arange(int(counts.max()), device=device).expand(token_ids.shape[0], -1)
    return Batch(
        token_ids=token_ids,
        document_index=torch.where(real, document, NO_DOCUMENT),
        position_ids=(real.cumsum(dim=1) - 1).masked_fill(~real, 1),
        targets=torch.full_like(token_ids, IGNORED_TARGET),
        pixels=pixels.to(device, model.dtype),
        target_pixels=pixels.new_zeros(1, device=device).expand(len(targets), 3, 1, 1),
        target_image=torch.tensor(list(targets), dtype=torch.long, device=device),
        target_weight=torch.ones(len(targets), device=device),
        image_row=image_row,
        image_begin=image_begin,
        row_images=torch.where(slots < counts[:, None], (counts.cumsum(0) - counts)[:, None] + slots, NO_IMAGE),
    ).check()


def _flatten(maps: Sequence[Tensor], levels: tuple[int, ...]) -> Float[Tensor, "I S F"]:
    return torch.cat([maps[level].flatten(2).transpose(1, 2) for level in levels], dim=1)


def _repeat_rows(values: Tensor, copies: int) -> Tensor:
    # The beams of a single prompt share its values; with several prompts they have to be copied.
    if values.shape[0] == 1:
        return values.expand(copies, *values.shape[1:])
    return values.repeat_interleave(copies, dim=0)
