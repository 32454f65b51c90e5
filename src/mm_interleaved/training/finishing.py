"""What a finished run leaves: the averaged weights as a model, and its adapter alone if it trained one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from mm_interleaved.checkpoint.adapters import load_adapter, save_adapter
from mm_interleaved.checkpoint.native import load_model, save_model
from mm_interleaved.data.doctor import read_through
from mm_interleaved.data.kinds import make_source
from mm_interleaved.data.sources import Skips
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.processing.words import words_of
from mm_interleaved.training.assembly import HEADS_FILE
from mm_interleaved.training.optim import HEADS
from mm_interleaved.training.parts import Objective
from mm_interleaved.training.ranks import Ranks
from mm_interleaved.training.recipe import Recipe, as_yaml
from mm_interleaved.training.shards import whole_of
from mm_interleaved.training.state import load_weights, whole_folder, write_text

WORDS_FROM = 2000
"""Records of each source whose words are known to the finished model; a corpus is not read again to its end."""


def learn_words(processor: MMInterleavedProcessor, recipe: Recipe) -> None:
    """Adds the words of the recipe's sources to those that a processor knows, so that a name just learnt is not told as unknown."""
    if not processor.known_words:  # such a model says nothing about words
        return
    found = set(processor.known_words)
    for source in recipe.data.sources:
        if source.weight:
            texts = make_source(source.kind, source.values()).with_blank_pictures()
            for example in read_through(texts, Skips(), limit=WORDS_FROM):
                found.update(*(words_of(text.text) for text in example.document.texts))
    processor.known_words = sorted(found)


def whole_model(objective: Objective, names: nn.Module, ranks: Ranks) -> MMInterleavedForConditionalGeneration | None:
    """A copy of a divided model with all its weights, in the main process; None in the others. All have to ask for it."""
    values = {name: whole_of(value).cpu() for name, value in names.state_dict().items()}
    if not ranks.main:
        return None
    model = MMInterleavedForConditionalGeneration(objective.model.config)
    load_weights(model, values, where="the processes")
    return model


def merged_from_disk(folder: Path, adapter: Path) -> MMInterleavedForConditionalGeneration:
    """The model of a folder with an adapter merged into its whole weights, not into those in few bits that it was learnt beside."""
    model = load_model(folder, dtype=torch.float32)
    load_adapter(model, adapter)
    assert isinstance(model, MMInterleavedForConditionalGeneration)
    return model


def write_adapter(folder: Path, recipe: Recipe, model: MMInterleavedForConditionalGeneration, trained: Sequence[str]) -> None:
    """Writes everything that was trained, by itself, in the recipe's number format.

    Raises:
        StorageError: the disk is full or may not be written.
    """
    assert recipe.adapter is not None
    values = dict(model.named_parameters())
    with whole_folder(folder) as temporary:
        wanted = {name: values[name].to(_final_dtype(recipe)) for name in trained if not name.startswith(HEADS)}
        save_adapter(temporary, recipe.adapter.settings(), wanted, base=recipe.model)


def write_final(
    folder: Path,
    recipe: Recipe,
    model: MMInterleavedForConditionalGeneration,
    processor: MMInterleavedProcessor,
    *,
    step: int,
    measures: Mapping[str, float],
    heads: nn.Module | None = None,
) -> None:
    """Writes the model in the recipe's number format, with what was measured and how it was made.

    Args:
        heads: of the objective, where it keeps them for a later run.

    Raises:
        StorageError: the disk is full or may not be written.
    """
    # Fixed tables are buffers and keep their digits.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(_final_dtype(recipe))
    save_model(model, processor, folder)
    if heads is not None:
        save_file(heads.state_dict(), folder / HEADS_FILE)
    write_text(folder / "training.json", json.dumps({"step": step, "measures": measures}, indent=2))
    write_text(folder / "recipe.yaml", as_yaml(recipe))


def _final_dtype(recipe: Recipe) -> torch.dtype:
    return torch.bfloat16 if recipe.training.final_dtype == "bfloat16" else torch.float32


def is_current(final: Path, step: int) -> bool:
    """Whether a folder holds the model of this step."""
    try:
        return json.loads((final / "training.json").read_text(encoding="utf-8"))["step"] == step
    except (OSError, ValueError, KeyError):
        return False
