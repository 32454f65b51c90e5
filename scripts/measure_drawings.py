"""What the drawings themselves teach: a plain convolutional network learns single drawings and is asked for pairs that it never saw.

    python scripts/measure_drawings.py                                            # 120 things of the pack in the box
    python scripts/measure_drawings.py --pack packs/wide --things 729 --views 250000

A yardstick for what a model of this size can learn to name from the same pack. Prints one JSON object: the share of the held-out pairs of
the first 120 things that the network names rightly (thing, style, both), the same for pairs of training, and of the pack's last 60
things, which it never sees, the styles.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import GROUNDS
from mm_interleaved.data.playground.varied import alter
from mm_interleaved.data.playground.world import World, WorldConfig

MEASURED_THINGS, UNSEEN_THINGS = 120, 60
SIDE, MARGIN = 48, 2
FORMS = 12
"""Altered copies of each drawing, made beforehand."""
BATCH, RATE, DECAY, SMOOTHING = 128, 4e-3, 0.05, 0.1
WIDTHS = (24, 32, 64, 128)
Pairs = tuple[tuple[int, int], ...]


class Block(nn.Module):
    """Two convolutions and a way past them."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.past = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.body(maps) + self.past(maps))


class Network(nn.Module):
    """Thing and style of a drawing."""

    def __init__(self, things: int, styles: int) -> None:
        super().__init__()
        first = [nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
        blocks = [Block(inner, outer, 1 if inner == WIDTHS[0] else 2) for inner, outer in pairwise(WIDTHS)]
        self.body = nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
        self.thing, self.style = nn.Linear(WIDTHS[-1], things), nn.Linear(WIDTHS[-1], styles)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(pictures)
        return self.thing(features), self.style(features)


def sheets(pack: Pack, pairs: Pairs, random: np.random.Generator | None = None) -> Tensor:
    """Drawings of one size, RGBA; altered anew if there is a generator."""
    made = []
    for pair in pairs:
        drawing = Image.fromarray(pack.drawing(*pair))
        if random is not None:
            drawing = alter(drawing, random, 1.0)
        scale = (SIDE - 2 * MARGIN) / max(drawing.size)
        small = drawing.resize((max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale))), Image.Resampling.BILINEAR)
        sheet = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
        sheet.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
        made.append(np.asarray(sheet))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


def on_grounds(drawings: Tensor, grounds: Tensor) -> Tensor:
    """Laid on grounds, from -1 to 1."""
    colours = torch.tensor([ground.colour for ground in GROUNDS], dtype=torch.float32)[grounds][:, :, None, None]
    cover = drawings[:, 3:].float() / 255
    return (drawings[:, :3].float() * cover + colours * (1 - cover)) / 127.5 - 1


@torch.no_grad()
def right(network: Network, drawings: Tensor, pairs: Pairs) -> dict[str, float]:
    """Shares named rightly."""
    network.eval()
    grounds = torch.arange(len(drawings)) % len(GROUNDS)
    said = [network(on_grounds(some, ground)) for some, ground in zip(drawings.split(BATCH), grounds.split(BATCH), strict=True)]
    wanted = torch.tensor(pairs)
    thing = torch.cat([scores for scores, _ in said]).argmax(dim=1) == wanted[:, 0]
    style = torch.cat([scores for _, scores in said]).argmax(dim=1) == wanted[:, 1]
    network.train()
    return {name: round(float(value.float().mean()), 3) for name, value in {"thing": thing, "style": style, "both": thing & style}.items()}


def main() -> None:
    """Parses, trains, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, help="folder of a pack; by default the one in the box")
    parser.add_argument("--things", type=int, default=MEASURED_THINGS, help="things from the head of the pack to learn")
    parser.add_argument("--views", type=int, default=150_000, help="drawings looked at in training")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    started = time.perf_counter()
    torch.manual_seed(chosen.seed)
    pack = Pack.load(chosen.pack)
    learnt = World(pack, WorldConfig(things=chosen.things))
    measured = World(pack, WorldConfig(things=MEASURED_THINGS))
    styles = len(pack.styles)
    unseen = tuple(
        (thing, style) for thing in range(max(chosen.things, len(pack.things) - UNSEEN_THINGS), len(pack.things)) for style in range(styles)
    )

    random = np.random.default_rng(chosen.seed)
    drawings = sheets(pack, learnt.train_pairs * FORMS, random)
    things_styles = torch.tensor(learnt.train_pairs * FORMS)
    network = Network(chosen.things, styles)
    steps = chosen.views // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in range(steps):
        drawn = torch.randint(len(drawings), (BATCH,))
        said = network(on_grounds(drawings[drawn], torch.randint(len(GROUNDS), (BATCH,))))
        wanted = things_styles[drawn].unbind(dim=1)
        loss = sum(functional.cross_entropy(scores, answer, label_smoothing=SMOOTHING) for scores, answer in zip(said, wanted, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    result: dict[str, object] = {"things": chosen.things, "drawings": len(learnt.train_pairs), "views": steps * BATCH}
    for name, pairs in (("seen", measured.train_pairs), ("held_out", measured.test_pairs)):
        result[name] = {"pairs": len(pairs)} | right(network, sheets(pack, pairs), pairs)
    if unseen:
        result["unseen_things"] = {"drawings": len(unseen), "style": right(network, sheets(pack, unseen), unseen)["style"]}
    print(json.dumps(result | {"seconds": round(time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
