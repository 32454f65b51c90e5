"""How many steps a sampler needs for the quality of the plain one, on prompts that training never showed.

`python benchmarks/picture_quality.py` paints the same held-out prompts of the playground with every sampler and step count, from the
same noise, and compares each with the plain sampler at `--baseline` steps by

`judge`      share of pictures in which the judge sees the thing and the style that were asked for, against the same of the baseline;
             paired bootstrap, 95 %
`distance`   root mean squared error to the picture of many steps (`--exact`) of a solver, which is what all steps approximate, in grey
             levels; plain steps come there slowly: 200 of them are still 0.8 away

A step count is `equal_to_judge` if the lower end of the interval of the difference lies above −5 points, and has equal quality if its
distance is at most the baseline's besides. One JSON object per sampler and step count, then one that names the least steps of both kinds.
The model is the one in the box, or `--model FOLDER`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from measuring import report

from mm_interleaved.data.playground.judge import TemplateJudge
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.world import World
from mm_interleaved.document import Document, Image, Pixels, Text
from mm_interleaved.evaluation.playground import world_of
from mm_interleaved.generation.events import Failed, ImageDone
from mm_interleaved.generation.load import BOX, Model, load

GUIDANCE = 2.0
MARGIN = 0.05
"""Share of pictures by which the judge may see less in the worst case of the interval."""
COUNTS = {"plain": (4, 6, 8, 12, 16, 20, 30), "dpm++": (4, 6, 8, 10, 12, 14, 16), "unipc": (4, 6, 8, 10, 12, 13, 14, 16)}


def paint(model: Model, prompts: list[Document], sampler: str, steps: int) -> list[Pixels]:
    """One picture per prompt, begun at once, so that every setting paints from the same words and noise."""
    scheduler = model.scheduler(places=8)
    for number, document in enumerate(prompts):
        options = {"max_images": 1, "max_tokens": 1, "force_image": True, "steps": steps, "sampler": sampler, "guidance": GUIDANCE}
        scheduler.add(number, document, seed=number, **options)
    made: dict[object, Pixels] = {}
    for name, event in scheduler:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, ImageDone):
            made[name] = event.image.array()
    return [made[number] for number in range(len(prompts))]


def distances(made: list[Pixels], exact: list[Pixels]) -> np.ndarray:
    pairs = zip(made, exact, strict=True)
    return np.array([np.sqrt(np.square(one.astype(float) - other.astype(float)).mean()) for one, other in pairs])


def interval(difference: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """Of the mean of paired differences, by bootstrap, 95 %."""
    random = np.random.default_rng(0)
    means = difference[random.integers(0, len(difference), (draws, len(difference)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two prompts, few steps")
    parser.add_argument("--n", type=int, default=48, help="prompts")
    parser.add_argument("--baseline", type=int, default=30, help="steps of the plain sampler that are to be matched")
    parser.add_argument("--exact", type=int, default=200, help="steps of the picture that all approximate")
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; by default the model in the box")
    arguments = parser.parse_args()
    count, exact_steps = (2, 12) if arguments.quick else (arguments.n, arguments.exact)
    model, config = load(arguments.model), world_of(arguments.model or BOX, "test")
    world = World(Pack.load(), config)
    samples = [sample("picture", world, 0, number, side=int(model.network.config.image_side)) for number in range(count)]
    prompts = [
        Document(Text(part) if isinstance(part, str) else Image.from_array(part) for part in one.segments[: one.prompt]) for one in samples
    ]
    targets = [next(part for part in one.segments[one.prompt :] if not isinstance(part, str)) for one in samples]
    judge = TemplateJudge(world.pack, world.train_things, range(world.config.styles))
    wanted = [judge.best(target) for target in targets]

    def right(made: list[Pixels]) -> np.ndarray:
        return np.array(
            [np.mean([a == b for a, b in zip(judge.best(one), two, strict=True)]) for one, two in zip(made, wanted, strict=True)]
        )

    solver = "dpm++" if model.network.image_decoder.schedule.config.kind == "ddpm" else "unipc"
    exact = paint(model, prompts, solver, exact_steps)
    base = paint(model, prompts, "plain", arguments.baseline)
    base_distance, base_right = distances(base, exact), right(base)
    least: dict[str, dict[str, int]] = {"equal": {}, "equal_to_judge": {}}
    for sampler, steps in [
        (name, steps) for name, all_steps in COUNTS.items() for steps in (all_steps[:2] if arguments.quick else all_steps)
    ]:
        made = paint(model, prompts, sampler, steps)
        distance, seen = distances(made, exact), right(made)
        low, high = interval(seen - base_right)
        near = bool(distance.mean() <= base_distance.mean())
        found = {"equal": near and low > -MARGIN, "equal_to_judge": low > -MARGIN}
        for kind, equal in found.items():
            if equal:
                least[kind].setdefault(sampler, steps)
        row = {"case": "picture_quality", "path": sampler, "steps": steps, "against": "plain", "against_steps": arguments.baseline}
        row |= {"distance": float(distance.mean()), "against_distance": float(base_distance.mean()), "judge": float(seen.mean())}
        row |= {"against_judge": float(base_right.mean()), "low": low, "high": high, **found}
        report({**row, "prompts": count, "exact_steps": exact_steps})
    row = {"case": "least_steps_of_equal_quality", "against_steps": arguments.baseline, **least}
    report({**row, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
