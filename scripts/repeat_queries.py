"""More tokens for a picture, without new ones: every query of the visual tokenizer's resampler, several times.

    python scripts/repeat_queries.py FROM TO [--times 4]

As many copies of each query read the picture as the query did, so that a language model that reads its tokens goes on reading them; a
little noise lets training tell them apart. The changed model is written in float32.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from pathlib import Path

import torch

from mm_interleaved.checkpoint.native import save_model
from mm_interleaved.generation.load import load
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration

NOISE = 0.05
"""Standard deviation of what is added to the copies, as a share of the queries' own."""


@torch.no_grad()
def repeated(model: MMInterleavedForConditionalGeneration, times: int) -> MMInterleavedForConditionalGeneration:
    """A copy of the model with `times` as many tokens a picture; the first of each query's copies stays as it was."""
    config = deepcopy(model.config)
    config.resampler["queries"] = model.config.resampler_part.queries * times
    grown = MMInterleavedForConditionalGeneration(config)
    weights = model.state_dict()
    name = "visual_tokenizer.resampler.queries"
    queries = weights[name]
    noise = torch.randn(1, times, *queries.shape[1:], generator=torch.Generator().manual_seed(0)) * queries.std() * NOISE
    noise[:, 0] = 0
    weights[name] = (queries[:, None] + noise).flatten(1, 2)
    grown.load_state_dict(weights)
    return grown


def main() -> None:
    """Parses, repeats, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of a checkpoint")
    parser.add_argument("target", type=Path, help="where the changed one goes, in float32")
    parser.add_argument("--times", type=int, default=4, help="copies of each query")
    chosen = parser.parse_args()
    loaded = load(chosen.source)
    model = repeated(loaded.network.float(), chosen.times)
    loaded.processor.image_tokens = model.config.image_tokens
    print(json.dumps({"tokens": model.config.image_tokens, "written": str(save_model(model, loaded.processor, chosen.target))}))


if __name__ == "__main__":
    main()
