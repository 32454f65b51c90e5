"""`mmi generate`: continues documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mm_interleaved.cli.console import USER_ERROR, JsonOption, Output
from mm_interleaved.cli.continuing import Job, continue_one, finished_before, load_quietly, read_formats, tell
from mm_interleaved.document import Document
from mm_interleaved.errors import ConfigError, DocumentError, MMInterleavedError

SUFFIXES = (".md", ".markdown", ".txt", ".json")


def generate(
    prompts: Annotated[list[Path], typer.Argument(help="Documents (.md, .json), or folders of them.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("out"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; by default the model in the box.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="Folder of an adapter that is added to the model: final-adapter of a run.")] = None,
    max_images: Annotated[int, typer.Option(help="New pictures at most, per document.")] = 4,
    max_tokens: Annotated[int, typer.Option(help="New tokens at most, per document.")] = 256,
    steps: Annotated[int, typer.Option(help="Denoising steps of a picture.")] = 20,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.")] = 2.0,
    temperature: Annotated[float, typer.Option(help="Randomness of words; 0 takes the likeliest.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens of this joint probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample among this many likeliest tokens; 0 is no limit.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, words already written become less likely.")] = 1.0,
    force_image: Annotated[bool, typer.Option("--force-image", help="Begin with a picture at once.")] = False,
    form: Annotated[str, typer.Option("--format", help="Some of html, json, md, separated by commas.")] = "html,json",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make again what was finished before.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Continue documents with words and pictures. One that fails is reported, the others go on; finished ones are skipped."""
    from mm_interleaved.generation.options import Options

    output = Output(as_json=as_json)
    formats = read_formats(form)
    options = {"seed": seed, "max_images": max_images, "max_tokens": max_tokens, "steps": steps, "guidance": guidance}
    options |= {"temperature": temperature, "top_p": top_p, "top_k": top_k, "repetition_penalty": repetition_penalty}
    options["force_image"] = force_image
    Options.read(options)
    files = _files(prompts)
    loaded = load_quietly(model, adapter)
    results, failed, names = [], list[dict[str, str]](), dict[str, Path]()
    for file in files:
        try:
            if names.setdefault(file.stem, file) != file:
                raise ConfigError(f"{names[file.stem]} has the same name, so the results would overwrite each other; rename one.")
            job = Job(file.stem, Document.load(file), out, formats, options)
            if file.resolve() in {target.resolve() for target in job.files.values()}:
                raise ConfigError("the result would overwrite the prompt; choose another output folder (-o).")
            result = (None if overwrite else finished_before(loaded, job)) or continue_one(loaded, job, output)
            results.append(result)
            tell(result, output)
        except KeyboardInterrupt:
            output.result({"documents": results, "failed": failed, "interrupted": str(file), "model_hash": loaded.model_hash})
            raise
        except MMInterleavedError as error:
            message = str(error) if str(file) in str(error) else f"{file}: {error}"
            output.error(message)
            failed.append({"prompt": str(file), "kind": type(error).__name__, "message": message})
    output.result({"documents": results, "failed": failed, "model_hash": loaded.model_hash})
    if failed:
        output.say(f"{len(results)} of {len(files)} documents finished")
        raise typer.Exit(USER_ERROR)


def _files(prompts: list[Path]) -> list[Path]:
    files: list[Path] = []
    for prompt in prompts:
        if prompt.is_dir():
            found = sorted(file for file in prompt.iterdir() if file.suffix.lower() in SUFFIXES and file.stem.lower() != "readme")
            if not found:
                expected = f"expected documents ({', '.join(SUFFIXES)}) in this folder, found none"
                raise DocumentError(f"{prompt}: {expected}; name a file or another folder.")
            files += found
        else:
            files.append(prompt)
    return list(dict.fromkeys(files))
