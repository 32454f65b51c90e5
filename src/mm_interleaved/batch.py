"""The records that rooms hand to each other: one packed batch, one draw of noise, what a forward pass gives back.

Axes: B rows · T tokens of a row · I images of the batch, row-major in reading order · N images of the fullest row ·
E of them that are encoded · K images that are painted (a subset of the I) · C latent channels · V vocabulary (docs/glossary.md).

A row may hold several documents ("packing"). Every token carries the index of its document, so that no module has to look
for a bos, pad or eos id.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from transformers.utils import ModelOutput as TransformersModelOutput

from mm_interleaved.errors import ShapeError

IGNORED_TARGET = -100
"""Target of a position that is not trained; the ignore index of cross entropy in PyTorch."""

NO_DOCUMENT = -1
"""Document index of padding."""

NO_IMAGE = -1
"""Entry of `Batch.row_images` that stands for no image."""


Record = TypeVar("Record", bound="_Record")


class _Record:
    """What all records share: moving their tensors."""

    def to(self: Record, device: torch.device | str, *, non_blocking: bool = False) -> Record:
        """Returns the record with every tensor on `device`; dtypes stay."""
        moved = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch(_Record):
    """Token rows and their images, as `processing.collate` makes them from laid-out documents."""

    token_ids: Int[Tensor, "B T"]
    """Ids; image slots hold the image placeholder id, padding the pad id."""
    document_index: Int[Tensor, "B T"]
    """Which document of its row a token belongs to, counted from 0; `NO_DOCUMENT` marks padding."""
    position_ids: Int[Tensor, "B T"]
    """Rotary position. `ours` restarts at each document, `published` counts through the row."""
    targets: Int[Tensor, "B T"]
    """Id to be predicted *at* this position (the next token), `IGNORED_TARGET` where nothing is trained."""
    pixels: Float[Tensor, "E 3 H W"] | UInt8[Tensor, "E 3 H W"]
    """Encoder view of the first E images, in [0, 1] (or, while a batch travels, `in_bytes`). The other images are only painted: nothing
    in the batch reads them, so they have no placeholders and come last. E may be 0."""
    target_pixels: Float[Tensor, "K 3 h w"] | UInt8[Tensor, "K 3 h w"]
    """Decoder view, in [0, 1], of the images that are painted in training. K may be 0."""
    target_image: Int[Tensor, " K"]
    """Flat index (0 … I-1) of each painted image."""
    target_weight: Float[Tensor, " K"]
    """Weight of each painted image in the image loss."""
    image_row: Int[Tensor, " I"]
    """Row of each image; the first E in reading order."""
    image_begin: Int[Tensor, " I"]
    """Position of the begin-of-image token of each image inside its row."""
    row_images: Int[Tensor, "B N"]
    """Flat index of the n-th encoded image of each row; `NO_IMAGE` where a row has fewer."""

    @property
    def token_mask(self) -> Bool[Tensor, "B T"]:
        """True at real tokens, False at padding."""
        return self.document_index != NO_DOCUMENT

    def in_bytes(self) -> Batch:
        """The same with its pixels in 8 bits, a quarter of the size; exact, because that is what they were made from."""
        return replace(self, **{name: getattr(self, name).mul(255).round().to(torch.uint8) for name in ("pixels", "target_pixels")})

    def in_fractions(self) -> Batch:
        """The inverse of `in_bytes`, to the last bit; nothing is done to pixels in [0, 1]."""
        if self.pixels.dtype != torch.uint8:
            return self
        return replace(self, **{name: getattr(self, name).to(torch.float32).div_(255) for name in ("pixels", "target_pixels")})

    def visible(self) -> Bool[Tensor, "B T N"]:
        """Which images each token may read: those of its document that begin before it.

        The begin-of-image token does not see its own image, the placeholders after it do (spec §1.1).
        """
        present = self.row_images != NO_IMAGE  # B N
        if self.row_images.shape[1] == 0 or self.image_begin.numel() == 0:
            return present[:, None, :] & self.token_mask[:, :, None]
        begin = self.image_begin[self.row_images.clamp(min=0)]  # B N
        image_document = self.document_index.gather(1, begin)  # B N
        position = torch.arange(self.token_ids.shape[1], device=begin.device)  # T
        same_document = self.document_index[:, :, None] == image_document[:, None, :]
        return same_document & (position[None, :, None] > begin[:, None, :]) & present[:, None, :]

    def context_start(self) -> Int[Tensor, " K"]:
        """Position, inside its row, of the first token of the document that each painted image belongs to."""
        row = self.image_row[self.target_image]
        own = self.document_index[row, self.image_begin[self.target_image]]  # K
        same = self.document_index[row] == own[:, None]  # K T
        return same.int().argmax(dim=1)

    def earlier_images(self, *, previous_only: bool) -> Bool[Tensor, "K N"]:
        """Which images of its row each painted image may be painted from: earlier ones of the same document.

        Args:
            previous_only: only the immediately preceding one, as the published model (spec §1.1).
        """
        row = self.image_row[self.target_image]  # K
        present = (self.row_images != NO_IMAGE)[row]  # K N
        if self.target_image.shape[0] == 0 or present.shape[1] == 0:
            return present
        own_begin = self.image_begin[self.target_image]  # K
        begin = self.image_begin[self.row_images[row].clamp(min=0)]  # K N
        same_document = self.document_index[row[:, None], begin] == self.document_index[row, own_begin][:, None]
        earlier = present & same_document & (begin < own_begin[:, None])
        if previous_only:
            earlier = earlier & (earlier.int().flip(1).cumsum(1).flip(1) == 1)  # 1 at the last True
        return earlier

    def check(self) -> Batch:
        """Checks the shapes against each other once, on the CPU; returns the batch itself.

        Raises:
            ShapeError: a field disagrees with the others; the message names both.
        """
        rows, tokens = self.token_ids.shape
        for name in ("document_index", "position_ids", "targets"):
            shape = tuple(getattr(self, name).shape)
            if shape != (rows, tokens):
                raise ShapeError(f"Batch.{name} has shape {shape}, but token_ids has {(rows, tokens)}; collate both from one layout.")
        images, encoded = self.image_row.shape[0], self.pixels.shape[0]
        for name in ("image_row", "image_begin"):
            if getattr(self, name).shape != (images,):
                raise ShapeError(f"Batch.{name} has {tuple(getattr(self, name).shape)} entries for {images} images.")
        painted = self.target_pixels.shape[0]
        for name in ("target_image", "target_weight"):
            if getattr(self, name).shape != (painted,):
                raise ShapeError(f"Batch.{name} has {tuple(getattr(self, name).shape)} entries for {painted} painted images.")
        if painted and int(self.target_image.max()) >= images:
            raise ShapeError(f"Batch.target_image names image {int(self.target_image.max())}, the batch has {images} images.")
        if encoded > images:
            raise ShapeError(f"Batch.pixels holds {encoded} images, image_row lists {images}.")
        if self.row_images.shape[0] != rows or int((self.row_images != NO_IMAGE).sum()) != encoded:
            raise ShapeError(f"Batch.row_images {tuple(self.row_images.shape)} does not list {encoded} encoded images of {rows} rows.")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseDraw(_Record):
    """Every random number of one training forward pass, one entry per painted image. The model itself draws none."""

    noise: Float[Tensor, "K C h w"]
    """Standard normal noise that is mixed into the latents."""
    timestep: Float[Tensor, " K"] | Int[Tensor, " K"]
    """Where on the noise schedule each image stands: integers 0 … 999 for DDPM, fractions in (0, 1) for flow matching."""
    posterior: Float[Tensor, "K C h w"]
    """Standard normal noise of the autoencoder's posterior sample."""
    drop: Float[Tensor, " K"]
    """Uniform in [0, 1); below the configured probability an image's context is replaced by the learned negative one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms(_Record):
    """Sums and counts of one micro-batch; `objective` alone turns them into a loss."""

    text_sum: Float[Tensor, ""]
    """Cross entropy summed over trained targets, nats."""
    text_count: Float[Tensor, ""]
    """Number of trained targets."""
    image_sum: Float[Tensor, ""]
    """Weighted squared error summed over images, each averaged over its latent elements."""
    image_count: Float[Tensor, ""]
    """What `image_sum` is divided by: images with a weight (`ours`), or all images (`published`)."""
    total: Float[Tensor, ""]
    """The weighted sum of both mean losses; what is differentiated."""

    @property
    def text(self) -> Float[Tensor, ""]:
        """Mean cross entropy per trained target, nats; 0 where there is none."""
        return self.text_sum / torch.where(self.text_count > 0, self.text_count, 1.0)  # a mean count over ranks may lie below 1

    @property
    def image(self) -> Float[Tensor, ""]:
        """Mean squared error per counted image; 0 where there is none."""
        return self.image_sum / torch.where(self.image_count > 0, self.image_count, 1.0)  # a mean count over ranks may lie below 1


@dataclass
class ModelOutput(TransformersModelOutput):
    """What the transformers class returns from `forward`."""

    loss: Tensor | None = None
    """Scalar, present when targets were given."""
    logits: Tensor | None = None
    """B T V, float as computed."""
    text_loss: Tensor | None = None
    """Mean cross entropy per trained target, nats."""
    image_loss: Tensor | None = None
    """Mean squared error per counted image."""
    last_hidden_state: Tensor | None = None
    """B T D, after the final norm."""
    terms: LossTerms | None = None
    """Sums and counts, for reductions over steps and ranks."""
