"""Puts a trained model into the box: bfloat16 weights, processor, recipe, golden output.

    python scripts/make_box.py runs/playground-nano/final

Rows of the token table that no token of the processor uses are left out: they are never looked up, and never written.

The model card (README.md in that folder) is written by hand; its figures come from `mmi evaluate`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file

from mm_interleaved.generation.golden import write_golden
from mm_interleaved.generation.load import BOX, load
from mm_interleaved.processing.processor import MMInterleavedProcessor

LARGEST = 30_000_000
"""Bytes of weights: code, pack and weights together have to travel in 64 MiB."""

WEIGHTS, TOKEN_TABLE = "model.safetensors", "language_model.embed_tokens.weight"
ROWS = 8
"""The token table keeps a multiple of so many rows."""


def main(source: Path) -> None:
    card = BOX / "README.md"
    kept = card.read_text(encoding="utf-8") if card.is_file() else None
    with TemporaryDirectory() as name:
        made = Path(name) / "box"
        shutil.copytree(source, made)
        _leave_out_unused_rows(made)
        weights = (made / WEIGHTS).stat().st_size
        if weights > LARGEST:
            sys.exit(f"error: {source} holds {weights} bytes of weights, at most {LARGEST} fit the box; train with final_dtype: bfloat16.")
        if BOX.exists():
            shutil.rmtree(BOX)
        shutil.copytree(made, BOX)
    if kept is not None:
        card.write_text(kept, encoding="utf-8")
    write_golden(load(), BOX)
    print(f"{BOX}: {weights / 1e6:.1f} MB of weights")


def _leave_out_unused_rows(folder: Path) -> None:
    """Shortens the token table of a checkpoint in place."""
    used = len(MMInterleavedProcessor.from_pretrained(str(folder)).tokenizer)
    tensors = load_file(folder / WEIGHTS)
    rows = min(-(-used // ROWS) * ROWS, len(tensors[TOKEN_TABLE]))
    tensors[TOKEN_TABLE] = tensors[TOKEN_TABLE][:rows].clone()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["vocab_size"] = rows
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
