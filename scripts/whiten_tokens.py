"""Takes from the picture tokens what is the same in all of them, so that what differs between pictures is not lost beside it.

    python scripts/whiten_tokens.py FROM TO

The last feed-forward network of the resampler may add a vector that is the same for every picture, and so large that the norm behind it
leaves nothing of the rest (docs/log.md, "tokens that are all alike"). Its mean over 200 captions goes into that network's bias, with the
other sign; then the projection is shifted by the mean of the tokens and scaled, so that tokens differ from picture to picture by as much as
embeddings of words are large. Feature maps and synchronizers stay as they are. Prints the share of the tokens' size that differs between
pictures, before and after, as one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mm_interleaved.checkpoint.native import save_model
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.generation.load import load
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.training.feed import Corpus
from mm_interleaved.training.parts import one_picture

PICTURES = 200
FLOOR = 1e-3
"""Added to the variance of every direction, as a share of the mean one."""
THINGS, STYLES = 120, 5


def pictures(side: int) -> Float[Tensor, "I 3 H W"]:
    """Pictures of training captions."""
    world = World(Pack.load(), WorldConfig(things=THINGS, styles=STYLES, jitter=0.0))
    corpus = Corpus(world, {"caption": 1.0}, seed=0, side=side)
    return stack_pixels([one_picture(corpus, index)[0] for index in range(PICTURES)], side)


def used(tokens: Float[Tensor, "I K D"]) -> float:
    """How many directions what differs between pictures uses: sum of variances, squared, by the sum of their squares."""
    variances = torch.linalg.svdvals((tokens - tokens.mean(dim=0)).flatten(0, 1).double()).square()
    return round(float(variances.sum().square() / variances.square().sum()), 2)


def differing(tokens: Float[Tensor, "I K D"]) -> float:
    """Root mean square of what differs between pictures, as a share of the whole."""
    return round(float(((tokens - tokens.mean(dim=0)).square().mean() / tokens.square().mean()).sqrt()), 4)


@torch.no_grad()
def whiten(model: MMInterleavedForConditionalGeneration, pixels: Float[Tensor, "I 3 H W"]) -> dict[str, float]:
    """Changes the visual tokenizer in place; tells how far pictures differed before and differ now."""
    eyes = model.visual_tokenizer
    last, added, read = eyes.resampler.layers[-1], [], []
    hooks = [
        last.feed_forward_out.register_forward_hook(lambda _module, _given, made: added.append(made)),
        eyes.projection.register_forward_pre_hook(lambda _module, given: read.append(given[0])),
    ]
    before = eyes(pixels).tokens
    last.feed_forward_out.bias -= added[0].mean(dim=(0, 1))
    eyes(pixels)
    for hook in hooks:
        hook.remove()

    states = read[-1].flatten(0, 1).double()
    mean = states.mean(dim=0)
    variances, directions = torch.linalg.eigh((states - mean).T.cov(correction=0))
    spread = (variances + FLOOR * variances.mean()).rsqrt()
    left, _, right = torch.linalg.svd(eyes.projection.weight.double(), full_matrices=False)
    weight = left @ right @ directions @ spread.diag() @ directions.T  # the nearest to the old one that changes no length
    made = (states - mean) @ weight.T
    weight *= model.language_model.embed_tokens.weight.double().square().mean().sqrt() / made.square().mean().sqrt()
    eyes.projection.weight.copy_(weight)
    eyes.projection.bias.copy_(-weight @ mean)
    after = eyes(pixels).tokens
    return {"before": differing(before), "after": differing(after)} | {"directions_before": used(before), "directions_after": used(after)}


def main() -> None:
    """Parses, whitens, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of a checkpoint")
    parser.add_argument("target", type=Path, help="where the changed one goes, in float32")
    chosen = parser.parse_args()
    loaded = load(chosen.source)
    model = loaded.network.float()
    shares = whiten(model, pictures(model.config.image_side))
    print(json.dumps(shares | {"written": str(save_model(model, loaded.processor, chosen.target))}))


if __name__ == "__main__":
    main()
