"""CPU time to compose one sample of each task of the playground, as JSON.

    python benchmarks/composition.py --samples 300 --side 224

Process time of one thread, so that other processes do not count; the caches begin empty, as in a fresh run.
"""

from __future__ import annotations

import argparse
import json
import time

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import TASKS, sample
from mm_interleaved.data.playground.world import World, WorldConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300, help="samples of each task")
    parser.add_argument("--side", type=int, default=224, help="pixels per side")
    given = parser.parse_args()
    world = World(Pack.load(), WorldConfig())
    milliseconds = {}
    for task in TASKS:
        started = time.process_time()
        for index in range(given.samples):
            sample(task, world, 0, index, given.side)
        milliseconds[task] = round((time.process_time() - started) / given.samples * 1000, 2)
    mean = round(sum(milliseconds.values()) / len(milliseconds), 2)
    print(json.dumps({"samples": given.samples, "side": given.side, "milliseconds": milliseconds, "mean": mean}, indent=2))


if __name__ == "__main__":
    main()
