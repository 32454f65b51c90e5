"""Words: `python benchmarks/decode.py` prints one JSON object per way of decoding a token.

`cached_token`    the engine against the released way: keys and values are kept, but every token projects all picture values again
`rows_N`          a token of each of N documents in one pass against N passes
`static_token`    tensors of fixed shape, and the same through torch.compile (`compiled_token`), against the engine
`bfloat16_cache`, `half_the_cache`   the feature cache in bfloat16, or bounded, against the whole one; the logits' distance is told
`bfloat16_token`, `int8_token`   weights in fewer bits against float32

and how a token's time grows with the text before it. Weights read per token are counted as bytes. `--quick` runs everything at a
fraction of the length; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from measuring import compare, machine, report
from mid import mid_model, prompt
from published import as_published
from torch import Tensor
from transformers import DynamicCache

from mm_interleaved.errors import BackendError
from mm_interleaved.generation.load import Model, load
from mm_interleaved.generation.rows import TextRows
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.model.feature_cache import Values

WORD = 260


def read(model: Model, pictures: int = 1, words: int = 16, **cache: Any) -> DocumentState:
    """A document that was read."""
    state = DocumentState(model.network, **cache)
    state.read(model.processor.open_layout(prompt(pictures, words=words)))
    return state


def weight_bytes(model: Model) -> float:
    """Bytes of weights that one token reads: all of the language model's layers but the table of words, and the head."""
    network = model.network
    parts = [*network.language_model.layers.parameters(), *network.text_head.parameters()]
    return float(sum(part.nbytes for part in parts))


def tokens(state: DocumentState, count: int) -> Callable[[], None]:
    """So many tokens by the engine, then back to where it stood."""

    def run() -> None:
        place, images = state.position, state.images
        for _ in range(count):
            state.append_token(WORD)
            state.next_logits().argmax()
        state.roll_back(place, images)

    return run


def tokens_as_published(model: Model, count: int) -> Callable[[], None]:
    network = model.network
    state = read(model)
    pixels = torch.rand(1, 3, network.config.image_side, network.config.image_side)
    with torch.no_grad():
        maps = network.encode_images(pixels).maps
    flat = torch.cat([maps[level].flatten(2).transpose(1, 2) for level in network.text_levels], dim=1)[:, None]

    class Again:
        def text_values(self) -> Values:
            return network.language_model.project_features(flat)

    @torch.no_grad()
    def run() -> None:
        past = DynamicCache()
        for index, layer in enumerate(state.tokens.growing):
            past.update(*layer.parts, index)
        with as_published():
            for place in range(state.position, state.position + count):
                visible = torch.ones(1, 1, 1, dtype=torch.bool)
                embedded, places = network.embed(torch.tensor([[WORD]])), torch.tensor([[place]])
                hidden: Tensor = network.read(embedded, visible=visible, cache=Again(), past_key_values=past, position_ids=places)
                network.logits(hidden[:, -1:]).argmax()

    return run


def rows(model: Model, documents: int, count: int, *, compiled: bool = False) -> Callable[[], None]:
    """So many tokens of some documents in rows; they go on, as the compiled form must not change its shapes."""
    states = [read(model) for _ in range(documents)]
    table = TextRows(model.network, documents, compiled=compiled)
    table.gather(states)

    def run() -> None:
        for _ in range(count):
            table.read(states, [WORD] * documents)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fraction of the length")
    quick = parser.parse_args().quick
    count, settings = (2, {"repeats": 1}) if quick else (20, {"repeats": 5, "at_most": 40.0})
    report(machine())
    model = mid_model()
    moved = weight_bytes(model) * count
    known: dict[str, Any] = {"tokens": count, "bytes_moved": moved, "flops": moved / 2, **settings}
    engine = tokens(read(model), count)
    compare("cached_token", "engine", engine, "published", tokens_as_published(model, count), against_keeps_memory=False, **known)
    compare("static_token", "rows of 1", rows(model, 1, count), "engine", engine, **known)
    for documents in (2,) if quick else (2, 4, 8, 16):
        many = {**known, "flops": documents * moved / 2, "documents": documents}
        compare(f"rows_{documents}", "one pass", rows(model, documents, count), "a pass each", _repeated(engine, documents), **many)
    for length in (16,) if quick else (256, 512, 1024):
        longer = tokens(read(model, words=length), count)
        compare("longer_text", "engine", longer, "engine on 16 tokens", engine, words=length, **known)
    _smaller_caches(model, count, 2 if quick else 16, settings)
    _compiled(model, engine, count, known)
    for case, make in {"bfloat16_token": _in_bfloat16, "int8_token": _in_int8}.items():
        try:
            other = make()
            fewer = {**known, "bytes_moved": weight_bytes(other) * count}
            compare(case, case.removesuffix("_token"), tokens(read(other), count), "float32", engine, **fewer)
        except BackendError as error:
            report({"case": case, "not_measured": str(error)})


def _smaller_caches(model: Model, count: int, pictures: int, settings: dict[str, Any]) -> None:
    """What it costs to keep values in bfloat16, or only the later half of the pictures: time, memory, and distance of the logits."""
    full = read(model, pictures)
    for case, options in {
        "bfloat16_cache": {"cache_dtype": torch.bfloat16},
        "half_the_cache": {"cache_bytes": full.features.nbytes // 2},
    }.items():
        less = read(model, pictures, **options)
        away = float((less.next_logits() - full.next_logits()).abs().max() / full.next_logits().abs().max())
        sizes = {"pictures": pictures, "cache_bytes": less.features.nbytes, "against_cache_bytes": full.features.nbytes}
        compare(case, case, tokens(less, count), "whole cache", tokens(full, count), logits_away=away, **sizes, **settings)


def _repeated(run: Callable[[], None], times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            run()

    return repeated


def _compiled(model: Model, engine: Callable[[], None], count: int, known: dict[str, Any]) -> None:
    # torch.compile needs a C++ compiler on CPUs.
    try:
        compare("compiled_token", "compiled rows of 1", rows(model, 1, count, compiled=True), "engine", engine, **known)
    except Exception as error:  # whatever the machine's compiler says
        report({"case": "compiled_token", "not_measured": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})


def _in_bfloat16() -> Model:
    model = mid_model()
    model.network.to(torch.bfloat16)
    return model


def _in_int8() -> Model:
    with tempfile.TemporaryDirectory() as folder:
        return load(mid_model().save(folder), quantize="int8")


if __name__ == "__main__":
    main()
