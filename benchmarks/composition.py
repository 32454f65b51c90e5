"""CPU time to compose one sample of each task of the playground: `python benchmarks/composition.py` prints JSON lines.

Process time of one thread, so that other processes do not count; the caches begin empty, as in a fresh run. `composition_mean` weighs
the tasks as a recipe does; `slowest` are those that take longest.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from measuring import report

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import TASKS, sample
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.training.recipe import read_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "playground-nano.yaml"
NAMED = 3
"""Slowest tasks that are named."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300, help="samples of each task")
    parser.add_argument("--side", type=int, default=224, help="pixels per side")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="whose world and weights are taken")
    given = parser.parse_args()
    data = read_recipe(given.recipe).data
    world = World(Pack.load(), WorldConfig(**data.world))
    milliseconds = {}
    for task in TASKS:
        started = time.process_time()
        for index in range(given.samples):
            sample(task, world, 0, index, given.side)
        milliseconds[task] = (time.process_time() - started) / given.samples * 1000
        report({"case": "composition", "task": task, "milliseconds": milliseconds[task], "samples": given.samples, "side": given.side})
    weighted = sum(milliseconds[task] * weight for task, weight in data.tasks.items()) / sum(data.tasks.values())
    row = {"case": "composition_mean", "recipe": given.recipe.stem, "milliseconds": weighted}
    row |= {"all_tasks_alike": sum(milliseconds.values()) / len(milliseconds)}
    report(row | {"slowest": sorted(milliseconds, key=lambda task: -milliseconds[task])[:NAMED]})


if __name__ == "__main__":
    main()
