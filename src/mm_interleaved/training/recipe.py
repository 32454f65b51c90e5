"""A recipe: everything that one training run is, read from YAML.

A variant may name a `base:` recipe and its differences; `--set a.b=c` changes single values. Unknown keys fail with the nearest
known one. Paths of models and bases are looked for from the current folder, then from the folders above the recipe, then in the
package (`box/nano`); `init` and `output` folders belong to the current folder.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from mm_interleaved.checkpoint.adapters import AdapterSettings
from mm_interleaved.checkpoint.native import read_config
from mm_interleaved.checkpoint.quantized import FewBits
from mm_interleaved.data.playground.tasks import FIRST_TASKS
from mm_interleaved.errors import ConfigError
from mm_interleaved.model.configuration import (
    AdapterConfig,
    Behaviour,
    ImageDecoderConfig,
    MMFSConfig,
    MMInterleavedConfig,
    NoiseConfig,
    ResamplerConfig,
)

FREE_ON_RESUME = (
    "output",
    "training.steps",
    "training.save_every",
    "training.sample_every",
    "training.report_every",
    "training.threads",
    "training.prefetch",
    "training.workers",
    "training.engine",
    "training.zero_stage",
    "training.trackers",
    "training.checkpointing",
    "data.threads",
)
"""Keys that may change between two runs in the same folder; any other change would be another experiment."""


PACKAGE = Path(__file__).parents[1]
"""An installed package holds the project's recipes; one that is not in the current folder is taken from there."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class TokenizerRecipe(_Section):
    """How the tokenizer is made: from the corpus's own texts, the same for every run with the same section."""

    vocabulary: int = Field(2048, ge=261)
    """Entries, the five control tokens and 256 bytes included; equals `text_config.vocab_size`."""
    texts: int = Field(20000, ge=1)
    """Texts of the corpus it is trained on."""
    tasks: tuple[str, ...] = Field(FIRST_TASKS, min_length=1)
    """Whose texts those are, in this order; tasks that are trained on may be others."""
    things: int = Field(120, ge=2)
    """How many things of the pack those texts name; more or fewer may be trained on."""
    chinese: float = Field(0.2, ge=0, le=1)
    """Share of Chinese among those texts."""


class InitRecipe(_Section):
    """Weights of an earlier run that are joined to this one."""

    folder: str = Field(alias="from")
    """Output folder of that run; its final (EMA) weights are taken."""
    parts: tuple[str, ...] = Field(min_length=1)
    """Prefixes of parameter names, and glob patterns that begin with `!`, which leave names below them out. In what is taken every name and
    shape must agree. `heads` are those of the run's objective, where it keeps them."""
    rows: Literal["by_id", "by_text"] = "by_id"
    """Which row of that run's table of tokens a token takes. `by_id`: its own; both runs must have one tokenizer. `by_text`: that of the
    token with the same text, and for a text that was no token the mean of the tokens it was made of; for a run with more words."""


class SourceRecipe(_Section):
    """One source beside the playground's tasks: files in one format."""

    name: str = Field(min_length=1)
    """What it is called in counts and messages."""
    kind: str
    """Format, such as `mmc4`, `captions` or `vqa` (`data.kinds.KINDS`)."""
    files: tuple[str, ...] = Field(min_length=1)
    """Paths, patterns (`{00..31}`, `*`) or URLs of its shards."""
    images: str | None = None
    """Folder or URL that names of pictures are relative to."""
    fetch: bool = False
    """Whether pictures at web addresses are downloaded while training."""
    weight: float = Field(1.0, ge=0)
    """Share of samples, relative to all tasks and sources."""
    options: dict[str, Any] = {}
    """The format's own fields."""

    def values(self) -> dict[str, Any]:
        """What `data.sources.make_source` takes."""
        return {"name": self.name, "files": self.files, "images": self.images, "fetch": self.fetch, **self.options}


class WideRecipe(_Section):
    """Another world for some tasks: more drawings, whose names the sentences of the other tasks need not know."""

    pack: Path
    """Folder of its pack (`mmi data build --part wide`)."""
    world: dict[str, Any] = {}
    """Fields of `WorldConfig` that differ from those of `data.world`."""
    tasks: tuple[str, ...] = ("caption", "question")
    """Which tasks are drawn from it."""


