from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mm_interleaved.training.memory_plan import plan_training
from mm_interleaved.training.recipe import read_recipe

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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(("size", "changes", "batch"), [("nano", {}, 8), ("wider", WIDER, 4), ("large", LARGE, 2)])
def test_a_plan_is_within_fifteen_percent_of_what_training_holds_at_most(tmp_path, size, changes, batch, record_property):
    """The process's own pages (libraries that are mapped from their files are not the run's), sampled every two milliseconds.

    Of tasks whose material is the pack alone: collections of other tasks that are held in memory are not planned.
    """
    arguments = [str(Path(__file__).parents[2] / "recipes" / "playground-nano.yaml")]
    arguments += ["init=[]", "training.mixed_precision=float32", "training.steps=3", "tokenizer.texts=2000", f"output={tmp_path / 'run'}"]
    arguments += ["data.tasks={caption: 1.5, question: 3, picture: 2, style: 1.5, story: 0.75}"]
    arguments += ["tokenizer.tasks=[caption, question]", "training.seed=0"]
    arguments += [f"training.batch_size={batch}", "training.warmup_steps=0", f"model_changes={json.dumps(changes)}"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    plan = plan_training(read_recipe(arguments[0], arguments[1:]))
    record_property("MiB", json.dumps({name: round(value / 2**20) for name, value in (plan.as_json() | measured).items()}))
    assert abs(plan.total - measured["whole"]) < 0.15 * measured["whole"]


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
