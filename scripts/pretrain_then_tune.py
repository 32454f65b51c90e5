"""Pre-train, then fine-tune, as the paper does: what tuning for one task gives, and what the same steps give without pre-training.

    python scripts/pretrain_then_tune.py -o out/tuned                                        # all five tasks; hours on a CPU
    python scripts/pretrain_then_tune.py -o out/tuned --task referring --steps 20 --n 20

The pre-trained model is to have seen few referring expressions and label maps: `--model` names one, such as the run of
`recipes/playground-nano.yaml`. For each task four columns are measured on the same held-out samples: the model as it is, without and
with four solved examples before each prompt, after `recipes/playground-tune.yaml`, and, after the same steps,
`recipes/playground-tune-scratch.yaml`.
A run that is killed goes on when the same command is given again. OUT/table.md holds the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mm_interleaved.evaluation.playground import evaluate, world_of
from mm_interleaved.evaluation.results import MAIN
from mm_interleaved.export.files import write_atomically
from mm_interleaved.generation.load import BOX, load
from mm_interleaved.training.loop import train
from mm_interleaved.training.recipe import read_recipe

TASKS = {
    "question": "questions",
    "caption": "captions",
    "referring": "referring expressions",
    "layout_map": "label map to picture",
    "story": "stories",
}
"""Tasks of the playground that stand for the paper's."""

RECIPES = {"tuned": "recipes/playground-tune.yaml", "scratch": "recipes/playground-tune-scratch.yaml"}
SHOTS = {"zero-shot": 0, "4-shot": 4}
"""Solved examples before each prompt of the pre-trained model."""
COLUMNS = (*SHOTS, *RECIPES)


def trained(kind: str, task: str, model: Path, out: Path, steps: int | None) -> Path:
    """The folder of the finished model of a run, which is made or gone on with."""
    changes = [f"data.tasks={{{task}: 1}}", f"output={out / kind / task}"]
    changes += [f"model={model}"] if kind == "tuned" else [f"init=[{{from: {model}, parts: [image_decoder.vae]}}]"]
    finished = train(read_recipe(RECIPES[kind], changes if steps is None else [*changes, f"training.steps={steps}"]))
    assert finished.final is not None
    return finished.final


def measured(folder: Path, task: str, out: Path, count: int, shots: int = 0) -> float:
    """The main metric of a task."""
    found = evaluate(load(folder), world_of(BOX, "test"), out, tasks=[task], count=count, steps=12, ablate=False, shots=shots)
    return next(float(row["score"]) for row in found["results"] if row["task"] == task and row["metric"] == MAIN[task])


def table(rows: dict[str, dict[str, float]]) -> str:
    """The figures as Markdown."""
    lines = [f"| task (metric) | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [f"| {TASKS[task]} ({MAIN[task]}) | {' | '.join(f'{row[column]:.0%}' for column in COLUMNS)} |" for task, row in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("out/tuned"))
    parser.add_argument("--model", type=Path, default=BOX, help="the pre-trained model; by default the one in the box")
    parser.add_argument("--task", action="append", choices=TASKS, help="by default all")
    parser.add_argument("--steps", type=int, help="steps of each run; by default the recipe's")
    parser.add_argument("--n", type=int, default=100, help="held-out samples of each task")
    chosen = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for task in chosen.task or TASKS:
        figures = chosen.output / "figures"
        rows[task] = {name: measured(chosen.model, task, figures / name / task, chosen.n, shots) for name, shots in SHOTS.items()}
        for kind in RECIPES:
            tuned = trained(kind, task, chosen.model, chosen.output / "runs", chosen.steps)
            rows[task][kind] = measured(tuned, task, figures / kind / task, chosen.n)
        write_atomically(chosen.output / "table.md", table(rows).encode())
        print(table({task: rows[task]}).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
