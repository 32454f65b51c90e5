"""Measures the judge that reads: how many circled words of true handwritten pages it gets right, and of pages with swapped labels.

    python scripts/measure_reading.py --count 200 --side 224

Needs `pip install 'mm-interleaved[judge]'`. The first figure is the ceiling beside a model's; the second must be chance.
"""

from __future__ import annotations

import argparse

from mm_interleaved.data.playground.judge_text import TextJudge
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.world import World, WorldConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="pages per language")
    parser.add_argument("--side", type=int, default=224, help="side of a page in pixels")
    parser.add_argument("--split", choices=("train", "test"), default="test")
    arguments = parser.parse_args()
    judge = TextJudge()
    for language, share in (("en", 0.0), ("zh", 1.0)):
        world = World(Pack.load(), WorldConfig(split=arguments.split, chinese=share))
        documents = [sample("handwriting", world, 0, index, arguments.side) for index in range(arguments.count)]
        read = [(judge.circled(document.segments[0]) or "").lower() for document in documents]  # type: ignore[arg-type]  # the page
        truth = [document.truth["circled"] for document in documents]
        right = sum(found == word for found, word in zip(read, truth, strict=True))
        swapped = sum(found == word for found, word in zip(read, truth[1:] + truth[:1], strict=True))
        print(f"{language}: {right} of {len(read)} right, {swapped} with swapped labels")


if __name__ == "__main__":
    main()
