"""From a recipe to the things a run needs: corpus, tokenizer and processor, model with joined parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from mm_interleaved.checkpoint.native import load_model, load_parts, read_config
from mm_interleaved.checkpoint.quantized import quantization
from mm_interleaved.data.kinds import make_source
from mm_interleaved.data.mixture import Mixture
from mm_interleaved.data.packing import Row, Shorten, published_row_reader
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import READING_TASKS, TASKS, known_words, texts
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.data.sources import Example, Skips
from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.model.configuration import MMFSConfig, MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.layout import lay_out
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.processing.tokenizer import train_tokenizer
from mm_interleaved.training.feed import Corpus, key
from mm_interleaved.training.recipe import InitRecipe, Recipe, read_model_config
from mm_interleaved.training.state import storage_error

FINAL = "final"
"""Sub-folder of a run's output with its finished model and processor."""

HEADS_PART, HEADS_FILE = "heads", "heads.safetensors"
"""Name of an objective's heads among the parts of an `init` entry, and the file beside a finished model that holds them."""

LATENT_STATISTICS = ("latents_mean", "latents_std", "scaling_factor", "shift_factor")
"""Fields of the autoencoder's config that belong to its weights."""


def picture_side(config: MMInterleavedConfig) -> int:
    """Side in pixels of the encoder's view, for which the corpus composes its pictures."""
    side = config.vision_config.image_size
    if not isinstance(side, int):
        raise ConfigError(f"vision_config.image_size is {side}; pictures are square, write one number.")
    return side


def make_corpus(recipe: Recipe, *, side: int) -> Corpus:
    """The samples of a recipe.

    Args:
        side: side in pixels at which pictures are composed.

    Raises:
        ConfigError: an unknown field of the world, an unknown task, or sources for an objective that needs exact truth.
        DataError: the pack is missing or broken.
    """
    world = _world(recipe.data.pack, recipe.data.world, "data.world")
    _refuse(recipe.data.tasks, sorted(TASKS), "data.tasks")
    wide = recipe.data.wide
    wide_tasks = [] if wide is None else wide.tasks
    _refuse(wide_tasks, sorted(TASKS), "data.wide.tasks")
    if recipe.objective not in ("documents", "words"):
        painting = next((task for task in wide_tasks if task not in READING_TASKS), None)
        if painting is not None:
            raise ConfigError(
                f"data.wide.tasks: objective '{recipe.objective}' numbers the things of data.world, so '{painting}' cannot paint others; "
                "use objective: documents, or data.pack for all tasks."
            )
        if recipe.data.sources:
            raise ConfigError(
                f"objective '{recipe.objective}' learns from the exact truth of the playground's tasks, which data.sources do not have; "
                "use objective: documents."
            )
    if recipe.data.packing != "none" and recipe.objective != "documents":
        raise ConfigError(f"data.packing {recipe.data.packing}: objective '{recipe.objective}' does not pack; use packing: none.")
    if recipe.objective == "concepts" and recipe.training.accumulation > 1:
        raise ConfigError("training.accumulation: objective 'concepts' is trained in whole steps; use accumulation 1.")
    worlds = {}
    if wide is not None:
        worlds = dict.fromkeys(wide.tasks, _world(wide.pack, {**recipe.data.world, **wide.world}, "data.wide.world"))
    return Corpus(
        world,
        recipe.data.tasks,
        seed=recipe.training.seed,
        side=side,
        last_unread=recipe.data.last_unread,
        painted=recipe.data.painted,
        tokens_alone=recipe.data.tokens_alone,
        variety=recipe.data.variety,
        worlds=worlds,
        sources={source.name: source.weight for source in recipe.data.sources},
        together=recipe.data.together,
    )


