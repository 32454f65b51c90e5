"""Upstream parts are joined without changing what they do; what is new starts as the publication started it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModel,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
)

from mm_interleaved.checkpoint.backbones import SPLIT_FILE, Assembly, assemble, convert_backbones
from mm_interleaved.checkpoint.native import load_model
from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.generation.load import load
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.testing import tiny_config
from mm_interleaved.training.optim import freeze
from tests.checkpoint.gguf_file import write_gguf
from tests.checkpoint.upstream import CHANGES, write_painter_and_eyes

PROMPT = "a cat sat"
NEW_TOKENS = 16


def _tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=262, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([PROMPT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def _language(folder: Path, *, tied: bool) -> Path:
    tokenizer = _tokenizer()
    config = LlamaConfig(
        **{**tiny_config().text_config.to_dict(), "vocab_size": len(tokenizer), "tie_word_embeddings": tied, "initializer_range": 0.3},
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random upstream models as upstream saves them."""
    folder = tmp_path_factory.mktemp("upstream")
    write_painter_and_eyes(folder)
    _language(folder / "tied", tied=True)
    _language(folder / "untied", tied=False)
    write_gguf(LlamaForCausalLM.from_pretrained(str(folder / "tied")), _tokenizer(), folder / "tied.gguf")
    return folder


@pytest.fixture(scope="module", params=["tied", "untied", "tied.gguf"])
def llm(request: pytest.FixtureRequest, parts: Path) -> Path:
    return parts / request.param


@pytest.fixture(scope="module")
def assembly(parts: Path, llm: Path) -> Assembly:
    return assemble(vision=parts / "vision", llm=llm, diffusion=parts / "diffusion", changes=CHANGES)


def _logits(model: MMInterleavedForConditionalGeneration, token_ids: torch.Tensor) -> torch.Tensor:
    visible = torch.ones(*token_ids.shape, 0, dtype=torch.bool)
    return model.logits(model.read(model.embed(token_ids), visible=visible, cache=model.new_feature_cache()))


@pytest.fixture(scope="module")
def language(llm: Path) -> LlamaForCausalLM:
    """The language model as upstream saved it; a GGUF file holds the same weights as the folder of its name."""
    return LlamaForCausalLM.from_pretrained(str(llm.with_suffix("")), dtype=torch.float32).eval()


@torch.no_grad()
def test_its_text_is_token_for_token_that_of_the_language_model_alone(assembly: Assembly, language: LlamaForCausalLM) -> None:
    alone, processor = language, assembly.processor
    ours = [processor.tokens.begin, *processor.encode(PROMPT)]
    theirs = list(ours)
    for _ in range(NEW_TOKENS):
        expected = alone(torch.tensor([theirs])).logits
        found = _logits(assembly.model, torch.tensor([ours]))
        assert torch.allclose(found[..., : expected.shape[-1]], expected, atol=1e-5)
        theirs.append(int(expected[0, -1].argmax()))
        ours.append(int(found[0, -1].argmax()))
    assert ours == theirs
    assert len(set(theirs)) > 2  # a model that repeats one token would agree by chance


@torch.no_grad()
def test_control_tokens_start_at_minus_five_whatever_was_read(assembly: Assembly) -> None:
    model = assembly.model
    logits = _logits(model, torch.tensor([[0, 5, 9, 7]]))
    control = [model.config.begin_image_token_id, model.config.image_token_id]
    assert torch.allclose(logits[..., control], torch.tensor(-5.0), atol=1e-4)


def test_every_upstream_weight_arrives_unchanged(assembly: Assembly, parts: Path, language: LlamaForCausalLM) -> None:
    model = assembly.model
    spoken = language.model.state_dict()
    rows = spoken.pop("embed_tokens.weight")
    assert torch.equal(model.language_model.embed_tokens.weight[: len(rows)], rows)
    vision = CLIPVisionModel.from_pretrained(str(parts / "vision")).state_dict()
    pairs = [
        (model.language_model, spoken),
        (model.visual_tokenizer.encoder, {name: tensor for name, tensor in vision.items() if not name.startswith("post_layernorm.")}),
        (model.image_decoder.unet, UNet2DConditionModel.from_pretrained(str(parts / "diffusion" / "unet")).state_dict()),
        (model.image_decoder.vae, AutoencoderKL.from_pretrained(str(parts / "diffusion" / "vae")).state_dict()),
    ]
    for ours, upstream in pairs:
        own = ours.state_dict()
        assert upstream
        assert all(torch.equal(own[name], tensor) for name, tensor in upstream.items())


