"""`mmi data`: builds, checks and shows the pack of drawings that the playground is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mm_interleaved.cli.console import JsonOption, Output, guarded

app = typer.Typer(help="Build, check and show the corpus in the box.", no_args_is_help=True, rich_markup_mode=None)


@app.command("build")
@guarded
def build(
    packages: Annotated[Path, typer.Argument(help="Folder with the npm packages of the parts (`npm pack`, or node_modules).")],
    out: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to build in; by default that inside the package.")] = None,
    part: Annotated[list[str] | None, typer.Option(help="drawings (the default), fonts, logos, robot; may be repeated.")] = None,
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
    out: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("out/playground.html"),
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Samples of each task.")] = 6,
    split: Annotated[str, typer.Option(help="train, or test: held-out combinations.")] = "train",
    as_json: JsonOption = False,
) -> None:
    """Write a page with samples of every task."""
    from mm_interleaved.data.playground import preview as page
    from mm_interleaved.data.playground.pack import Pack
    from mm_interleaved.data.playground.world import World, WorldConfig

    output = Output(as_json=as_json)
    path = page.preview(out, World(Pack.load(), WorldConfig(split=split)), seed, count)  # type: ignore[arg-type]  # checked there
    output.say(f"preview: {path}")
    output.result({"page": str(path), "samples_per_task": count, "seed": seed, "split": split})


@app.command("validate")
@guarded
def validate(
    pack: Annotated[Path | None, typer.Argument(help="Folder of the pack; by default the one inside the package.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the pack and the collections beside it: versions, hashes, and that every drawing can be decoded."""
    from mm_interleaved.data.playground.material.parts import check_collections
    from mm_interleaved.data.playground.pack import Pack

    output = Output(as_json=as_json)
    found = Pack.load(pack)
    for thing in range(len(found.things)):
        for style in range(len(found.styles)):
            found.drawing(thing, style)
    output.say(f"pack {found.folder}: {len(found.things)} things x {len(found.styles)} styles, all readable")
    counts = {"things": len(found.things), "styles": len(found.styles), "drawings": len(found.things) * len(found.styles)}
    collections = check_collections()
    output.say("collections: " + ", ".join(f"{name} ({members} files)" for name, members in collections.items()) + ", all readable")
    output.result({"pack": str(found.folder), **counts, "collections": collections})
