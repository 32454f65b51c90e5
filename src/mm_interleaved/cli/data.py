"""`mmi data`: builds, checks and shows corpora: the pack of drawings that the playground is made from, and the sources of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mm_interleaved.cli.console import USER_ERROR, JsonOption, Output, guarded
from mm_interleaved.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mm_interleaved.data.sources import Example, Source

RECIPES = (".yaml", ".yml")

app = typer.Typer(
    help="Build, check, show and convert corpora: the one in the box, and the sources of a recipe.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("build")
@guarded
def build(
    packages: Annotated[Path, typer.Argument(help="Folder with the npm packages of the parts (`npm pack`, or node_modules).")],
    out: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to build in; by default that inside the package.")] = None,
    part: Annotated[list[str] | None, typer.Option(help="drawings (the default), wide, fonts, logos, robot; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build parts of the corpus from their packages; what was built before stays until the new one is complete."""
    from mm_interleaved.data.playground.material.parts import PARTS
    from mm_interleaved.errors import ConfigError

    output = Output(as_json=as_json)
    wanted = part or ["drawings"]
    for name in wanted:
        if name not in PARTS:
            raise ConfigError(f"--part: no part is called {name!r}; there are {', '.join(PARTS)}.")
    built = {name: str(PARTS[name](packages, out)) for name in wanted}
    for name, place in built.items():
        output.say(f"{name}: {place}")
    output.result(built)


@app.command("preview")
@guarded
def preview(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe: its sources are shown; by default the playground.")] = None,
    out: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("out/playground.html"),
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Samples of each task or source.")] = 6,
    split: Annotated[str, typer.Option(help="Of the playground: train, or test: held-out combinations.")] = "train",
    as_json: JsonOption = False,
) -> None:
    """Write a page with samples of every task, or of every source of a recipe."""
    output = Output(as_json=as_json)
    if recipe is not None:
        from mm_interleaved.data.doctor import preview as source_page

        shown = source_page(out, _sources(recipe), count, seed=seed)
        output.say(f"preview: {out}")
        output.result({"page": str(out), "samples": shown, "seed": seed})
        return
    from mm_interleaved.data.playground import preview as page
    from mm_interleaved.data.playground.pack import Pack
    from mm_interleaved.data.playground.world import World, WorldConfig

    path = page.preview(out, World(Pack.load(), WorldConfig(split=split)), seed, count)  # type: ignore[arg-type]  # checked there
    output.say(f"preview: {path}")
    output.result({"page": str(path), "samples_per_task": count, "seed": seed, "split": split})


