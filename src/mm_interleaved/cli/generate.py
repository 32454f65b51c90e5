"""`mmi generate`: continues documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mm_interleaved.cli.console import USER_ERROR, JsonOption, Output
from mm_interleaved.cli.continuing import DeviceOption, FailedJob, Job, continue_many, load_quietly, read_computing, read_formats, tell
from mm_interleaved.cli.prompts import Prompt, find_prompts
from mm_interleaved.errors import ConfigError, MMInterleavedError


def generate(
    prompts: Annotated[list[Path], typer.Argument(help="Documents (.md, .json), folders of them, or .jsonl with one on every line.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("out"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; by default the model in the box.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="Folder of an adapter that is added to the model: final-adapter of a run.")] = None,
    max_images: Annotated[int, typer.Option(help="New pictures at most, per document.")] = 4,
    max_tokens: Annotated[int, typer.Option(help="New tokens at most, per document.")] = 256,
    steps: Annotated[int, typer.Option(help="Denoising steps of a picture.")] = 20,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.")] = 2.0,
    sampler: Annotated[str, typer.Option(help="Steps of a picture: plain, or the multistep dpm++ or unipc.")] = "plain",
    temperature: Annotated[float, typer.Option(help="Randomness of words; 0 takes the likeliest.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens of this joint probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample among this many likeliest tokens; 0 is no limit.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, words already written become less likely.")] = 1.0,
    force_image: Annotated[bool, typer.Option("--force-image", help="Begin with a picture at once.")] = False,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="In what the model computes: float32 or bfloat16.")] = "float32",
    quantize: Annotated[str, typer.Option(help="Hold the language model's layers in int8 or int4 (needs bitsandbytes).")] = "",
    vae_tiling: Annotated[bool, typer.Option("--vae-tiling", help="Decode large pictures in tiles: less memory, faint seams.")] = False,
    cache_mib: Annotated[int, typer.Option(help="Memory of one document's feature cache; the oldest pictures leave. 0: no bound.")] = 0,
    cache_dtype: Annotated[str, typer.Option(help="In what the feature cache is kept: same or bfloat16.")] = "same",
    together: Annotated[int, typer.Option(min=1, help="Documents in progress at a time; each needs memory.")] = 8,
    form: Annotated[str, typer.Option("--format", help="Some of html, json, md, separated by commas.")] = "html,json",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make again what was finished before.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Continue documents with words and pictures. One that fails is reported, the others go on; finished ones are skipped."""
    from mm_interleaved.generation.options import Options

    output = Output(as_json=as_json)
    formats = read_formats(form)
    options = {"seed": seed, "max_images": max_images, "max_tokens": max_tokens, "steps": steps, "guidance": guidance, "sampler": sampler}
    options |= {"temperature": temperature, "top_p": top_p, "top_k": top_k, "repetition_penalty": repetition_penalty}
    options |= {"force_image": force_image, "cache_mib": cache_mib, "cache_dtype": cache_dtype}
    Options.read(options)
    computing = read_computing(dtype, quantize=quantize, vae_tiling=vae_tiling, adapter=adapter)
    found = find_prompts(prompts)
    loaded = load_quietly(model, device, **computing)
    results, failed, open_names = [], list[dict[str, str]](), {prompt.name: prompt for prompt in reversed(found)}
    order = {prompt.name: number for number, prompt in enumerate(found)}
    jobs = _jobs(found, out, formats, options)
    try:
        for result in continue_many(loaded, jobs, output, together=together, count=len(found), overwrite=overwrite):
            if isinstance(result, FailedJob):
                failed.append(_failure(result, open_names, output))
                continue
            open_names.pop(result["name"], None)
            results.append(result)
            tell(result, output)
    except KeyboardInterrupt:
        output.result({"documents": results, "failed": failed, "unfinished": sorted(open_names), "model_hash": loaded.model_hash})
        raise
    results.sort(key=lambda result: order[result["name"]])
    output.result({"documents": results, "failed": failed, "model_hash": loaded.model_hash})
    if failed:
        output.say(f"{len(results)} of {len(found)} documents finished")
        raise typer.Exit(USER_ERROR)


def _jobs(prompts: list[Prompt], out: Path, formats: tuple[str, ...], options: dict[str, Any]) -> Iterator[Job | FailedJob]:
    """Each document as it is read; one that cannot be is a failure of its own."""
    from mm_interleaved.generation.options import Options

    first: dict[str, Prompt] = {}
    for prompt in prompts:
        try:
            if first.setdefault(prompt.name, prompt) is not prompt:
                where = first[prompt.name].where
                raise ConfigError(f"{prompt.where}: {where} has the same name, so the results would overwrite each other; rename one.")
            document, own = prompt.read()
            Options.read({**options, **own})
            job = Job(prompt.name, document, out, formats, {**options, **own})
            if prompt.file.resolve() in {target.resolve() for target in job.files.values()}:
                raise ConfigError("the result would overwrite the prompt; choose another output folder (-o).")
            yield job
        except MMInterleavedError as error:
            yield FailedJob(prompt.where, error)


def _failure(failure: FailedJob, prompts: dict[str, Prompt], output: Output) -> dict[str, str]:
    prompt = prompts.pop(failure.name, None)
    where = failure.name if prompt is None else prompt.where
    message = str(failure.error) if where in str(failure.error) else f"{where}: {failure.error}"
    output.error(message)
    return {"prompt": where, "kind": type(failure.error).__name__, "message": message}