class DataRecipe(_Section):
    """What is trained on."""

    world: dict[str, Any] = {}
    """Fields of `WorldConfig`: which things, styles, grounds, sizes, languages."""
    pack: Path | None = None
    """Folder of another pack of drawings (`mmi data build --part wide`); None is the one in the box."""
    wide: WideRecipe | None = None
    """A second world for some tasks."""
    tasks: dict[str, float] = {}
    """Weight of each task of the playground."""
    sources: tuple[SourceRecipe, ...] = ()
    """Sources beside the tasks, for the objectives `documents` and `words`."""
    lanes: int = Field(1, ge=1)
    """Independent streams of each source, a multiple of the number of processes; the same lanes give the same run on any number."""
    window: int = Field(256, ge=1)
    """Records of a source that are shuffled together; 1 keeps the order of the files."""
    threads: int = Field(1, ge=1)
    """Lanes that each process reads at once."""
    together: int = Field(1, ge=1)
    """So many consecutive samples come from one task or source."""
    packing: Literal["none", "documents", "published"] = "none"
    """`documents`: whole documents share a row and stay apart. `published`: the sources' documents are laid end to end and rows cut out
    of them; `batch_size` then counts rows. `none`: one document a row."""
    row_tokens: int | None = Field(None, ge=8)
    """Tokens of a packed row; None is the model's context."""
    last_unread: float = Field(0.0, ge=0, le=1)
    """Share of samples whose last picture is painted but not encoded (`layout.lay_out`); such a sample costs a third, and does not
    teach where its document ends."""
    painted: float = Field(1.0, ge=0, le=1)
    """Share of samples whose pictures are painted where they are to be; those of the others are only read. To paint is the dearest part
    of a sample, so a run that is to learn words paints none or few."""
    tokens_alone: float = Field(0.0, ge=0, le=1)
    """Share of samples in which the language model's synchronizers add nothing, so that it reads pictures by their tokens alone. Where
    the synchronizers always help, it stops reading the tokens (docs/log.md, "both ways to read")."""
    variety: float = Field(0.0, ge=0, le=1)
    """How much drawings are altered (mirrored, turned, recoloured …) in samples whose pictures are only read; 0 shows them as they are."""

    @model_validator(mode="after")
    def _some_task(self) -> DataRecipe:
        weights = [*self.tasks.values(), *(source.weight for source in self.sources)]
        if any(weight < 0 for weight in weights) or not sum(weights) > 0:
            raise ValueError("data needs at least one task or source, with weights ≥ 0 and one above 0")
        names = [*self.tasks, *(source.name for source in self.sources)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"data: two tasks or sources are called '{twice}'; their samples could not be told apart, rename one")
        return self


class GroupRecipe(_Section):
    """An exception to learning rate and weight decay; the first group whose pattern matches a name holds."""

    match: str
    """Glob pattern of parameter names."""
    learning_rate_factor: float = Field(1.0, ge=0)
    """Factor of the learning rate."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay instead of the common one; None keeps it."""


DEFAULT_GROUPS = (
    GroupRecipe(match="*.gate", learning_rate_factor=1.0, weight_decay=0.0),
    GroupRecipe(match="*offsets*", learning_rate_factor=0.1, weight_decay=0.0),
)
"""Gates do not decay; sampling offsets learn ten times slower and do not decay (spec §6.1)."""


class AdapterRecipe(_Section):
    """Low-rank changes instead of the weights of some parts."""

    kind: Literal["lora", "dora"] = "lora"
    """`dora` also learns the length of every row."""
    rank: int = Field(8, ge=1)
    """Rank of the change."""
    alpha: float = Field(16.0, gt=0)
    """The change is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in front of the change."""
    parts: tuple[Literal["language_model", "image_decoder.unet"], ...] = ("language_model",)
    """Which parts are changed; their own weights stay as they are, whatever `trainable` says."""
    bits: FewBits | None = None
    """Hold the language model's own layers as `int8` or `int4` while their changes are learnt (QLoRA, by bitsandbytes). The change is
    merged into the weights of `model` as they are on the disk."""

    def settings(self) -> AdapterSettings:
        return AdapterSettings(**self.model_dump(exclude={"bits"}))


