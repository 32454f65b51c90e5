"""`mmi convert backbones`: a vision transformer, a language model and a diffusion model become one model that is ready to train.

What is upstream's is copied; what is new starts as the publication started it, so that at first nothing changes: the gates of MMFS
are closed, the image decoder's synchronizers add zero, the adapter injects zero, control tokens have the logit -5. Beside the
weights, `training_split.json` says which parameters the publication trains (patterns for a recipe's `trainable`).

Source: spec §1.5 (what is trained), §2.8 (initialisation). Deviation: the adapter's offsets start in directions around the reference
point, which the released training had lost (docs/deviations.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModel,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionModel,
)

from mm_interleaved.checkpoint.card import CARD_FILE, LicensedPart, model_card
from mm_interleaved.checkpoint.memory_plan import TRAINED
from mm_interleaved.checkpoint.native import save_model
from mm_interleaved.checkpoint.tokenizers import make_processor, read_tokenizer
from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.model.configuration import Behaviour, MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.language_model import LAYER_FAMILIES
from mm_interleaved.model.vit_adapter import Extractor, map_sides
from mm_interleaved.name_patterns import fits_any
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.processing.tokenizer import BEGIN_IMAGE, IMAGE

SPLIT_FILE = "training_split.json"
"""Which parameters are trained."""

LARGEST_ADAPTER = 4
"""Interaction blocks of the adapter; a shallower vision transformer has one per layer."""

VISION_MODELS: dict[str, type[CLIPVisionModel] | type[SiglipVisionModel]] = {
    **dict.fromkeys(("clip", "clip_vision_model"), CLIPVisionModel),
    **dict.fromkeys(("siglip", "siglip_vision_model"), SiglipVisionModel),
}
"""Upstream's class by `model_type` of a folder: a whole model, or its vision half."""

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """What was made."""

    model: MMInterleavedForConditionalGeneration
    processor: MMInterleavedProcessor
    trained: tuple[str, ...]
    """Patterns of the trained parameters, for a recipe's `trainable`."""


