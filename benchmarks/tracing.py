"""What tracing costs when it is off: `python benchmarks/tracing.py` prints one JSON object per case.

`continue`   a story with one picture by a model that was traced once, against the same weights in a copy that never was
`traced`     the reading of a document that is traced, against one that is not: what tracing costs when it is on

Both models are the one in the box. `--quick` runs every pair once; its figures mean nothing.
"""

from __future__ import annotations

import argparse

import torch
from measuring import compare, machine, report

from mm_interleaved.document import Document
from mm_interleaved.generation.load import Model, load
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.generation.trace import trace_document

PROMPT = Document(["tell a story: a 3D camel travels to a castle."])


def story(model: Model, steps: int = 20) -> Document:
    """Words, one picture, words."""
    return model.continue_document(PROMPT, max_images=1, max_tokens=48, steps=steps, seed=0)


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="each pair once")
    quick = parser.parse_args().quick
    torch.set_num_threads(2)
    report(machine())
    never, before = load(), load()
    document = story(before, steps=2)
    trace_document(before.network, before.processor, document)
    steps = 2 if quick else 20
    times = {"repeats": 1 if quick else 25, "at_most": 60.0}
    compare("continue", "traced before", lambda: story(before, steps), "never traced", lambda: story(never, steps), **times)

    def read() -> None:
        DocumentState(never.network).read(never.processor.open_layout(document))

    def traced() -> None:
        trace_document(before.network, before.processor, document, pictures=())

    compare("traced", "traced", traced, "plain", read, repeats=1 if quick else 5)


if __name__ == "__main__":
    main()
