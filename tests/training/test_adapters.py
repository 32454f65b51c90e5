from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mm_interleaved.checkpoint.adapters import AdapterSettings, insert_adapter, load_adapter
from mm_interleaved.checkpoint.native import load_model
from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.testing import tiny_config, tiny_model, tiny_processor
from mm_interleaved.training.assembly import make_model
from mm_interleaved.training.loop import train
from mm_interleaved.training.report import StepDone

NEW_PARTS = ["*synchronizer*", "context_projection.*"]


def logits(model):
    batch = tiny_processor().batch([["draw a flat cat.", torch.zeros(8, 8, 3, dtype=torch.uint8).numpy(), "a dog"]])
    with torch.no_grad():
        return model.eval().forward_batch(batch, None).logits


def test_a_new_adapter_changes_nothing_and_only_the_projections_get_one():
    model, plain = tiny_model(), tiny_model()
    insert_adapter(model, AdapterSettings(parts=("language_model", "image_decoder.unet")))
    changed = {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert {name.split(".")[0] for name in changed} == {"language_model", "image_decoder"}
    assert not any("synchronizer" in name for name in changed)
    assert torch.equal(logits(model), logits(plain))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_run_keeps_the_base_goes_on_exactly_and_loads_as_what_was_merged(recipe, kind):
    changes = {"trainable": NEW_PARTS, "adapter": {"kind": kind, "rank": 2, "parts": ["language_model", "image_decoder.unet"]}}
    whole, parts = recipe("whole", **changes), recipe("parts", **changes)
    final = train(whole).final
    steps = []
    train(parts, on_event=steps.append, should_stop=lambda: len([event for event in steps if isinstance(event, StepDone)]) == 3)
    train(parts)
    assert (Path(parts.output) / "losses.csv").read_bytes() == (Path(whole.output) / "losses.csv").read_bytes()

    adapter = Path(whole.output) / "final-adapter"
    names = set(load_file(adapter / "adapter.safetensors"))
    assert all(".lora_" in name or "synchronizer" in name or name.startswith("context_projection") for name in names)
    before, merged = make_model(whole), load_model(final, dtype=torch.float32)
    changed = {name for name, value in before.state_dict().items() if not torch.equal(value, merged.state_dict()[name])}
    assert any(name.endswith("self_attn.q_proj.weight") for name in changed)
    assert all("_proj.weight" in name or ".to_" in name or "synchronizer" in name or "context_projection" in name for name in changed)

    load_adapter(before, adapter)
    for name, value in merged.state_dict().items():
        # Merged once more from the saved file: the same sums.
        torch.testing.assert_close(before.state_dict()[name], value, rtol=0, atol=1e-7)
    assert torch.allclose(logits(before), logits(merged), atol=1e-5)


def test_an_adapter_of_another_model_is_refused_and_leaves_the_model_as_it_was(recipe):
    run = recipe(trainable=NEW_PARTS, adapter={"rank": 2})
    train(run)
    adapter = Path(run.output) / "final-adapter"
    other = make_model(recipe("wider", model_changes={"text_config": {"hidden_size": 64}}))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="do not fit this model"):
        load_adapter(other, adapter)
    assert {name: value for name, value in other.state_dict().items() if not torch.equal(value, before[name])} == {}
    with pytest.raises(CheckpointError, match="holds no adapter"):
        load_adapter(tiny_model(), adapter.parent)
    (adapter / "adapter.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="holds no adapter"):
        load_adapter(tiny_model(), adapter)


def test_unknown_parts_are_refused():
    with pytest.raises(ConfigError, match="expected some of language_model"):
        insert_adapter(tiny_model(), AdapterSettings(parts=("vision",)))


def test_generate_adds_an_adapter_to_its_model(recipe, tmp_path):
    from mm_interleaved.generation.load import Model, load

    base = Model(tiny_model(), tiny_processor()).save(tmp_path / "base")
    run = recipe(model=str(base), trainable=NEW_PARTS, adapter={"rank": 2}, training={"steps": 2})
    final = train(run).final
    changed = load(base, adapter=Path(run.output) / "final-adapter")
    assert torch.allclose(logits(changed.network), logits(load(final).network), atol=1e-5)
    assert not torch.allclose(logits(changed.network), logits(load(base).network), atol=1e-5)
    assert changed.model_hash.startswith(load(base).model_hash + "+")


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_change_learnt_beside_weights_in_few_bits_goes_on_exactly_and_is_merged_into_the_whole_weights(recipe, tmp_path, bits):
    from mm_interleaved.generation.load import Model, load

    pytest.importorskip("bitsandbytes")
    values = tiny_config().to_dict()
    values["text_config"] |= {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}  # 4 bits are packed in blocks of 64
    torch.manual_seed(0)
    base = Model(MMInterleavedForConditionalGeneration(MMInterleavedConfig(**values)), tiny_processor()).save(tmp_path / "base")
    changes = {"model": str(base), "trainable": NEW_PARTS, "adapter": {"rank": 2, "bits": bits}}
    whole, parts = recipe("whole", **changes), recipe("parts", **changes)
    final = train(whole).final
    steps = []
    train(parts, on_event=steps.append, should_stop=lambda: len([event for event in steps if isinstance(event, StepDone)]) == 3)
    saved = load_file(next((Path(parts.output) / "checkpoints").glob("step-*")) / "model.safetensors")
    assert not any(".base_layer." in name for name in saved)
    train(parts)
    assert (Path(parts.output) / "losses.csv").read_bytes() == (Path(whole.output) / "losses.csv").read_bytes()
    changed = load(base, adapter=Path(whole.output) / "final-adapter")
    assert torch.allclose(logits(changed.network), logits(load(final).network), atol=1e-5)
    assert not torch.allclose(logits(changed.network), logits(load(base).network), atol=1e-5)


def test_few_bits_need_trained_weights(recipe):
    with pytest.raises(ConfigError, match="few bits need trained weights"):
        make_model(recipe(adapter={"bits": "int4"}))


def test_an_adapter_has_the_number_format_of_the_finished_model(recipe):
    run = recipe(trainable=NEW_PARTS, adapter={"rank": 2}, training={"steps": 1, "final_dtype": "bfloat16"})
    final = train(run).final
    adapter = Path(run.output) / "final-adapter"
    assert {value.dtype for value in load_file(adapter / "adapter.safetensors").values()} == {torch.bfloat16}
    changed = make_model(run)
    load_adapter(changed, adapter)
    # Each of both was rounded to 8 bits once, the one after merging, the other before.
    assert torch.allclose(logits(changed), logits(load_model(final, dtype=torch.float32)), atol=0.1)
