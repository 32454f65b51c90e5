"""What the visual tokenizer tells of drawings that it has never seen: linear probes, fitted on seen pairs of thing and style.

    python scripts/probe_eyes.py [--model FOLDER] [--n 3000] [--test 600]

Prints one JSON object: the share of items of held-out captions whose thing, style and both a linear probe names, read from the feature
maps at the item's middle; the same for seen pairs in other pictures. And how far pictures differ (root mean square of what differs
between 48 of them, as a share of the whole) in the encoder's last states, after sublayers of the resampler, in the tokens and in each
map. By default the model in the box.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.generation.load import BOX, load
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.training.feed import Corpus
from mm_interleaved.training.vision import Vision, at_places

THINGS, STYLES = 120, 5
BATCH = 50
ROUNDS, RATE, DECAY = 400, 0.02, 3e-3
"""Of the probe: full-batch AdamW."""
COMPARED = 48
FIELDS = ("thing", "style")


def captions(split: str, side: int) -> Corpus:
    """Captions of the drawings that the models of 120 things know."""
    return Corpus(
        World(Pack.load(), WorldConfig(things=THINGS, styles=STYLES, jitter=0.0, split=split)), {"caption": 1.0}, seed=0, side=side
    )


@torch.no_grad()
def read(model: MMInterleavedForConditionalGeneration, split: str, count: int, first: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Features at the middle of every item of so many captions, and what the items are."""
    corpus = captions(split, model.config.image_side)
    lesson = Vision(model, corpus)
    features, items = [], []
    for start in range(first, first + count, BATCH):
        batch = lesson.prepare(corpus, range(start, min(start + BATCH, first + count)))
        maps = [level.float() for level in model.visual_tokenizer(batch.pixels).maps]
        features.append(at_places(maps, batch.item_image, batch.item_place[:, :2]))
        items.append(batch.item_targets)
    return torch.cat(features), {field: torch.cat([some[f"item_{field}"] for some in items]) for field in FIELDS}


@torch.no_grad()
def differing(model: MMInterleavedForConditionalGeneration) -> dict[str, float]:
    """How far held-out pictures differ, stage by stage, as a share of what is there; 0: all the same."""
    corpus = captions("test", model.config.image_side)
    eyes, shares = model.visual_tokenizer, {}

    def note(name: str, states: Tensor) -> None:
        states = states.float()
        shares[name] = round(float(((states - states.mean(dim=0)).square().mean() / states.square().mean()).sqrt()), 4)

    hooks = [eyes.resampler.register_forward_pre_hook(lambda _module, given: note("encoder", given[0]))]
    for index, layer in enumerate(eyes.resampler.layers):
        for part in ("cross_attention", "feed_forward_norm"):
            if getattr(layer, part) is not None:
                name = f"resampler.layers.{index}.{part}"
                hooks.append(getattr(layer, part).register_forward_hook(lambda _module, _given, made, name=name: note(name, made)))
    try:
        features = eyes(Vision(model, corpus).prepare(corpus, range(COMPARED)).pixels)
    finally:
        for hook in hooks:
            hook.remove()
    note("tokens", features.tokens)
    for level in features.maps:
        note(f"map {level.shape[-1]}", level)
    return shares


def fitted(features: Tensor, classes: Tensor, count: int) -> torch.nn.Linear:
    """A linear probe."""
    torch.manual_seed(0)
    probe = torch.nn.Linear(features.shape[1], count)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(ROUNDS):
        optimizer.zero_grad()
        functional.cross_entropy(probe(features), classes).backward()
        optimizer.step()
    return probe


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=BOX, help="folder of a checkpoint")
    parser.add_argument("--n", type=int, default=3000, help="captions of seen pairs to fit on")
    parser.add_argument("--test", type=int, default=600, help="captions to measure on, seen and held out each")
    chosen = parser.parse_args()
    started = time.perf_counter()
    model = load(chosen.model).network
    features, items = read(model, "train", chosen.n, 0)
    mean, spread = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    probes = {field: fitted((features - mean) / spread, items[field], count) for field, count in zip(FIELDS, (THINGS, STYLES), strict=True)}
    result: dict[str, object] = {"model": str(chosen.model), "fitted_on_items": len(features), "pictures_differ": differing(model)}
    for name, split, first in (("seen", "train", chosen.n), ("held_out", "test", 0)):
        features, items = read(model, split, chosen.test, first)
        right = {field: probes[field]((features - mean) / spread).argmax(dim=1) == items[field] for field in FIELDS}
        right["both"] = right["thing"] & right["style"]
        result[name] = {"items": len(features)} | {field: round(float(value.float().mean()), 3) for field, value in right.items()}
    print(json.dumps(result | {"seconds": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
