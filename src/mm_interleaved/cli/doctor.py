"""`mmi doctor`: what this machine can run, and how much memory a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mm_interleaved.cli.console import USER_ERROR, JsonOption, Output
from mm_interleaved.errors import ConfigError

if TYPE_CHECKING:
    from mm_interleaved.checkpoint.memory_plan import MemoryPlan
    from mm_interleaved.model.configuration import MMInterleavedConfig

RELEASED = "13b"
NANO = "nano"
NANO_CONFIG = Path("recipes/models/nano.yaml")


def doctor(
    model: Annotated[
        str | None, typer.Option(help=f"Folder of a checkpoint, '{NANO}' or '{RELEASED}': its memory is planned; by default the box.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Devices that FSDP shards over, in the memory plan.")] = 1,
    train: Annotated[Path | None, typer.Option(help="A recipe: the memory of its training is weighed, on its first batches.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of that recipe: training.batch_size=8.")
    ] = None,
    out: Annotated[Path, typer.Option("--output", "-o", help="Where results would be written; its disk is looked at.")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can run, and what is missing. Exit status 2 if something that is needed is missing."""
    from mm_interleaved.cli.machine import examine

    output = Output(as_json=as_json)
    if changes and train is None:
        raise ConfigError("--set changes the recipe of --train; name one.")
    named = model in (RELEASED, NANO) and not Path(str(model)).is_dir()
    findings = examine(None if model is None or named else Path(model), out)
    if named:
        # The question is what that model would need, not whether there is one in the box.
        findings = [finding for finding in findings if finding["name"] != "model in the box"]
    for finding in findings:
        advice = f" — {finding['advice']}" if finding["advice"] else ""
        output.say(f"{finding['status']:8}{finding['name']}: {finding['found']}{advice}")
    problems = [finding["name"] for finding in findings if finding["status"] == "problem"]
    result: dict[str, Any] = {"findings": findings, "problems": problems}
    if model is not None and (named or not any(name.startswith("model ") for name in problems)):
        from mm_interleaved.checkpoint.memory_plan import plan_memory

        plan = plan_memory(_config(model, named=named), devices=devices)
        for line in plan_table(plan):
            output.say(line)
        result["memory"] = plan_values(plan)
    if train is not None:
        result["training"] = _training(train, changes or [], devices, output)
    output.result(result)
    if problems:
        output.error(f"{len(problems)} problems: {', '.join(problems)}")
        raise typer.Exit(USER_ERROR)


def _training(path: Path, changes: list[str], processes: int, output: Output) -> dict[str, int]:
    from mm_interleaved.training.memory_plan import plan_training
    from mm_interleaved.training.recipe import read_recipe

    plan = plan_training(read_recipe(path, changes), processes=processes).as_json()
    sizes = ", ".join(
        f"{name} {_gib(plan[name])}" for name in ("weights", "gradients", "moments", "average", "activations", "batches", "process", "gaps")
    )
    trained = f"{plan['trained'] / 1e6:,.2f} M numbers trained"
    output.say(f"training {path} on each of {processes}: {_gib(plan['total'])} GiB ({sizes}); {trained}")
    return plan


def plan_table(plan: MemoryPlan) -> list[str]:
    """The plan as lines of a table, in GiB."""
    from mm_interleaved.checkpoint.memory_plan import FORMATS

    def line(name: str, millions: str, sizes: list[str]) -> str:
        return f"{name:<42}{millions:>12}" + "".join(f"{size:>10}" for size in sizes)

    lines = ["", line("memory of the weights in GiB", "M numbers", list(FORMATS))]
    for part in plan.parts:
        lines.append(line(part.name, f"{part.elements / 1e6:,.1f}", [_gib(part.bytes[form]) for form in FORMATS]))
    lines.append(line("all", f"{plan.elements / 1e6:,.1f}", [_gib(plan.total(form)) for form in FORMATS]))
    lines.append(line("on the device, CPU off-load", "", [_gib(plan.offloaded(form)) for form in FORMATS]))
    lines.append(line(f"on each of {plan.devices} devices, FSDP", "", [_gib(plan.sharded(form)) for form in FORMATS]))
    return [
        *lines,
        f"keys and values of one document of full length: {_gib(plan.key_value_bytes)} GiB; activations come on top",
        f"training with the published split ({plan.trained / 1e6:,.1f} M trained): {_gib(plan.training())} GiB on each of {plan.devices}",
        "int8 and int4 hold the language model's layers in few bits, everything else in bfloat16",
        "CPU off-load: the language model's attention and MLP weights wait on the CPU and are brought one by one",
    ]


def plan_values(plan: MemoryPlan) -> dict[str, Any]:
    """The plan for programs, in bytes."""
    from mm_interleaved.checkpoint.memory_plan import FORMATS

    return {
        "parts": [{"name": part.name, "elements": part.elements, "trained": part.trained, "bytes": part.bytes} for part in plan.parts],
        "elements": plan.elements,
        "trained": plan.trained,
        "devices": plan.devices,
        "bytes": {form: plan.total(form) for form in FORMATS},
        "device_bytes_offloaded": {form: plan.offloaded(form) for form in FORMATS},
        "device_bytes_sharded": {form: plan.sharded(form) for form in FORMATS},
        "device_bytes_training": plan.training(),
        "key_value_bytes": plan.key_value_bytes,
    }


def _config(model: str, *, named: bool) -> MMInterleavedConfig:
    from mm_interleaved.checkpoint.native import read_config
    from mm_interleaved.checkpoint.published import config_from_published
    from mm_interleaved.generation.load import BOX

    if not named:
        return read_config(Path(model))
    if model == RELEASED:
        return config_from_published({"model": {}})
    if (BOX / "config.json").is_file():
        return read_config(BOX)
    return _nano_config()


def _nano_config() -> MMInterleavedConfig:
    import yaml

    from mm_interleaved.model.configuration import MMInterleavedConfig

    for folder in (Path.cwd(), *Path(__file__).resolve().parents):
        if (folder / NANO_CONFIG).is_file():
            return MMInterleavedConfig(**yaml.safe_load((folder / NANO_CONFIG).read_text(encoding="utf-8")))
    raise ConfigError(f"'{NANO}': neither a model in the box nor {NANO_CONFIG} was found; name the folder of a checkpoint.")


def _gib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**30:,.2f}"