def test_what_is_new_starts_closed_and_the_adapter_looks_in_directions(assembly: Assembly) -> None:
    state = assembly.model.state_dict()
    closed = [name for name in state if name.endswith(("synchronizer.gate", "output_convolution.weight", "injector.gamma"))]
    assert len(closed) > 5
    assert all(not state[name].any() for name in closed)
    directions = [name for name in state if ".adapter_blocks." in name and name.endswith("attention.offsets.bias")]
    assert directions
    assert all(state[name].any() for name in directions)


def test_the_published_split_freezes_the_upstream_readers_and_trains_the_painter(assembly: Assembly) -> None:
    trained = freeze(assembly.model, assembly.trained)
    frozen = {name for name, _ in assembly.model.named_parameters()} - set(trained)
    assert "language_model.layers.0.self_attn.q_proj.weight" in frozen
    assert "visual_tokenizer.encoder.encoder.layers.0.mlp.fc1.weight" in frozen
    assert any(name.startswith("image_decoder.vae.") for name in frozen)
    assert not any(name.startswith("image_decoder.vae.") for name in trained)
    for name in ("language_model.layers.0.synchronizer.gate", "image_decoder.unet.conv_in.weight", "text_head.control_head.bias"):
        assert name in trained


def test_the_saved_model_is_loaded_with_its_processor_and_split(parts: Path, tmp_path: Path) -> None:
    made = convert_backbones(tmp_path / "new", vision=parts / "vision", llm=parts / "tied", diffusion=parts / "diffusion", changes=CHANGES)
    loaded = load(tmp_path / "new")
    own, again = made.model.state_dict(), loaded.network.state_dict()
    assert all(torch.equal(own[name], again[name]) for name in own)
    assert loaded.processor.decode_text(loaded.processor.encode(PROMPT)) == PROMPT
    assert loaded.processor.tokens.begin_image == made.model.config.begin_image_token_id
    assert json.loads((tmp_path / "new" / SPLIT_FILE).read_text())["trainable"] == list(made.trained)
    assert "OpenRAIL++-M" in (tmp_path / "new" / "README.md").read_text()
    assert load_model(tmp_path / "new").config.text_config.tie_word_embeddings


def test_control_tokens_typed_by_a_user_stay_text(assembly: Assembly) -> None:
    tokens = assembly.processor.tokens
    assert not {tokens.begin_image, tokens.image} & set(assembly.processor.encode("<|image|> <|beginofimage|>"))


def _copied(parts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(parts, tmp_path / "parts"))


def _change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@torch.no_grad()
@pytest.mark.parametrize("whole", [True, False], ids=["whole_model", "vision_half"])
def test_siglip_is_joined_with_its_own_numbers(parts: Path, tmp_path: Path, whole: bool) -> None:
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    torch.manual_seed(0)
    upstream = SiglipVisionModel(SiglipVisionConfig(**sizes)).eval()
    if whole:
        SiglipModel(SiglipConfig(text_config={**sizes, "vocab_size": 9}, vision_config=sizes)).save_pretrained(str(tmp_path / "siglip"))
        upstream = SiglipVisionModel.from_pretrained(str(tmp_path / "siglip")).eval()
    else:
        upstream.save_pretrained(str(tmp_path / "siglip"))
    convert_backbones(tmp_path / "new", vision=tmp_path / "siglip", llm=parts / "tied", diffusion=parts / "diffusion", changes=CHANGES)
    tokenizer = load_model(tmp_path / "new").visual_tokenizer
    pixels = torch.rand(2, 3, 32, 32)
    layers = upstream.encoder(upstream.embeddings((pixels - 0.5) / 0.5)).last_hidden_state
    found = tokenizer.encoder((pixels - tokenizer.clip_mean) / tokenizer.clip_std).last_hidden_state
    assert torch.allclose(found, layers, atol=1e-5)  # the adapter injects nothing at first
    assert tokenizer(pixels).tokens.shape == (2, 4, 32)