@app.command("validate")
@guarded
def validate(
    target: Annotated[Path | None, typer.Argument(help="A recipe (.yaml), or the folder of a pack; by default ours.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Records of each source that are looked at.")] = None,
    listing: Annotated[Path | None, typer.Option(help="Write every skipped sample here, one JSON object a line.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the sources of a recipe (every sample that cannot be used, by reason), or the pack and the collections beside it.

    Exit status 2 if something is wrong.
    """
    from mm_interleaved.data.playground.material.parts import check_collections

    output = Output(as_json=as_json)
    if target is not None and target.suffix in RECIPES:
        if not _examine(target, output, limit=limit, listing=listing):
            raise typer.Exit(USER_ERROR)
        return
    from mm_interleaved.data.playground.pack import Pack

    found = Pack.load(target)
    for thing in range(len(found.things)):
        for style in range(len(found.styles)):
            found.drawing(thing, style)
    output.say(f"pack {found.folder}: {len(found.things)} things x {len(found.styles)} styles, all readable")
    counts = {"things": len(found.things), "styles": len(found.styles), "drawings": len(found.things) * len(found.styles)}
    collections = check_collections()
    output.say("collections: " + ", ".join(f"{name} ({members} files)" for name, members in collections.items()) + ", all readable")
    output.result({"pack": str(found.folder), **counts, "collections": collections})


@app.command("stats")
@guarded
def stats(
    recipe: Annotated[Path, typer.Argument(help="A recipe with sources.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Records of each source that are looked at.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count what the sources of a recipe hold: documents, pictures, words, repetitions, tokens."""
    _examine(recipe, Output(as_json=as_json), limit=limit, listing=None)


@app.command("convert")
@guarded
def convert(
    recipe: Annotated[Path, typer.Argument(help="A recipe with sources.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the shards.")],
    per_shard: Annotated[int, typer.Option(min=1, help="Documents of one shard.")] = 1000,
    limit: Annotated[int | None, typer.Option(min=1, help="Records of each source that are looked at.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the documents of a recipe's sources as chat messages with their pictures inside, for kind `messages` (between: "")."""
    from mm_interleaved.data.doctor import convert as write
    from mm_interleaved.data.sources import Skips

    output = Output(as_json=as_json)
    skips = Skips()
    written = {}
    for source in _sources(recipe):
        written[source.name] = [str(path) for path in write(source, out, skips, per_shard=per_shard, limit=limit)]
        output.say(f"{source.name}: {len(written[source.name])} shards in {out}; skipped: {_reasons(skips.by_reason(source.name))}")
    output.result({"shards": written, "skipped": {name: skips.by_reason(name) for name in written}})


@app.command("embed")
@guarded
def embed(
    recipe: Annotated[Path, typer.Argument(help="A recipe with sources.")],
    source: Annotated[str, typer.Argument(help="Name of the source whose pictures are compared.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="The file, which the source's option `nearest` then names.")],
    model: Annotated[Path | None, typer.Option(help="Model whose picture tokens are the vectors; by default that in the box.")] = None,
    clip: Annotated[Path | None, typer.Option(help="Folder of a CLIP (transformers): its picture vectors instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute a vector of every picture of a source, so that solved examples can be those with the most similar pictures."""
    from mm_interleaved.checkpoint.clip import Clip
    from mm_interleaved.data.sources import Skips
    from mm_interleaved.generation.load import BOX
    from mm_interleaved.training.neighbours import embed_by_model, embed_source

    output = Output(as_json=as_json)
    named = {one.name: one for one in _sources(recipe)}
    if source not in named:
        raise ConfigError(f"{recipe} has no source '{source}'; it has {', '.join(named)}.")
    if model is not None and clip is not None:
        raise ConfigError("--model and --clip exclude each other; name one.")
    skips = Skips()
    embed = embed_by_model(model or BOX) if clip is None else Clip(clip, words=False).pictures
    count = embed_source(named[source], embed, out, skips)
    skipped = skips.by_reason(source)
    output.say(f"{source}: {count} vectors in {out}; skipped: {_reasons(skipped)}")
    output.result({"file": str(out), "vectors": count, "skipped": skipped})


def _sources(path: Path) -> list[Source]:
    from mm_interleaved.data.kinds import make_source
    from mm_interleaved.training.recipe import read_recipe

    recipe = read_recipe(path)
    if not recipe.data.sources:
        raise ConfigError(f"{path} has no data.sources; name some, or leave the recipe out for the playground.")
    return [make_source(source.kind, source.values()) for source in recipe.data.sources]


def _examine(path: Path, output: Output, *, limit: int | None, listing: Path | None) -> bool:
    """Looks through all sources and tells; True if nothing had to be skipped for a fault."""
    from mm_interleaved.data.doctor import examine
    from mm_interleaved.data.sources import Skips

    skips = Skips(listing)
    found = [examine(source, skips, count_tokens=_token_counter(path), limit=limit).as_json() for source in _sources(path)]
    for one in found:
        output.say(
            f"{one['source']}: {one['documents']} documents from {one['records']} records in {one['shards']} shards, "
            f"{one['images']} pictures ({one['small_images']} small), {one['characters']} characters; "
            f"repeated: {one['repeated_documents']} documents, {one['repeated_images']} pictures; skipped: {_reasons(one['skipped'])}"
        )
        if one["tokens"]:
            output.say(
                "  tokens: " + ", ".join(f"{name} {count}" for name, count in one["tokens"].items()) + f"; longest: {one['longest']}"
            )
    output.result({"sources": found, "listed": skips.entries})
    return not any(reason != "left out by rule" for one in found for reason in one["skipped"])


def _token_counter(path: Path) -> Callable[[Example], int] | None:
    """Counts tokens with the tokenizer of the model that the recipe continues; None where it begins a new one."""
    from mm_interleaved.training.recipe import read_model_config, read_recipe

    recipe = read_recipe(path)
    if not Path(recipe.model).is_dir():
        return None
    from mm_interleaved.data.packing import Shorten
    from mm_interleaved.processing.processor import MMInterleavedProcessor

    processor, config = MMInterleavedProcessor.from_pretrained(recipe.model), read_model_config(recipe)
    fit = Shorten(processor.tokens, config.text_config.max_position_embeddings, config.mmfs_part.max_images - 1)
    return lambda example: fit.length_of(fit(example))


def _reasons(skipped: dict[str, int]) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in skipped.items()) or "nothing"
