"""A model between two others that began as one: between what the first still knows and what the second learnt since.

    python scripts/blend_models.py FIRST SECOND TO [--share 0.4]

The image decoder and the synchronizers are the first's, the visual tokenizer is the second's; everything else, the language model
above all, lies on the line between them, `share` of the way to the second. A model that learnt something new while some of its tasks were
left out has forgotten the words of those; on the way to it there are models that know both (docs/log.md, "both ways to read"; the idea is
that of arXiv 2109.01903).
The blend is written in float32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from mm_interleaved.checkpoint.native import save_model
from mm_interleaved.errors import CheckpointError
from mm_interleaved.generation.load import load
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.name_patterns import is_chosen

OF_FIRST = ("image_decoder.*", "*synchronizer*")
OF_SECOND = ("visual_tokenizer.*",)


def _blended(name: str, first: Tensor, second: Tensor, share: float) -> Tensor:
    if is_chosen(name, OF_FIRST):
        return first
    return second if is_chosen(name, OF_SECOND) or not first.is_floating_point() else torch.lerp(first, second, share)


@torch.no_grad()
def blend(
    first: MMInterleavedForConditionalGeneration, second: MMInterleavedForConditionalGeneration, share: float
) -> MMInterleavedForConditionalGeneration:
    """Changes the second model in place and returns it.

    Raises:
        CheckpointError: the two differ in a name or a shape.
    """
    ours, theirs = first.state_dict(), second.state_dict()
    shapes = [{name: tuple(value.shape) for name, value in weights.items()} for weights in (ours, theirs)]
    if shapes[0] != shapes[1]:
        name = min(name for name in ours.keys() | theirs.keys() if shapes[0].get(name) != shapes[1].get(name))
        raise CheckpointError(
            f"'{name}' is {shapes[0].get(name, 'missing')} in the first model and {shapes[1].get(name, 'missing')} in the second; "
            "only models that began as one can be blended."
        )
    second.load_state_dict({name: _blended(name, ours[name], theirs[name], share) for name in ours})
    return second


def main() -> None:
    """Parses, blends, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="folder of a checkpoint: what it knows is kept")
    parser.add_argument("second", type=Path, help="folder of a checkpoint that was trained from the first")
    parser.add_argument("target", type=Path, help="where the blend goes, in float32")
    parser.add_argument("--share", type=float, default=0.4, help="how far from the first to the second, 0 to 1")
    chosen = parser.parse_args()
    loaded = load(chosen.second)
    model = blend(load(chosen.first).network.float(), loaded.network.float(), chosen.share)
    print(json.dumps({"share": chosen.share, "written": str(save_model(model, loaded.processor, chosen.target))}))


if __name__ == "__main__":
    main()
