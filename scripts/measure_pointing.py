"""Runs the pointing test on held-out scenes and prints one JSON object.

    python scripts/measure_pointing.py [--model FOLDER] [--n 200] [--seed 0]

By default the model in the box. Each row: share of words whose hottest sampled place lies in their object's box, its 95 % interval,
chance (area of the box), and the share that points at the other object instead.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.world import World
from mm_interleaved.evaluation.playground import world_of
from mm_interleaved.evaluation.pointing import pointing
from mm_interleaved.generation.load import BOX, load


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None, help="folder of a checkpoint")
    parser.add_argument("--n", type=int, default=200, help="scenes of two drawings")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    started = time.perf_counter()
    model = load(chosen.model)
    world = World(Pack.load(), world_of(BOX if chosen.model is None else chosen.model, "test"))
    rows = [asdict(row) for row in pointing(model, world, count=chosen.n, seed=chosen.seed)]
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"model_hash": model.model_hash, "seed": chosen.seed, "seconds": seconds, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
