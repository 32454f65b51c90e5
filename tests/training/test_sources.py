"""Recipes whose samples come from files, beside the playground's tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mm_interleaved.errors import ConfigError, DataError
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.testing import tiny_processor
from mm_interleaved.training.finishing import learn_words
from mm_interleaved.training.loop import train
from mm_interleaved.training.report import StepDone
from tests.data.sources.conftest import picture_bytes


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, object]:
    """A source of twelve captions in three shards; one picture in six is missing."""
    (tmp_path / "a.png").write_bytes(picture_bytes(1))
    for shard in range(3):
        lines = [{"image": "gone.png" if line == 3 else "a.png", "caption": f"cat {shard} {line}"} for line in range(4)]
        (tmp_path / f"part-{shard}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"name": "pairs", "kind": "captions", "files": [str(tmp_path / "part-{0..2}.jsonl")], "images": str(tmp_path), "weight": 2}


def rows(output):
    return (Path(output) / "losses.csv").read_bytes()


PACKINGS = {
    "a document a row": {},
    "documents share rows": {"packing": "documents", "row_tokens": 120},
    "published rows": {"packing": "published", "row_tokens": 30},
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_run_on_sources_goes_on_at_the_exact_sample(recipe, pairs, packing):
    data = {"sources": [pairs], "tasks": {"picture": 1}, "window": 3, "lanes": 2, "together": 2, **PACKINGS[packing]}
    training = {"steps": 6, "batch_size": 4, "save_every": 3}
    whole, parts = recipe("whole", data=data, training=training), recipe("parts", data=data, training=training)
    finished = train(whole)
    steps = []
    train(parts, on_event=steps.append, should_stop=lambda: len([event for event in steps if isinstance(event, StepDone)]) == 3)
    train(parts)
    assert rows(parts.output) == rows(whole.output)
    assert finished.skipped["pairs"]["missing image"] > 0
    entry = json.loads((Path(whole.output) / "skipped.jsonl").read_text().splitlines()[0])
    assert entry["reason"] == "missing image" and entry["place"].endswith(":4")


def test_processes_that_compose_samples_are_refused_where_sources_are_read(recipe, pairs):
    with pytest.raises(ConfigError, match=r"training\.workers: data\.sources are read on in order"):
        train(recipe(data={"sources": [pairs]}, training={"workers": 2}))


def test_words_alone_are_learnt_from_sources_too(recipe, pairs):
    run = recipe(objective="words", trainable=["language_model.*"], data={"sources": [pairs], "tasks": {"caption": 0}})
    assert train(run).completed


def test_a_word_learnt_from_a_source_is_known_to_the_finished_model(recipe, pairs, tmp_path):
    (tmp_path / "named.jsonl").write_text(json.dumps({"image": "a.png", "caption": "this is Zorabella, smiling. 佐拉在笑。"}) + "\n")
    source = pairs | {"files": [str(tmp_path / "named.jsonl")]}
    for name, data in (("without", {}), ("with", {"sources": [source]})):
        finished = train(recipe(name, data=data, training={"steps": 1}))
        unknown = [word for word, _ in MMInterleavedProcessor.from_pretrained(finished.final).unknown_words("draw zorabella qwxyz 画佐拉")]
        assert "qwxyz" in unknown and ("zorabella" in unknown) == (name == "without")
        assert name == "without" or not any("佐" in word for word in unknown)


def test_words_are_learnt_without_decoding_a_picture(recipe, pairs, tmp_path, monkeypatch):
    def decoded(*arguments):
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr("mm_interleaved.document.decode", decoded)
    processor = tiny_processor()
    (tmp_path / "named.jsonl").write_text(json.dumps({"image": "a.png", "caption": "this is Zorabella"}) + "\n")
    learn_words(processor, recipe(data={"sources": [pairs | {"files": [str(tmp_path / "named.jsonl")]}]}))
    assert set(processor.known_words) == {*tiny_processor().known_words, "this", "is", "zorabella"}


def test_accumulated_micro_batches_give_the_losses_of_one_batch(recipe, pairs):
    """Micro-batches of unequal words and pictures: only the counts of the whole step make them right.

    In float64 rounding alone is left.
    """
    data = {"sources": [pairs], "tasks": {"picture": 1, "question": 2}}
    training = {"steps": 6, "batch_size": 6, "mixed_precision": "float64"}
    train(recipe("one", data=data, training=training))
    train(recipe("three", data=data, training=training | {"accumulation": 3}))
    one, three = (
        [[float(cell) if cell else 0.0 for cell in row.split(",")] for row in rows(path).decode().splitlines()[1:]]
        for path in (recipe("one").output, recipe("three").output)
    )
    for single, several in zip(one, three, strict=True):
        assert several == pytest.approx(single, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_goes_on_identically(recipe, precision):
    training = {"steps": 4, "mixed_precision": precision}
    whole, parts = recipe("whole", training=training), recipe("parts", training=training)
    train(whole)
    steps = []
    train(parts, on_event=steps.append, should_stop=lambda: len([event for event in steps if isinstance(event, StepDone)]) == 2)
    train(parts)
    assert rows(parts.output) == rows(whole.output)


def test_checkpointed_parts_give_the_same_rows_and_are_computed_twice(recipe, monkeypatch):
    from diffusers.models.resnet import ResnetBlock2D
    from transformers.models.clip.modeling_clip import CLIPMLP
    from transformers.models.llama.modeling_llama import LlamaMLP

    calls = {"language": 0, "vision": 0, "image decoder": 0}
    for name, module in zip(calls, (LlamaMLP, CLIPMLP, ResnetBlock2D), strict=True):
        real = module.forward

        def counted(self, *args, real=real, name=name, **kwargs):
            calls[name] += torch.is_grad_enabled()
            return real(self, *args, **kwargs)

        monkeypatch.setattr(module, "forward", counted)
    train(recipe("kept", training={"steps": 2}))
    kept = dict(calls)
    calls.update(dict.fromkeys(calls, 0))
    again = recipe("again", training={"steps": 2, "checkpointing": ["visual_tokenizer", "language_model", "image_decoder"]})
    train(again)
    assert rows(again.output) == rows(recipe("kept").output)
    decoder = calls.pop("image decoder")
    assert kept.pop("image decoder") < decoder  # recomputation stops early inside a block
    assert calls == {name: 2 * count for name, count in kept.items()}


def test_wrong_sources_are_refused_before_anything_is_trained(recipe, pairs):
    with pytest.raises(ConfigError, match="two tasks or sources are called 'pairs'"):
        recipe(data={"sources": [pairs, pairs]})
    with pytest.raises(ConfigError, match="two tasks or sources are called 'caption'"):
        recipe(data={"sources": [pairs | {"name": "caption"}]})
    with pytest.raises(ConfigError, match="the nearest is 'kind'"):
        recipe(data={"sources": [pairs | {"kidn": "captions"}]})
    with pytest.raises(ConfigError, match="the nearest is 'image_first'"):
        train(recipe("a", data={"sources": [pairs | {"options": {"image_frist": 1}}]}))
    with pytest.raises(DataError, match="names no file"):
        train(recipe("b", data={"sources": [pairs | {"files": ["nowhere.jsonl"]}]}))
    with pytest.raises(ConfigError, match="objective 'vision' learns from the exact truth"):
        train(recipe("c", objective="vision", trainable=["visual_tokenizer.*"], data={"sources": [pairs]}))
