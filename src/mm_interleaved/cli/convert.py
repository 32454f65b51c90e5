"""`mmi convert`: released checkpoints to ours and back, and new models from upstream parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mm_interleaved.cli.console import JsonOption, Output, guarded
from mm_interleaved.errors import ConfigError

if TYPE_CHECKING:
    from mm_interleaved.checkpoint.convert import Conversion
    from mm_interleaved.checkpoint.shards import ShardSet

DTYPES = ("float32", "bfloat16", "float16")

app = typer.Typer(help="Convert checkpoints, or join upstream parts to a new model.", no_args_is_help=True, rich_markup_mode=None)

Source = Annotated[Path, typer.Argument(help="Folder of the checkpoint.")]
Target = Annotated[Path, typer.Argument(help="New folder; it appears when it is complete.")]


@app.command("published")
@guarded
def published(
    folders: Annotated[
        list[Path], typer.Argument(metavar="[SOURCE] TARGET", help="Folder of the checkpoint, unless --from is given, and the new folder.")
    ],
    hub: Annotated[
        str | None, typer.Option("--from", metavar="HUB-ID", help="Fetch it: OWNER/NAME or OWNER/NAME/FOLDER, one file at a time.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of --from; the main branch by default.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer it was trained with (Vicuna 13B v1.3).")] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON with the released constructor arguments, if not the released 13B model.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert the released checkpoint; an interrupted run goes on. Without --tokenizer there is no processor: the release has none."""
    from mm_interleaved.checkpoint.convert import convert_published

    output = Output(as_json=as_json)
    if len(folders) != (1 if hub else 2):
        wanted = (
            "the new folder alone, since --from says where the checkpoint is" if hub else "two folders, SOURCE TARGET, or --from HUB-ID"
        )
        raise ConfigError(f"convert published: expected {wanted}; got {len(folders)} folders.")
    if revision is not None and hub is None:
        raise ConfigError("--revision: expected only beside --from HUB-ID.")
    target = folders[-1]
    arguments = None if config is None else read_object(config)
    source: Path | ShardSet = folders[0]
    if hub is not None:
        from mm_interleaved.checkpoint.hub import find_hub_shards

        source = find_hub_shards(hub, revision=revision)
        sizes = sum(source.size(name) for name in source.files)
        output.progress.print(f"{source.folder} at {source.commit[:12]}: {len(source.files)} files, {sizes / 1e9:.1f} GB")
    done = convert_published(source, target, config=arguments, tokenizer=tokenizer, progress=lambda name: _show(output, name))
    _tell(output, done)
    if tokenizer is None:
        output.say("no tokenizer was given, so the model cannot read text yet; convert again with --tokenizer FOLDER")


@app.command("back")
@guarded
def back(source: Source, target: Target, as_json: JsonOption = False) -> None:
    """Write a checkpoint of ours in the released form, bit for bit as it was released."""
    from mm_interleaved.checkpoint.convert import convert_back

    output = Output(as_json=as_json)
    _tell(output, convert_back(source, target, progress=lambda name: _show(output, name)))


@app.command("backbones")
@guarded
def backbones(
    llm: Annotated[Path, typer.Option(help="Folder of a Llama-family model with its tokenizer, or a GGUF file.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="New folder; it appears when it is complete.")],
    vision: Annotated[Path | None, typer.Option(help="Folder of CLIP or SigLIP, or of its vision half; left out: a new one.")] = None,
    diffusion: Annotated[Path | None, typer.Option(help="diffusers folder with unet, vae and scheduler; left out: a new one.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON with fields of the configuration that differ from the published sizes.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of what is new.")] = 0,
    dtype: Annotated[str, typer.Option(help=f"Number type of the saved weights: {', '.join(DTYPES)}.")] = DTYPES[0],
    as_json: JsonOption = False,
) -> None:
    """Join upstream parts to a model that is ready to train; its text is at first what the language model alone writes."""
    import torch

    from mm_interleaved.checkpoint.backbones import SPLIT_FILE, convert_backbones

    output = Output(as_json=as_json)
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype: expected one of {', '.join(DTYPES)}, got '{dtype}'.")
    changes = None if config is None else read_object(config)
    made = convert_backbones(out, vision=vision, llm=llm, diffusion=diffusion, changes=changes, seed=seed, dtype=getattr(torch, dtype))
    elements = sum(parameter.numel() for parameter in made.model.parameters())
    output.say(f"{out}: {elements / 1e6:.1f} M parameters; what the publication trains stands in {SPLIT_FILE}")
    output.result({"folder": str(out), "parameters": elements, "trainable": list(made.trained)})


def read_object(path: Path) -> dict[str, Any]:
    """Reads a mapping from YAML, of which JSON is a part.

    Raises:
        ConfigError: the file is missing, or holds something else.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML or JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected an object, got {type(values).__name__}.")
    return values


def _show(output: Output, name: str) -> None:
    output.progress.print(f"writing {name}")


def _tell(output: Output, done: Conversion) -> None:
    again = f", {len(done.kept)} of them from an interrupted run" if done.kept else ""
    output.say(f"{done.folder}: {done.tensors} tensors, {done.elements / 1e6:,.1f} M numbers in {len(done.files)} files{again}")
    output.result(
        {
            "folder": str(done.folder),
            "tensors": done.tensors,
            "elements": done.elements,
            "files": list(done.files),
            "kept": list(done.kept),
            "source_checked": done.source_checked,
        }
    )