class TrainingRecipe(_Section):
    """How it is trained."""

    steps: int = Field(ge=0)
    """Optimizer steps."""
    batch_size: int = Field(32, ge=1)
    """Samples of one optimizer step, all processes and micro-batches together."""
    seed: int = Field(0, ge=0)
    """Every random draw is a function of (seed, global sample index, purpose)."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(20, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant_then_linear"] = "cosine"
    """`cosine` to 0 after the warm-up, or constant and linear to 0 in the last `decay_fraction` of all steps."""
    decay_fraction: float = Field(0.4, gt=0, le=1)
    """Share of all steps in which `constant_then_linear` decays."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's averaging factors."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of matrices; biases and norms never decay."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm; longer gradients are scaled down."""
    groups: tuple[GroupRecipe, ...] = DEFAULT_GROUPS
    """Exceptions by parameter name."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the running average of weights, reached through a warm-up (`optim.ema_decay_at`)."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches that each process divides its share of a step into; the losses are divided once, over all of them."""
    checkpointing: tuple[Literal["visual_tokenizer", "language_model", "image_decoder"], ...] = ()
    """Parts whose layers are computed again in the backward pass instead of being kept."""
    mixed_precision: Literal["auto", "float32", "bf16", "fp16", "float64"] = "auto"
    """`auto` is bf16 where the machine computes it natively. `fp16` scales the loss. `float64` is for comparisons: weights too."""
    engine: Literal["average", "ddp", "fsdp2", "deepspeed"] = "average"
    """Several processes: one averaging of all gradients, accelerate's DDP, weights divided by PyTorch's FSDP2, or DeepSpeed's ZeRO."""
    zero_stage: Literal[1, 2] = 1
    """Engine `deepspeed` divides the moments (1), or moments and gradients (2)."""
    final_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of `final/` and `final-adapter/`."""
    save_every: int = Field(500, ge=1)
    """Steps between checkpoints; the last step is always saved."""
    sample_every: int = Field(0, ge=0)
    """Steps between live sample pages; 0 makes none."""
    report_every: int = Field(100, ge=1)
    """Steps between plots of the losses."""
    watch: bool = False
    """Also write gradient norms of each part, gates and the loss of each task, every step (`parts.csv`)."""
    trackers: tuple[str, ...] = ()
    """Trackers of accelerate that get every row too, such as `tensorboard` or `wandb`."""
    threads: int = Field(0, ge=0)
    """Threads of PyTorch; 0 leaves its own choice."""
    prefetch: int = Field(2, ge=1)
    """Batches prepared ahead."""
    workers: int = Field(0, ge=0)
    """Processes that compose the samples of tasks; 0 composes them in a thread, which is enough for a CPU."""


class Recipe(_Section):
    """One training run."""

    name: str
    """What it is called in reports."""
    model: str
    """YAML file of `MMInterleavedConfig` fields, or a folder with a model of ours to continue from."""
    model_changes: dict[str, Any] = {}
    """Fields of the model that differ from `model`."""
    objective: Literal["documents", "words", "concepts", "paintings", "autoencoder", "vision"]
    """What is learnt: next word and next picture; next word alone; vectors from words; pictures from vectors; pictures through the
    autoencoder; what is in a picture."""
    data: DataRecipe
    training: TrainingRecipe
    tokenizer: TokenizerRecipe = TokenizerRecipe()  # type: ignore[call-arg]  # all fields have defaults
    init: tuple[InitRecipe, ...] = ()
    trainable: tuple[str, ...] = ("*",)
    """Glob patterns of trained parameters; everything else is frozen. A pattern that begins with `!` excludes again."""
    adapter: AdapterRecipe | None = None
    """Train low-rank changes of some parts beside what `trainable` names; `final-adapter/` then holds them alone."""
    output: str
    """Folder of the run."""


def read_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Reads a recipe with its base and applies `changes`.

    Args:
        path: YAML file.
        changes: `key.key=value`, the value in YAML.

    Raises:
        ConfigError: a file is missing or not YAML, a key is unknown, a value is wrong.
    """
    path = Path(path)
    if not path.is_file() and (PACKAGE / path).is_file():
        path = PACKAGE / path
    values = _with_base(path, seen=())
    for change in changes:
        _apply(values, change)
    values["model"] = str(_located(values["model"], path)) if isinstance(values.get("model"), str) else values.get("model")
    _refuse_unknown(values, Recipe, prefix="", where=str(path))
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise ConfigError(f"{path}: {key}: {first['msg']}; got {first.get('input')!r}.") from error


def read_model_config(recipe: Recipe) -> MMInterleavedConfig:
    """The model's configuration as the recipe describes it.

    Raises:
        ConfigError: the file is missing, or a field of it is unknown.
        CheckpointError: the folder holds no model of ours.
    """
    path = Path(recipe.model)
    if path.is_dir():
        if recipe.model_changes:
            raise ConfigError(f"model_changes: {path} is a trained model; it cannot be changed.")
        return read_config(path)
    values = merged(_read_yaml(path), recipe.model_changes)
    _check_model_fields(values, where=str(path))
    values.setdefault("text_config", {}).setdefault("vocab_size", recipe.tokenizer.vocabulary)
    return MMInterleavedConfig(**values)


