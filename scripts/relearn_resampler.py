"""A new resampler learns to make the picture tokens that a model has.

    python scripts/relearn_resampler.py FROM TO [--pictures 4000] [--steps 1000]

The old one may hold what differs between pictures as a hundredth of its states, which bfloat16 rounds off (docs/log.md, "words that read
tokens"); a new one, taught its whitened tokens, has no reason to. The encoder, the feature maps and all else stay as they are. Prints as
one JSON object how much of what differs between held-out pictures the new tokens leave unexplained, and the error of both under
autocast, as a share of what differs: what all pictures have in common, and the rest. Some three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mm_interleaved.checkpoint.native import save_model
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.generation.load import load
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.resampler import Resampler
from mm_interleaved.processing.images import stack_pixels
from mm_interleaved.training.feed import Corpus

TASKS = {"caption": 4.0, "question": 2.0, "robot": 1.0, "screens": 1.0, "handwriting": 1.0, "referring": 1.0, "layout_map": 1.0}
"""Each of their samples shows a picture."""
THINGS, STYLES = 120, 5
ENCODED = 50
BATCH = 64
RATE, WARMUP, DECAY = 2e-3, 50, 0.01
HELD_OUT = 0.1
"""Share of the pictures that nothing is learnt from."""


class Target(NamedTuple):
    """What is to be learnt."""

    states: Float[Tensor, "I T F"]
    """The encoder's, as the resampler reads them."""
    tokens: Float[Tensor, "I K D"]


@torch.no_grad()
def target(model: MMInterleavedForConditionalGeneration, pictures: int) -> Target:
    """Tokens of pictures of all these tasks, and what they are made of."""
    eyes = model.visual_tokenizer
    world = World(Pack.load(), WorldConfig(things=THINGS, styles=STYLES, jitter=0.0))
    corpus, states, tokens = Corpus(world, TASKS, seed=0, side=model.config.image_side), [], []
    hook = eyes.resampler.register_forward_pre_hook(lambda _module, given: states.append(given[0]))
    for first in range(0, pictures, ENCODED):
        samples = [corpus.sample(index) for index in range(first, min(first + ENCODED, pictures))]
        shown = [next(segment for segment in sample.segments if not isinstance(segment, str)) for sample in samples]
        tokens.append(eyes(stack_pixels(shown, model.config.image_side)).tokens)
    hook.remove()
    return Target(torch.cat(states), torch.cat(tokens))


def relearn(model: MMInterleavedForConditionalGeneration, wanted: Target, steps: int) -> dict[str, float]:
    """Puts a new resampler and projection in the place of the old ones and trains them; returns what is printed."""
    eyes = model.visual_tokenizer
    held_out = max(1, int(HELD_OUT * len(wanted.states)))
    seen, unseen = (Target(*(part[piece] for part in wanted)) for piece in (slice(held_out, None), slice(held_out)))
    size = wanted.tokens.square().mean().sqrt()
    before = rounding(lambda states: eyes.projection(eyes.resampler(states)), unseen)

    torch.manual_seed(0)
    eyes.resampler = Resampler(model.config.resampler_part, input_width=wanted.states.shape[2])
    eyes.projection = nn.Linear(eyes.projection.in_features, eyes.projection.out_features)
    nn.init.normal_(eyes.projection.weight, std=eyes.projection.in_features**-0.5)
    nn.init.zeros_(eyes.projection.bias)
    parameters = [*eyes.resampler.parameters(), *eyes.projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=DECAY)
    for step in range(steps):
        chosen = torch.randint(0, len(seen.states), (BATCH,))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP, 2 * (steps - step) / steps)
        error = (eyes.projection(eyes.resampler(seen.states[chosen])) - seen.tokens[chosen] / size).square().mean()
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    with torch.no_grad():
        for parameter in eyes.projection.parameters():
            parameter *= size
        made = eyes.projection(eyes.resampler(unseen.states))
        differs = (unseen.tokens - unseen.tokens.mean(dim=0)).square().mean()
        unexplained = float((made - unseen.tokens).square().mean() / differs)
    after = rounding(lambda states: eyes.projection(eyes.resampler(states)), unseen)
    return {"unexplained": round(unexplained, 4)} | {
        f"{name}_{when}": round(share, 4) for when, shares in (("before", before), ("after", after)) for name, share in shares.items()
    }


@torch.no_grad()
def rounding(tokens_of: Callable[[Tensor], Tensor], given: Target) -> dict[str, float]:
    """Error under autocast as a share of what differs between pictures: common to all of them, and the rest."""
    exact = tokens_of(given.states)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        rounded = tokens_of(given.states).float()
    error, differs = rounded - exact, (exact - exact.mean(dim=0)).square().mean().sqrt()
    common = error.mean(dim=0)
    return {
        "common_error": float(common.square().mean().sqrt() / differs),
        "error": float((error - common).square().mean().sqrt() / differs),
    }


def main() -> None:
    """Parses, learns, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of a checkpoint")
    parser.add_argument("target", type=Path, help="where the changed one goes, in float32")
    parser.add_argument("--pictures", type=int, default=4000, help="to learn from; a tenth is held out")
    parser.add_argument("--steps", type=int, default=1000)
    chosen = parser.parse_args()
    loaded = load(chosen.source)
    model = loaded.network.float()
    figures = relearn(model, target(model, chosen.pictures), chosen.steps)
    print(json.dumps(figures | {"written": str(save_model(model, loaded.processor, chosen.target))}))


if __name__ == "__main__":
    main()
