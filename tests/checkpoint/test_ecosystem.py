"""The model is a transformers model: Auto classes, shards, adapters, spread over devices, in few bits — and always the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from mm_interleaved.checkpoint.native import load_model, save_model, weight_files
from mm_interleaved.checkpoint.placement import waits
from mm_interleaved.checkpoint.quantized import FEW_BITS, FewBits, quantization
from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import BackendError, ConfigError
from mm_interleaved.generation.load import Model, load
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.testing import tiny_config, tiny_model, tiny_processor

PICTURE = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": "what is this?"}, {"type": "image", "image": PICTURE}]},
    {"role": "user", "content": "a cat"},
]


@pytest.fixture(scope="module")
def model() -> MMInterleavedForConditionalGeneration:
    return tiny_model(seed=3)


@pytest.fixture(scope="module")
def folder(model: MMInterleavedForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(model, tiny_processor(), tmp_path_factory.mktemp("tiny") / "model")


def _same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@torch.no_grad()
def _logits(model: torch.nn.Module, processor: MMInterleavedProcessor | None = None) -> Tensor:
    inputs = (processor or tiny_processor()).apply_chat_template(MESSAGES, tokenize=True)
    pixels = inputs["pixels"].to(next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()))
    return model(inputs["token_ids"], pixels).logits.float()


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForImageTextToText], ids=lambda auto: auto.__name__)
def test_auto_classes_find_configuration_model_and_processor(
    folder: Path, model: MMInterleavedForConditionalGeneration, auto: type
) -> None:
    assert isinstance(AutoConfig.from_pretrained(folder), MMInterleavedConfig)
    found = auto.from_pretrained(folder)
    assert isinstance(found, MMInterleavedForConditionalGeneration)
    assert _same(found, model)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, MMInterleavedProcessor)
    assert torch.equal(_logits(found, processor), _logits(model))


def test_what_an_auto_class_saves_in_shards_is_read_exactly(
    folder: Path, model: MMInterleavedForConditionalGeneration, tmp_path: Path
) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="200KB")
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    assert len(weight_files(tmp_path)) > 1
    assert _same(load_model(tmp_path), model)
    template = AutoProcessor.from_pretrained(tmp_path).apply_chat_template(MESSAGES)
    assert template == "what is this?<|beginofimage|>" + "<|image|>" * 4 + "a cat"


def test_adapters_are_saved_loaded_and_merged_without_changing_what_is_said(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=4,
        init_lora_weights=False,
        target_modules=r"language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
        modules_to_save=["control_head", "context_projection"],
    )
    adapted = peft.get_peft_model(load_model(folder), settings).eval()
    touched = {name.split(".lora_A")[0].removeprefix("base_model.model.") for name, _ in adapted.named_parameters() if ".lora_A" in name}
    assert touched
    assert all(name.startswith("language_model.layers.") and ".synchronizer." not in name for name in touched)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
    said = _logits(adapted)
    assert not torch.allclose(said, _logits(load_model(folder)), atol=1e-3)

    adapted.save_pretrained(tmp_path / "adapter")
    assert sum(file.stat().st_size for file in (tmp_path / "adapter").iterdir()) < weight_files(folder)[0].stat().st_size / 2
    again = peft.PeftModel.from_pretrained(load_model(folder), tmp_path / "adapter").eval()
    assert torch.equal(_logits(again), said)

    merged = again.merge_and_unload()
    assert isinstance(merged, MMInterleavedForConditionalGeneration)
    save_model(merged, tiny_processor(), tmp_path / "merged")
    # Two matrices are added once instead of two products at every call: rounding of float32.
    assert torch.allclose(_logits(load_model(tmp_path / "merged")), said, atol=1e-5)


@pytest.fixture(scope="module")
def page(folder: Path) -> Document:
    return _continued(load(folder))


def _continued(model: Model) -> Document:
    prompt = Document(["draw a cat.", Image.from_array(PICTURE), " again"])
    return model.continue_document(prompt, force_image=True, max_images=2, max_tokens=8, steps=2)


def _pictures(page: Document) -> list[np.ndarray]:
    return [image.array() for image in page.images[1:]]


def _same_page(first: Document, second: Document) -> bool:
    words = [[part.text for part in page if isinstance(part, Text)] for page in (first, second)]
    painted = list(zip(_pictures(first), _pictures(second), strict=True))
    return words[0] == words[1] and len(painted) > 0 and all(np.array_equal(*pair) for pair in painted)


def test_a_model_placed_by_a_device_map_continues_a_document_as_one_in_one_piece(folder: Path, page: Document) -> None:
    assert _same_page(_continued(load(folder, device_map={"": "cpu"})), page)


def test_a_model_whose_layers_wait_on_the_disk_continues_a_document_as_one_in_one_piece(folder: Path, page: Document) -> None:
    model = load(folder, wait_on="disk")
    waiting = {name for name, parameter in model.network.named_parameters() if parameter.is_meta}
    assert waiting == {name for name in waiting if waits(name)}
    assert len(waiting) == 3 * 7  # four matrices of attention and three of the MLP in each layer
    assert _same_page(_continued(model), page)


@pytest.fixture(scope="module")
def wide_model() -> MMInterleavedForConditionalGeneration:
    """4 bits are packed in blocks of 64."""
    values = tiny_config().to_dict()
    values["text_config"] |= {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}
    torch.manual_seed(0)
    return MMInterleavedForConditionalGeneration(MMInterleavedConfig(**values)).eval()


@pytest.fixture(scope="module")
def wide(wide_model: MMInterleavedForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(wide_model, tiny_processor(), tmp_path_factory.mktemp("wide") / "model")


@pytest.mark.parametrize("form", FEW_BITS)
def test_few_bits_hold_the_language_models_layers_and_nothing_else(wide: Path, form: FewBits) -> None:
    pytest.importorskip("bitsandbytes")
    model = load(wide, dtype=torch.bfloat16, quantize=form).network
    packed = {name for name, parameter in model.named_parameters() if not parameter.is_floating_point()}
    expected = {
        f"{name}.weight"
        for name, module in tiny_model().named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("language_model.layers.") and ".synchronizer." not in name
    }
    assert packed == expected
    assert {parameter.dtype for name, parameter in model.named_parameters() if name not in packed and ".vae." not in name} == {
        torch.bfloat16
    }


ROUNDING = {"int8": 0.03, "int4": 0.3}
"""Of the largest logit: 8 bits round a weight by up to 0.4 %, 4 bits by up to 15 % of the largest of its row or block."""


@pytest.mark.parametrize("form", FEW_BITS)
def test_a_model_in_few_bits_says_nearly_the_same_and_paints(
    wide: Path, wide_model: MMInterleavedForConditionalGeneration, form: FewBits
) -> None:
    pytest.importorskip("bitsandbytes")
    exact = _logits(wide_model)
    found = load(wide, dtype=torch.bfloat16, quantize=form)
    assert (_logits(found.network) - exact).abs().max() < ROUNDING[form] * exact.abs().max()
    pictures = _pictures(_continued(found))
    assert pictures
    assert all(picture.std() > 0 for picture in pictures)


def test_unknown_and_uninstalled_forms_are_refused(model: MMInterleavedForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="int8, int4"):
        quantization("int3", model.config)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"hidden_size 32: .* multiples of 64"):
        quantization("int4", model.config)
    monkeypatch.setattr("mm_interleaved.checkpoint.quantized.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"mm-interleaved\[quantized\]"):
        quantization("int4", model.config)