def as_yaml(recipe: Recipe) -> str:
    """The resolved recipe, complete in itself."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def read_saved_recipe(path: Path) -> dict[str, Any]:
    """The resolved recipe that a run wrote down, fields that were added since then at their defaults.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Recipe.model_validate(_read_yaml(path)).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"{path} was changed or is of another version: {reason}. Choose another output folder.") from error


def merged(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `difference`; mappings are joined key by key, anything else is replaced."""
    result = dict(base)
    for key, value in difference.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys that differ between two recipes and may not change when a run is resumed."""
    before, after = dict(_flat(old)), dict(_flat(new))
    differing = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    return [key for key in differing if key not in FREE_ON_RESUME]


def _with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: its `base:` leads back to itself.")
    values = _read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    return merged(_with_base(_located(base, path), (*seen, path.resolve())), values)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; a recipe is a YAML file such as recipes/playground-nano.yaml.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, expected keys and values.")
    return values


def _located(name: str, recipe: Path) -> Path:
    for folder in (Path(), *recipe.resolve().parents, PACKAGE):
        if (folder / name).exists():
            return folder / name
    raise ConfigError(f"{recipe}: '{name}' exists neither in {Path.cwd()}, nor in a folder above the recipe, nor in the package.")


def _apply(values: dict[str, Any], change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"--set {change!r}: expected key.key=value, such as training.steps=100.")
    *folders, last = key.split(".")
    for folder in folders:
        if not isinstance(values.setdefault(folder, {}), dict):
            raise ConfigError(f"--set {change!r}: '{folder}' is a single value, it has no '{last}'.")
        values = values[folder]
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change!r}: the value is not valid YAML: {error}") from error
    # YAML 1.1 reads 1e-3 as a word.
    if isinstance(values[last], str):
        with contextlib.suppress(ValueError):
            values[last] = float(values[last])


LISTED_SECTIONS: dict[str, type[BaseModel]] = {"init": InitRecipe, "groups": GroupRecipe, "sources": SourceRecipe}
"""Keys that hold lists of sections."""


def _refuse_unknown(values: Mapping[str, Any], section: type[BaseModel], *, prefix: str, where: str) -> None:
    known = {field.alias or name: field.annotation for name, field in section.model_fields.items()}
    for key, value in values.items():
        if key not in known:
            raise _unknown(prefix + str(key), str(key), known, where)
        annotation = known[key]
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel) and isinstance(value, Mapping):
            _refuse_unknown(value, annotation, prefix=f"{prefix}{key}.", where=where)
        items = LISTED_SECTIONS.get(str(key))
        if items is not None and isinstance(value, list | tuple):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    _refuse_unknown(item, items, prefix=f"{prefix}{key}.{index}.", where=where)


def _check_model_fields(values: Mapping[str, Any], *, where: str) -> None:
    def check(part: Any, known: Any, prefix: str) -> None:
        for key in part or {}:
            if key not in known:
                raise _unknown(prefix + key, key, known, where)

    check(values, [name for name in inspect.signature(MMInterleavedConfig.__init__).parameters if name not in ("self", "kwargs")], "")
    for name, upstream in (("text_config", LlamaConfig), ("vision_config", CLIPVisionConfig)):
        own = [*inspect.signature(upstream).parameters, *inspect.signature(PreTrainedConfig).parameters]
        check(values.get(name), own, f"{name}.")
    decoder = values.get("image_decoder") or {}
    records = (("adapter", AdapterConfig), ("resampler", ResamplerConfig), ("mmfs", MMFSConfig), ("behaviour", Behaviour))
    for name, record in (*records, ("image_decoder", ImageDecoderConfig)):
        check(values.get(name), [field.name for field in fields(record)], f"{name}.")
    for name, part in (("resampler", ResamplerConfig), ("mmfs", MMFSConfig), ("noise", NoiseConfig)):
        check(decoder.get(name), [field.name for field in fields(part)], f"image_decoder.{name}.")
    for name, module in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        check(decoder.get(name), list(inspect.signature(module.__init__).parameters), f"image_decoder.{name}.")


def _unknown(path: str, key: str, known: Any, where: str) -> ConfigError:
    nearest = get_close_matches(key, [str(name) for name in known], n=1, cutoff=0.0)
    return ConfigError(f"{where}: unknown key '{path}'; the nearest is '{nearest[0]}'. Known: {', '.join(sorted(map(str, known)))}.")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
