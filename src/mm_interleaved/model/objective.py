"""The objective: the only place where losses are defined and added.

    total = text_loss_weight · (Σ cross entropy / number of trained targets)
          + image_loss_weight · (Σ_k weight_k · mean squared error_k / number of counted pictures)

A picture is counted if its weight is not 0 (`ours`), or always (`published`, `Behaviour.image_mean_over_all`). Sums and counts
are returned, so that a training step over several micro-batches or ranks divides once.

Source: arXiv 2401.10208, one stage, next word or next picture; spec §3. Deviations: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mm_interleaved.batch import IGNORED_TARGET, LossTerms


def text_terms(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross entropy in nats, summed over trained targets in float32, and their number."""
    numeric = torch.promote_types(logits.dtype, torch.float32)
    total = functional.cross_entropy(logits.to(numeric).flatten(0, 1), targets.flatten(), ignore_index=IGNORED_TARGET, reduction="sum")
    return total, (targets != IGNORED_TARGET).sum().to(numeric)


def image_terms(
    squared_error: Float[Tensor, " K"], weight: Float[Tensor, " K"], *, count_all: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Weighted squared error summed over pictures, and what it is divided by."""
    weight = weight.to(squared_error.dtype)
    counted = torch.ones_like(weight) if count_all else (weight != 0).to(weight.dtype)
    return (squared_error * weight).sum(), counted.sum()


def document_loss(
    *,
    text: tuple[Float[Tensor, ""], Float[Tensor, ""]],
    image: tuple[Float[Tensor, ""], Float[Tensor, ""]],
    text_loss_weight: float,
    image_loss_weight: float,
) -> LossTerms:
    """Adds the two mean losses of one micro-batch; a modality without targets contributes 0."""
    total = text_loss_weight * _mean(*text) + image_loss_weight * _mean(*image)
    return LossTerms(text_sum=text[0], text_count=text[1], image_sum=image[0], image_count=image[1], total=total)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    return total / torch.where(count > 0, count, 1.0)  # a mean count over ranks may lie below 1


def autoencoder_loss(
    reconstructed: Float[Tensor, "I 3 H W"],
    pixels: Float[Tensor, "I 3 H W"],
    mean: Float[Tensor, "I C h w"],
    logvar: Float[Tensor, "I C h w"],
    *,
    divergence_weight: float = 1e-6,
) -> Float[Tensor, ""]:
    """Mean absolute error of pixels and of their differences to right and lower neighbours, plus a small divergence.

    The differences keep outlines sharp, which a drawing lives by. Divergence is the Kullback-Leibler divergence of the posterior
    from the standard normal, in nats per picture.
    """
    error = reconstructed - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
    return error.abs().mean() + error.square().mean() + edges + divergence_weight * divergence


def matching_error(found: Float[Tensor, "K W"], wanted: Float[Tensor, "K W"]) -> Float[Tensor, " K"]:
    """Squared difference of each two vectors, averaged over their elements, in float32 or finer."""
    numeric = torch.promote_types(found.dtype, torch.float32)
    return (found.to(numeric) - wanted.to(numeric)).square().mean(dim=1)


def classification_loss(
    logits: Mapping[str, Float[Tensor, "I C"]], targets: Mapping[str, Int[Tensor, " I"]], present: Mapping[str, Bool[Tensor, " I"]]
) -> Float[Tensor, ""]:
    """Mean over heads of the mean cross entropy over the pictures for which the head's answer exists.

    Args:
        logits: one entry per head.
        targets: right class per head, any valid class where absent.
        present: False where the question makes no sense for the picture.
    """
    losses = []
    for name, scores in logits.items():
        per_image = functional.cross_entropy(scores.float(), targets[name], reduction="none")
        there = present[name].float()
        losses.append((per_image * there).sum() / there.sum().clamp(min=1))
    return torch.stack(losses).mean()