def _world(pack: Path | None, values: Mapping[str, Any], where: str) -> World:
    _refuse(values, sorted(field.name for field in fields(WorldConfig)), where)
    try:
        config = WorldConfig(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error
    return World(Pack.load(pack), config)


def make_mixture(
    recipe: Recipe, processor: MMInterleavedProcessor, config: MMInterleavedConfig, skips: Skips
) -> Mixture[Example | Row] | None:
    """The sources of a recipe as one stream; None where it has none.

    Raises:
        ConfigError: an unknown kind or option, or two sources of one name.
        DataError: a source names no files.
    """
    data = recipe.data
    if not data.sources:
        return None
    published = data.packing == "published"
    limit = config.text_config.max_position_embeddings
    row = limit if data.row_tokens is None else data.row_tokens
    fit = Shorten(
        processor.tokens,
        limit=min(limit, row),
        most_images=min(config.mmfs_part.max_images, MMFSConfig.read(config.image_decoder_part.mmfs).max_images) - 1,
        only_pairs=published,
        need_text=recipe.objective == "words",
    )
    reader = published_row_reader(
        lambda example: lay_out(
            example.segments, processor.tokens, prompt=example.prompt, closed=example.closed, minimum_context=processor.minimum_context
        ),
        processor.tokens,
        row,
    )
    return Mixture(
        [make_source(source.kind, source.values()) for source in data.sources],
        seed=recipe.training.seed,
        lanes=data.lanes,
        window=data.window,
        threads=data.threads,
        skips=skips,
        fit=fit,
        **({"reader": reader} if published else {}),  # type: ignore[arg-type]
    )


def make_processor(recipe: Recipe, config: MMInterleavedConfig, world: World) -> MMInterleavedProcessor:
    """Tokenizer and picture sizes of a new model; the same `tokenizer` section gives the same tokenizer.

    Raises:
        ConfigError: the tokenizer and the model disagree about ids.
    """
    earlier = Path(recipe.model) if Path(recipe.model).is_dir() else None
    if earlier is not None:
        return MMInterleavedProcessor.from_pretrained(str(earlier))
    # A world of its own: runs that show few things, or show them simply, still share their ids with all others.
    plain = World(world.pack, WorldConfig(things=recipe.tokenizer.things, chinese=recipe.tokenizer.chinese))
    _refuse(recipe.tokenizer.tasks, sorted(TASKS), "tokenizer.tasks")
    read = texts(plain, recipe.tokenizer.texts, seed=0, tasks=recipe.tokenizer.tasks)
    tokenizer = train_tokenizer(read, recipe.tokenizer.vocabulary)
    things = tuple(world.pack.things[thing] for thing in world.train_things)
    named = Pack(world.pack.folder, things, world.pack.styles[: world.config.styles])
    processor = MMInterleavedProcessor(
        tokenizer,
        image_side=picture_side(config),
        target_side=config.image_decoder_part.image_side,
        image_tokens=config.image_tokens,
        context_limit=config.text_config.max_position_embeddings,
        known_words=sorted(known_words(named, recipe.data.tasks)),
        isolate_documents=config.behaviour_part.isolate_documents,
        minimum_context=config.behaviour_part.minimum_context,
    )
    tokens = processor.tokens
    pairs = {
        "bos_token_id": tokens.begin,
        "eos_token_id": tokens.end,
        "pad_token_id": tokens.pad,
        "begin_image_token_id": tokens.begin_image,
        "image_token_id": tokens.image,
    }
    for name, value in pairs.items():
        if getattr(config, name) != value:
            raise ConfigError(f"{recipe.model}: {name} is {getattr(config, name)}, the tokenizer has {value}; write {name}: {value}.")
    if len(tokenizer) > config.text_config.vocab_size:
        raise ConfigError(
            f"{recipe.model}: text_config.vocab_size is {config.text_config.vocab_size}, the tokenizer has {len(tokenizer)} entries."
        )
    return processor


def run_processor(recipe: Recipe, config: MMInterleavedConfig, world: World, folder: Path, *, resumed: bool) -> MMInterleavedProcessor:
    """The processor of a run: made and saved at its start, read back when it goes on.

    Raises:
        CheckpointError: a run goes on, but its processor is gone.
        StorageError: it cannot be saved.
    """
    if resumed:
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is missing, so the words of this run have no ids; choose another output folder.")
        return MMInterleavedProcessor.from_pretrained(str(folder))
    processor = make_processor(recipe, config, world)
    try:
        processor.save_pretrained(str(folder))
    except OSError as error:
        raise storage_error(folder, error) from error
    return processor


def make_model(recipe: Recipe, processor: MMInterleavedProcessor | None = None) -> MMInterleavedForConditionalGeneration:
    """A new model from the recipe's seed, with the weights of `init` joined to it.

    Args:
        processor: its tokenizer is compared with those of the joined runs; None compares nothing.

    Raises:
        ConfigError: an init folder is missing or no finished run, or a new model in few bits.
        CheckpointError: its weights have other names or shapes.
        BackendError: few bits, and bitsandbytes is not installed.
    """
    bits = None if recipe.adapter is None else recipe.adapter.bits
    if Path(recipe.model).is_dir():
        few = {} if bits is None else {"quantization_config": quantization(bits, read_config(Path(recipe.model)))}
        trained = load_model(Path(recipe.model), dtype=torch.float32, **few)
        assert isinstance(trained, MMInterleavedForConditionalGeneration)
        _join(trained, recipe, processor)
        return trained
    if bits is not None:
        raise ConfigError(
            f"adapter.bits {bits}: {recipe.model} describes a new model; few bits need trained weights, name a model's folder."
        )
    config = read_model_config(recipe)
    for entry in recipe.init:
        if any(part in ("image_decoder", "image_decoder.vae") for part in entry.parts):
            statistics = read_config(finished_run(entry)).image_decoder["vae"]
            config.image_decoder["vae"].update({name: statistics[name] for name in LATENT_STATISTICS if name in statistics})
    torch.manual_seed(key(recipe.training.seed, "initialisation"))
    model = MMInterleavedForConditionalGeneration(config)
    _join(model, recipe, processor)
    return model


def finished_run(entry: InitRecipe) -> Path:
    """The folder of an init entry that holds a finished model.

    Raises:
        ConfigError: there is none.
    """
    for folder in (Path(entry.folder) / FINAL, Path(entry.folder)):
        if (folder / "config.json").is_file():
            return folder
    raise ConfigError(
        f"init: {entry.folder} holds no finished run (no {FINAL}/config.json); train that recipe first, or name another folder."
    )


def join_heads(heads: nn.Module, recipe: Recipe) -> None:
    """Gives an objective's heads the weights of those of an earlier run, where `init` names them.

    Raises:
        ConfigError: the folder is no finished run, or its objective kept no heads.
        CheckpointError: their names or shapes differ.
    """
    for entry in recipe.init:
        if HEADS_PART not in entry.parts:
            continue
        path = finished_run(entry) / HEADS_FILE
        if not path.is_file():
            raise ConfigError(f"init: {path} does not exist; only runs with objective 'paintings' or 'concepts' keep their heads.")
        try:
            heads.load_state_dict(load_file(path))
        except RuntimeError as error:
            raise CheckpointError(f"{path} fits other heads than this run's: {error}") from error


def _join(model: MMInterleavedForConditionalGeneration, recipe: Recipe, processor: MMInterleavedProcessor | None) -> None:
    for entry in recipe.init:
        folder = finished_run(entry)
        load_parts(model, folder, [part for part in entry.parts if part != HEADS_PART])
        if processor is not None and any(part.split(".")[0] in ("language_model", "text_head") for part in entry.parts):
            earlier = MMInterleavedProcessor.from_pretrained(str(folder))
            if earlier.tokenizer.get_vocab() == processor.tokenizer.get_vocab():
                continue
            if entry.rows == "by_id":
                raise CheckpointError(
                    f"init: {folder} was trained with another tokenizer, so its words mean other ids here; "
                    "use the same `tokenizer` section, or give the entry `rows: by_text`."
                )
            carry_rows(model, earlier.tokenizer, processor.tokenizer)


def carry_rows(model: MMInterleavedForConditionalGeneration, earlier: PreTrainedTokenizerFast, now: PreTrainedTokenizerFast) -> None:
    """Moves the rows of the token tables from the ids of one tokenizer to those of another, by the tokens' texts.

    A text that was no token gets the mean of the rows that it was made of. Ids that `now` does not use keep what they had.
    """
    vocabulary = earlier.get_vocab()
    pieces = earlier.backend_tokenizer.model
    sources = {
        place: [vocabulary[token]] if token in vocabulary else [piece.id for piece in pieces.tokenize(token)]
        for token, place in now.get_vocab().items()
    }
    head = model.text_head.head
    tables = [model.language_model.embed_tokens.weight, *(() if head is None else head.parameters())]
    with torch.no_grad():
        for table in tables:
            before = table.clone()
            for place, rows in sources.items():
                table[place] = before[rows].mean(0)


def _refuse(values: Iterable[str], known: list[str], where: str) -> None:
    for name in values:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{where}: unknown key '{name}'; the nearest is '{nearest}'. Known: {', '.join(known)}.")
