from __future__ import annotations

from mm_interleaved.training.memory_plan import plan_training


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