def convert_backbones(
    target: Path,
    *,
    llm: Path,
    vision: Path | None = None,
    diffusion: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Assembly:
    """Joins upstream folders to a model and saves it with its processor; the folder appears complete or not at all.

    Args:
        target: the new folder.
        llm: folder of a language model of the Llama family with its tokenizer, or a GGUF file.
        vision: folder of CLIP or SigLIP, or of its vision half; None makes a new one of the sizes in `changes["vision_config"]`.
        diffusion: diffusers folder with `unet`, `vae` and `scheduler`; with `text_encoder` and `tokenizer` the empty prompt becomes
            the negative condition. None makes a new one of the sizes in `changes["image_decoder"]`.
        changes: fields of `MMInterleavedConfig` that shall differ from the published sizes, nested as there.
        seed: of what is new.
        dtype: in which the weights are saved.

    Raises:
        CheckpointError: a folder cannot be read, or has other weights than its configuration says.
        ConfigError: a part is of a kind that does not fit, sizes do not fit each other, or `changes` lacks those of a new part.
        StorageError: the model cannot be written.
    """
    assembly = assemble(vision=vision, llm=llm, diffusion=diffusion, changes=changes, seed=seed)
    cast("nn.Module", assembly.model).to(dtype)
    upstream = (
        ("visual_tokenizer.encoder", vision, "see its model card (OpenAI CLIP: MIT; SigLIP: Apache-2.0)"),
        ("language_model, text_head", llm, "see its model card (LLaMA, Vicuna: LLaMA licence)"),
        ("image_decoder.unet, image_decoder.vae", diffusion, "see its model card (Stable Diffusion 2: OpenRAIL++-M)"),
    )
    parts = [LicensedPart(part, source.name, licence) for part, source, licence in upstream if source is not None]
    parts.append(LicensedPart("everything else", "new, not trained", "none"))
    save_model(assembly.model, _Companions(assembly, parts), target)
    return assembly


def assemble(
    *, llm: Path, vision: Path | None = None, diffusion: Path | None = None, changes: Mapping[str, Any] | None = None, seed: int = 0
) -> Assembly:
    """Joins upstream folders to a model in memory; arguments and errors as in `convert_backbones`."""
    changes = changes or {}
    vision_model = None if vision is None else _read_vision(vision)
    painter = None if diffusion is None else _read_diffusion(diffusion)
    vision_config = _new_part(changes, "vision_config", "--vision") if vision_model is None else vision_model.config.to_dict()
    image_decoder = _new_part(changes, "image_decoder", "--diffusion") if painter is None else _painter_values(*painter)
    folder, gguf_file = (llm, None) if llm.is_dir() else (llm.parent, llm.name)
    tokenizer = read_tokenizer(folder, gguf_file=gguf_file)
    language = _read_language(folder, gguf_file)
    known: dict[str, Any] = language.config.to_dict()
    control = [cast("int", tokenizer.convert_tokens_to_ids(name)) for name in (BEGIN_IMAGE, IMAGE)]
    text_config = {**known, "vocab_size": max(known["vocab_size"], len(tokenizer))}
    config = _config(vision_config, text_config, image_decoder, _ids(tokenizer, control), changes)
    processor = make_processor(tokenizer, config, where=str(llm))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MMInterleavedForConditionalGeneration(config)
        # transformers draws Linear layers anew after construction and does not call `_init_weights` for modules that own no parameter
        # themselves, so that the extractors lose the directions of their offsets.
        for module in model.visual_tokenizer.encoder.modules():
            if isinstance(module, Extractor):
                module.reset_parameters()
    if vision is not None and vision_model is not None:
        skip = ("post_layernorm.", "head.")
        _copy(vision_model.state_dict(), model.visual_tokenizer.encoder, skip=skip, new=("adapter_",), where=vision)
    if diffusion is not None and painter is not None:
        unet, vae, _ = painter
        _copy(unet.state_dict(), model.image_decoder.unet, new=("skip_synchronizers.", "middle_synchronizer."), where=diffusion / "unet")
        _copy(vae.state_dict(), model.image_decoder.vae, where=diffusion / "vae")
    _copy_language(language, model, control, where=llm)
    negative = None if diffusion is None else _empty_prompt(diffusion)
    if negative is not None and negative.shape == model.image_decoder.negative_tokens.shape:
        with torch.no_grad():
            model.image_decoder.negative_tokens.copy_(negative)
    # A part of the published split may be missing here, and a pattern that fits nothing is an error in a recipe.
    names = [name for name, _ in model.named_parameters()]
    trained = tuple(pattern for pattern in TRAINED if fits_any(pattern, names))
    return Assembly(model=model.eval(), processor=processor, trained=trained)


class _Companions:
    """The files beside the weights."""

    def __init__(self, assembly: Assembly, parts: Sequence[LicensedPart]) -> None:
        self._assembly = assembly
        self._parts = parts

    def save_pretrained(self, save_directory: str) -> None:
        folder = Path(save_directory)
        self._assembly.processor.save_pretrained(save_directory)
        (folder / SPLIT_FILE).write_text(json.dumps({"trainable": list(self._assembly.trained)}, indent=2) + "\n", encoding="utf-8")
        description = "Joined from upstream parts by `mmi convert backbones`; the new parts are not trained yet."
        (folder / CARD_FILE).write_text(model_card("MM-Interleaved, untrained", description, self._parts), encoding="utf-8")


def _config(
    vision: dict[str, Any], text: dict[str, Any], image_decoder: dict[str, Any], ids: dict[str, int], changes: Mapping[str, Any]
) -> MMInterleavedConfig:
    grid = vision["image_size"] // vision["patch_size"]
    sides = map_sides(16 * grid)
    values: dict[str, Any] = {
        "text_config": text,
        "vision_config": vision,
        "adapter": {"blocks": min(LARGEST_ADAPTER, vision["num_hidden_layers"]), "heads": vision["num_attention_heads"]},
        "resampler": {},
        "mmfs": {"level_sides": sides[1:], "base_side": grid},
        "image_decoder": _merged({"mmfs": {"level_sides": sides, "base_side": None, "offset_init": 1.0, "max_images": 10}}, image_decoder),
        "behaviour": Behaviour(separate_control_head=True),
        "visual_position_side": grid,
        **ids,
    }
    return MMInterleavedConfig(**_merged(values, changes))


def _painter_values(unet: Any, vae: Any, noise: dict[str, Any]) -> dict[str, Any]:
    latent_side = unet.config["sample_size"]
    return {
        "unet": _arguments(unet),
        "vae": _arguments(vae),
        "resampler": {
            **{"queries": 77, "width": unet.config["cross_attention_dim"], "layers": 1, "heads": 16},
            **{"cross_attention_every": 1, "head_norm": False, "dropout": 0.0},
        },
        "noise": noise,
        "image_side": latent_side * 2 ** (len(vae.config["block_out_channels"]) - 1),
        "feature_position_side": latent_side,
    }


def _new_part(changes: Mapping[str, Any], field: str, option: str) -> dict[str, Any]:
    values = changes.get(field)
    if not isinstance(values, Mapping) or not values:
        raise ConfigError(
            f"without {option} this part is new and its sizes must stand under {field} of --config (as in recipes/models/nano.yaml)."
        )
    return dict(values)


def _ids(tokenizer: PreTrainedTokenizerFast, control: Sequence[int]) -> dict[str, int]:
    end = tokenizer.eos_token_id
    if end is None:
        raise ConfigError("the tokenizer of the language model has no end token (eos_token); set one in its folder.")
    # Families without a begin or a padding token use the end token: documents are told apart by their own index, not by ids.
    begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": pad}
    return ids | {"begin_image_token_id": control[0], "image_token_id": control[1]}


def _read_vision(folder: Path) -> CLIPVisionModel | SiglipVisionModel:
    kind = _loaded(folder, lambda: AutoConfig.from_pretrained(str(folder), local_files_only=True)).model_type
    if kind not in VISION_MODELS:
        raise ConfigError(
            f"{folder}: the vision transformer is of the kind '{kind}'; the adapter stands around those of {', '.join(VISION_MODELS)}."
        )
    return _loaded(folder, lambda: VISION_MODELS[kind].from_pretrained(str(folder), local_files_only=True, dtype=torch.float32))


def _read_language(folder: Path, gguf_file: str | None) -> PreTrainedModel:
    options: dict[str, Any] = {}
    if gguf_file is not None:
        # Without `dequantize` the weights stay packed, and cannot be trained.
        options = {"gguf_file": gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    else:
        kind = _loaded(folder, lambda: AutoConfig.from_pretrained(str(folder), local_files_only=True)).model_type
        _check_family(kind, folder)
    language = _loaded(
        folder, lambda: AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32, **options)
    )
    _check_family(language.config.model_type, folder)
    return language


def _check_family(kind: str, folder: Path) -> None:
    if kind not in LAYER_FAMILIES:
        raise ConfigError(
            f"{folder}: the language model is of the family '{kind}'; layers with MMFS exist for: {', '.join(LAYER_FAMILIES)}."
        )


def _read_diffusion(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    unet = _loaded(folder / "unet", lambda: UNet2DConditionModel.from_pretrained(str(folder / "unet"), local_files_only=True))
    vae = _loaded(folder / "vae", lambda: AutoencoderKL.from_pretrained(str(folder / "vae"), local_files_only=True))
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = _loaded(path, lambda: json.loads(path.read_text(encoding="utf-8")))
    for name, wanted in (("prediction_type", "epsilon"), ("beta_schedule", "scaled_linear")):
        if scheduler.get(name, wanted) != wanted:
            raise ConfigError(f"{path}: {name} is '{scheduler[name]}'; only '{wanted}' is supported (Stable Diffusion 1.x and 2.x base).")
    noise = {"kind": "ddpm"}
    names = {"num_train_timesteps": "train_steps", "beta_start": "beta_start", "beta_end": "beta_end", "steps_offset": "steps_offset"}
    return unet, vae, noise | {ours: scheduler[theirs] for theirs, ours in names.items() if theirs in scheduler}


def _empty_prompt(folder: Path) -> Tensor | None:
    if not ((folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir()):
        return None
    tokenizer = _loaded(folder / "tokenizer", lambda: CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True))
    encoder = _loaded(folder / "text_encoder", lambda: CLIPTextModel.from_pretrained(str(folder / "text_encoder"), local_files_only=True))
    length = encoder.config.max_position_embeddings
    ids = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder(ids).last_hidden_state


def _copy_language(language: PreTrainedModel, model: MMInterleavedForConditionalGeneration, control: Sequence[int], *, where: Path) -> None:
    inner = {name.removeprefix("model."): tensor for name, tensor in language.state_dict().items() if name.startswith("model.")}
    embedding = inner.pop("embed_tokens.weight")
    own = model.language_model.embed_tokens.weight
    old = embedding.shape[0]
    with torch.no_grad():
        own[:old] = embedding
        fresh = sorted({*range(old, own.shape[0]), *control})
        # New entries begin in the middle of the known ones, with their spread, so that they look like words to the layers.
        known = embedding[[row for row in range(old) if row not in control]]
        own[fresh] = known.mean(dim=0) + 0.02 * torch.randn(len(fresh), own.shape[1], generator=torch.Generator().manual_seed(0))
        if model.text_head.head is not None:
            head = cast("Tensor", language.lm_head.weight)  # type: ignore[union-attr]
            rows = [row for row in range(head.shape[0]) if row not in control]
            model.text_head.head.weight[rows] = head[rows]
    _copy(inner, model.language_model, new=("embed_tokens.",), inside=".synchronizer.", where=where)


def _copy(
    source: Mapping[str, Tensor],
    target: nn.Module,
    *,
    where: Path,
    skip: tuple[str, ...] = (),
    new: tuple[str, ...] = (),
    inside: str = "\0",
) -> None:
    """Copies every tensor of an upstream part; what only we have must begin with `new` or contain `inside`."""
    own = target.state_dict()
    wanted = {name for name in own if not name.startswith(new or "\0") and inside not in name and not name.endswith(".position_ids")}
    found = {name: tensor for name, tensor in source.items() if not name.startswith(skip or "\0") and not name.endswith(".position_ids")}
    if different := sorted(wanted ^ found.keys()):
        kind = "is missing" if different[0] in wanted else "is not known here"
        raise CheckpointError(f"{where}: '{different[0]}' {kind} ({len(different)} such names); this variant is not supported.")
    with torch.no_grad():
        for name, tensor in found.items():
            if own[name].shape != tensor.shape:
                raise CheckpointError(f"{where}: '{name}' is {tuple(tensor.shape)}, expected is {tuple(own[name].shape)}.")
            own[name].copy_(tensor)


def _loaded(path: Path, read: Callable[[], Loaded]) -> Loaded:
    try:
        return read()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); give the folder of an upstream model.") from error


def _arguments(module: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in module.config.items() if not name.startswith("_")}


def _merged(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged
