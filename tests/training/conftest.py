"""A tiny recipe: every box of the model, two kilobytes of weights each, runs of a few steps in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mm_interleaved.testing import TINY_VOCABULARY, tiny_config
from mm_interleaved.training.recipe import Recipe, merged, read_recipe


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny recipe that differs from the plain one in what is given."""

    def write(name: str = "tiny", **changes: Any) -> Path:
        config = tiny_config()
        fields = ("adapter", "resampler", "mmfs", "image_decoder", "visual_position_side", "begin_image_token_id", "image_token_id")
        model = {field: getattr(config, field) for field in (*fields, "pad_token_id", "bos_token_id", "eos_token_id")}
        for part in ("text_config", "vision_config"):
            upstream = getattr(config, part).to_dict()
            wanted = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
            wanted += ("max_position_embeddings", "image_size", "patch_size")
            model[part] = {field: upstream[field] for field in wanted if field in upstream}
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(_plain(model)))
        values = {
            "name": name,
            "model": "model.yaml",
            "tokenizer": {"vocabulary": TINY_VOCABULARY, "texts": 40},
            "data": {"world": {"things": 3, "styles": 2, "held_out_pairs": 0.0}, "tasks": {"caption": 1, "picture": 1, "style": 1}},
            "objective": "documents",
            "trainable": ["*", "!image_decoder.vae.*"],
            "training": {
                "steps": 4,
                "batch_size": 2,
                "save_every": 2,
                "warmup_steps": 2,
                "mixed_precision": "float32",
                "report_every": 100,
            },
            "output": str(tmp_path / name),
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(_plain(merged(values, changes))))
        return path

    return write


@pytest.fixture
def recipe(recipe_file: Callable[..., Path]) -> Callable[..., Recipe]:
    """A tiny recipe that differs from the plain one in what is given."""
    return lambda name="tiny", **changes: read_recipe(recipe_file(name, **changes))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, list | tuple) else value
