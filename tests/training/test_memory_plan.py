from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mm_interleaved.data.playground.tasks import TASKS
from mm_interleaved.training.memory_plan import plan_training

PROGRAM = """
import json, sys, threading, time
from pathlib import Path
from mm_interleaved.training.loop import train
from mm_interleaved.training.recipe import read_recipe
from mm_interleaved.training.report import StepDone

def own_pages():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def watch():
    while True:
        seen.append(own_pages())
        time.sleep(0.002)

recipe = read_recipe(sys.argv[1], sys.argv[2:])
before, seen, steps = own_pages(), [], []
threading.Thread(target=watch, daemon=True).start()
train(recipe, on_event=lambda event: steps.append(max(seen)) if isinstance(event, StepDone) else None)
print(json.dumps({"training": steps[-1] - before, "whole": max(seen) - before}))
"""

WIDER = {
    "text_config": {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
    "image_decoder": {"unet": {"block_out_channels": [128, 192, 320]}},
}
LARGE = {
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
    "image_decoder": {"unet": {"block_out_channels": [192, 288, 480]}},
}


FIVE_TASKS = "{caption: 1.5, question: 3, picture: 2, style: 1.5, story: 0.75}"
STORIES = "{story: 1}"
ALL_TASKS = json.dumps(dict.fromkeys(TASKS, 1))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("changes", "batch", "tasks", "seed", "steps", "precision"),
    [
        pytest.param({}, 8, FIVE_TASKS, 0, 6, "float32", id="nano"),
        pytest.param({}, 8, FIVE_TASKS, 1, 6, "float32", id="nano-another_order"),
        pytest.param({}, 8, FIVE_TASKS, 5, 6, "float32", id="nano-a_third_order"),
        pytest.param({}, 8, FIVE_TASKS, 0, 80, "float32", id="nano-eighty_steps"),
        pytest.param({}, 8, FIVE_TASKS, 0, 20, "bf16", id="nano-bfloat16"),
        pytest.param({}, 12, STORIES, 0, 30, "bf16", id="nano-stories_in_bfloat16"),
        pytest.param({}, 8, ALL_TASKS, 0, 6, "float32", id="nano-all_tasks"),
        pytest.param(WIDER, 4, FIVE_TASKS, 0, 6, "float32", id="wider"),
        pytest.param(LARGE, 2, FIVE_TASKS, 0, 6, "float32", id="large"),
    ],
)
def test_a_plan_is_within_fifteen_percent_of_what_training_holds_at_most(
    tmp_path, changes, batch, tasks, seed, steps, precision, record_property
):
    """The process's own pages (libraries that are mapped from their files are not the run's), sampled every two milliseconds."""
    arguments = [
        "init=[]",
        f"training.mixed_precision={precision}",
        f"training.steps={steps}",
        "tokenizer.texts=2000",
        f"output={tmp_path / 'run'}",
    ]
    arguments += ["tokenizer.tasks=[caption, question]", f"data.tasks={tasks}", f"training.seed={seed}"]
    arguments += [f"training.batch_size={batch}", "training.warmup_steps=0", f"model_changes={json.dumps(changes)}"]

    def printed(*command: str) -> dict[str, Any]:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        return json.loads(done.stdout[done.stdout.index("{") :])

    recipe = str(Path(__file__).parents[2] / "recipes" / "playground-nano.yaml")
    measured = printed("-c", PROGRAM, recipe, *arguments)
    changed = [word for argument in arguments for word in ("--set", argument)]
    plan = printed("-m", "mm_interleaved.cli.main", "doctor", "--train", recipe, *changed, "--json")["training"]
    record_property("MiB", json.dumps({name: round(value / 2**20) for name, value in (plan | measured).items()}))
    assert abs(plan["total"] - measured["whole"]) < 0.15 * measured["whole"]


def test_a_plan_counts_every_trained_number_and_grows_and_shrinks_with_the_right_settings(recipe):
    plain = plan_training(recipe())
    assert plain.weights >= 4 * plain.parameters
    assert (plain.gradients, plain.moments, plain.average) == (4 * plain.trained, 8 * plain.trained, 4 * plain.trained)
    larger = plan_training(recipe(training={"batch_size": 8}))
    assert 2.5 < larger.activations / plain.activations < 6, "four times the samples, which are of different lengths"
    divided = plan_training(recipe(training={"batch_size": 8, "accumulation": 4}))
    assert divided.activations < 0.5 * larger.activations
    again = plan_training(recipe(training={"batch_size": 8, "checkpointing": ["language_model", "visual_tokenizer", "image_decoder"]}))
    assert again.activations < larger.activations and again.weights == larger.weights


def test_frozen_parts_and_adapters_need_no_moments_and_fsdp_divides(recipe):
    plain = plan_training(recipe())
    adapted = plan_training(recipe(trainable=["*synchronizer*"], adapter={"rank": 2}))
    assert adapted.moments < plain.moments
    two = plan_training(recipe(training={"engine": "fsdp2"}), processes=2)
    assert 0.49 < two.weights / plain.weights < 0.51 and two.activations < plain.activations
