"""A model between two others that began as one: between what the first still knows and what the second learnt since.

    python scripts/blend_models.py FIRST SECOND TO [--share 0.4] [--all] [--dtype bfloat16]

Without `--all`, the image decoder and the synchronizers are the first's and the visual tokenizer is the second's; everything else, the
language model above all, lies on the line between the two, `--share` of the way to the second. With it, every weight lies there. A model
that learnt something new while some of its tasks were left out has forgotten the words of those; on the way to it there are models that
know both (docs/log.md, "both ways to read" and "half of the way"; the idea is that of arXiv 2109.01903).
The blend keeps the second's processor and recipe; `scripts/make_box.py` takes it if it is written in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from mm_interleaved.checkpoint.native import save_model
from mm_interleaved.errors import CheckpointError, ConfigError, MMInterleavedError
from mm_interleaved.generation.load import load
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.name_patterns import is_chosen

OF_FIRST = ("image_decoder.*", "*synchronizer*")
OF_SECOND = ("visual_tokenizer.*",)

KEPT = ("recipe.yaml", "training.json")
"""Files of the second that go with the blend: its recipe is what `mmi evaluate` takes its samples from."""


def _blended(name: str, first: Tensor, second: Tensor, share: float, every: bool) -> Tensor:
    if not first.is_floating_point():
        return second
    if not every and is_chosen(name, OF_FIRST):
        return first
    return second if not every and is_chosen(name, OF_SECOND) else torch.lerp(first, second, share)


@torch.no_grad()
def blend(
    first: MMInterleavedForConditionalGeneration, second: MMInterleavedForConditionalGeneration, share: float, every: bool = False
) -> MMInterleavedForConditionalGeneration:
    """Changes the second model in place and returns it.

    Args:
        first, second: both in float32.
        share: how far from the first to the second, 0 to 1.
        every: blends all weights, those of `OF_FIRST` and `OF_SECOND` too.

    Raises:
        CheckpointError: the two differ in a name or a shape.
        ConfigError: `share` does not lie between the two.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"a share of {share} lies on neither model nor between them; choose one from 0 (first) to 1 (second).")
    ours, theirs = first.state_dict(), second.state_dict()
    shapes = [{name: tuple(value.shape) for name, value in weights.items()} for weights in (ours, theirs)]
    if shapes[0] != shapes[1]:
        name = min(name for name in ours.keys() | theirs.keys() if shapes[0].get(name) != shapes[1].get(name))
        raise CheckpointError(
            f"'{name}' is {shapes[0].get(name, 'missing')} in the first model and {shapes[1].get(name, 'missing')} in the second; "
            "only models that began as one can be blended."
        )
    second.load_state_dict({name: _blended(name, ours[name], theirs[name], share, every) for name in ours})
    return second


def _in_dtype(model: MMInterleavedForConditionalGeneration, dtype: torch.dtype) -> MMInterleavedForConditionalGeneration:
    for parameter in model.parameters():  # fixed tables are buffers and keep their digits
        parameter.data = parameter.data.to(dtype)
    for part in model.config.sub_configs:
        getattr(model.config, part).dtype = dtype
    return model


def main() -> None:
    """Parses, blends, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="folder of a checkpoint: what it knows is kept")
    parser.add_argument("second", type=Path, help="folder of a checkpoint that was trained from the first")
    parser.add_argument("target", type=Path, help="where the blend goes")
    parser.add_argument("--share", type=float, default=0.4, help="how far from the first to the second, 0 to 1")
    parser.add_argument("--all", action="store_true", help="image decoder, synchronizers and visual tokenizer lie between the two as well")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights that are written")
    chosen = parser.parse_args()
    try:
        loaded = load(chosen.second)
        model = blend(load(chosen.first).network.float(), loaded.network.float(), chosen.share, every=chosen.all)
        written = save_model(_in_dtype(model, getattr(torch, chosen.dtype)), loaded.processor, chosen.target)
        for name in KEPT:
            if (chosen.second / name).is_file():
                shutil.copy(chosen.second / name, written)
    except MMInterleavedError as error:
        sys.exit(f"error: {error}")
    print(json.dumps({"share": chosen.share, "all": chosen.all, "written": str(written)}))


if __name__ == "__main__":
    main()
