"""Puts a trained model into the box: bfloat16 weights, processor, recipe, golden output.

    python scripts/make_box.py runs/playground-nano/final

The model card (README.md in that folder) is written by hand; its figures come from `mmi evaluate`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mm_interleaved.generation.golden import write_golden
from mm_interleaved.generation.load import BOX, load

LARGEST = 30_000_000
"""Bytes of weights: code, pack and weights together have to travel in 64 MiB."""


def main(source: Path) -> None:
    weights = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    if weights > LARGEST:
        sys.exit(f"error: {source} holds {weights} bytes of weights, at most {LARGEST} fit the box; train with final_dtype: bfloat16.")
    card = BOX / "README.md"
    kept = card.read_text(encoding="utf-8") if card.is_file() else None
    if BOX.exists():
        shutil.rmtree(BOX)
    shutil.copytree(source, BOX)
    if kept is not None:
        card.write_text(kept, encoding="utf-8")
    write_golden(load(), BOX)
    print(f"{BOX}: {weights / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