def test_vision_transformers_of_other_families_are_refused(parts: Path, tmp_path: Path) -> None:
    ViTConfig().save_pretrained(str(tmp_path))
    with pytest.raises(ConfigError, match=r"'vit'.*siglip"):
        assemble(vision=tmp_path, llm=parts / "tied", diffusion=parts / "diffusion", changes=CHANGES)


def test_language_models_of_other_families_are_refused(parts: Path, tmp_path: Path) -> None:
    _tokenizer().save_pretrained(str(tmp_path))
    GPT2Config().save_pretrained(str(tmp_path))
    with pytest.raises(ConfigError, match="family 'gpt2'"):
        assemble(vision=parts / "vision", llm=tmp_path, diffusion=parts / "diffusion", changes=CHANGES)


def test_parts_that_are_left_out_are_new_and_of_the_sizes_asked_for(parts: Path) -> None:
    config = tiny_config()
    sizes = {"vision_config": config.vision_config.to_dict(), "image_decoder": config.image_decoder}
    made = assemble(llm=parts / "tied", changes={**CHANGES, **sizes})
    assert made.model.config.vision_config.to_dict() == config.vision_config.to_dict()
    assert made.model.config.image_decoder_part.unet == config.image_decoder_part.unet
    language = LlamaForCausalLM.from_pretrained(str(parts / "tied"))
    assert torch.equal(made.model.language_model.layers[0].mlp.up_proj.weight, language.model.layers[0].mlp.up_proj.weight)
    read = assemble(vision=parts / "vision", llm=parts / "tied", changes={**CHANGES, "image_decoder": sizes["image_decoder"]})
    upstream = CLIPVisionModel.from_pretrained(str(parts / "vision")).state_dict()["embeddings.patch_embedding.weight"]
    assert torch.equal(read.model.visual_tokenizer.encoder.embeddings.patch_embedding.weight, upstream)


@pytest.mark.parametrize(("given", "option"), [("vision", "--diffusion"), ("diffusion", "--vision")])
def test_a_part_left_out_without_sizes_is_refused(parts: Path, given: str, option: str) -> None:
    changes = {name: value for name, value in CHANGES.items() if name != "image_decoder"}
    with pytest.raises(ConfigError, match=f"without {option} .* --config"):
        assemble(llm=parts / "tied", changes=changes, **{given: parts / given})


def test_diffusion_models_that_predict_something_else_are_refused(parts: Path, tmp_path: Path) -> None:
    copy = _copied(parts, tmp_path)
    _change_json(copy / "diffusion" / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(ConfigError, match="v_prediction"):
        assemble(vision=copy / "vision", llm=copy / "tied", diffusion=copy / "diffusion", changes=CHANGES)


@torch.no_grad()
def test_the_empty_prompt_of_a_text_encoder_becomes_the_negative_condition(parts: Path, tmp_path: Path) -> None:
    copy = _copied(parts, tmp_path)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(str(copy / "diffusion" / "tokenizer"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 5}
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=4, bos_token_id=0, eos_token_id=1, pad_token_id=1, **sizes)).eval()
    encoder.save_pretrained(str(copy / "diffusion" / "text_encoder"))
    made = assemble(vision=copy / "vision", llm=copy / "tied", diffusion=copy / "diffusion", changes=CHANGES)
    expected = encoder(torch.tensor([[0, 1, 1, 1, 1]])).last_hidden_state
    assert torch.allclose(made.model.image_decoder.negative_tokens, expected, atol=1e-6)


def test_a_missing_part_is_refused_by_its_folder(parts: Path, tmp_path: Path) -> None:
    copy = _copied(parts, tmp_path)
    shutil.rmtree(copy / "diffusion" / "vae")
    with pytest.raises(CheckpointError, match="vae cannot be read"):
        convert_backbones(tmp_path / "new", vision=copy / "vision", llm=copy / "tied", diffusion=copy / "diffusion", changes=CHANGES)
    assert not (tmp_path / "new").exists()
