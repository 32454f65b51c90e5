"""`mmi evaluate`: measures a model on held-out samples, against chance, against itself without the picture, and against other models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mm_interleaved.cli.console import JsonOption, Output
from mm_interleaved.cli.continuing import DeviceOption, load_quietly
from mm_interleaved.errors import ConfigError

QUICK = 20


def evaluate(
    action: Annotated[list[str] | None, typer.Argument(help="Nothing, or: compare A B, two folders of results.")] = None,
    suite: Annotated[
        str, typer.Option(help="playground: what the model was trained on; demonstrations: all of the mission; or a benchmark's name.")
    ] = "playground",
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; by default the model in the box.")] = None,
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("out/evaluation"),
    n: Annotated[int, typer.Option("--n", min=1, help="Samples per task.")] = 200,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} samples per task.")] = False,
    tasks: Annotated[str, typer.Option(help="Some of the suite's tasks, separated by commas.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of samples, noise and intervals.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps of a picture; published has its own.")] = 12,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.")] = 2.0,
    split: Annotated[str, typer.Option(help="test: combinations that training never shows; or train.")] = "test",
    languages: Annotated[str, typer.Option(help="en,zh: the same samples in both, compared; not of benchmarks.")] = "",
    ablation: Annotated[bool, typer.Option("--ablation/--no-ablation", help="Also without the synchronizers.")] = True,
    device: DeviceOption = "cpu",
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the samples, one thread each.")] = 1,
    annotations: Annotated[Path | None, typer.Option(help="Benchmarks: the official annotation file.")] = None,
    other: Annotated[Path | None, typer.Option(help="Benchmarks: the second official file, where there is one.")] = None,
    images: Annotated[Path | None, typer.Option(help="Benchmarks: folder of the pictures.")] = None,
    extractor: Annotated[Path | None, typer.Option(help="Benchmarks that paint: TorchScript file of the network for FID.")] = None,
    clip: Annotated[Path | None, typer.Option(help="Benchmarks that paint: folder of a CLIP, as transformers saves it.")] = None,
    segmenter: Annotated[Path | None, typer.Option(help="ade20k: folder of a segmenter of its 150 classes.")] = None,
    protocol: Annotated[str, typer.Option(help="Benchmarks: ours, or published (as the release asked, read and painted).")] = "ours",
    part: Annotated[str, typer.Option(help="I/N: make only part I (from 0) of N, and score nothing; for several machines.")] = "0/1",
    as_json: JsonOption = False,
) -> None:
    """Measure a model. Samples finished in the output folder are not made again; Ctrl-C loses none of them."""
    import torch

    from mm_interleaved.checkpoint.clip import Clip
    from mm_interleaved.evaluation import compare, playground
    from mm_interleaved.evaluation import languages as both_languages
    from mm_interleaved.evaluation.benchmark import PROTOCOLS, evaluate_benchmark
    from mm_interleaved.evaluation.extractors import INCEPTION, Extractor
    from mm_interleaved.evaluation.painting import Instruments
    from mm_interleaved.evaluation.segmenter import Segmenter
    from mm_interleaved.evaluation.store import WHOLE
    from mm_interleaved.evaluation.tasks import TASKS
    from mm_interleaved.evaluation.tasks.files import Files
    from mm_interleaved.generation.load import BOX

    output = Output(as_json=as_json)
    if action:
        if len(action) != 3 or action[0] != "compare":
            raise ConfigError(f"evaluate {' '.join(action)}: expected nothing, or compare and two folders of results.")
        compared = compare.compare(Path(action[1]), Path(action[2]), seed=seed)
        for line in compare.table(compared):
            output.say(line)
        return output.result({"compared": compared})
    if suite not in (*playground.SUITES, *TASKS):
        raise ConfigError(f"--suite: no suite is called {suite!r}; there are {', '.join((*playground.SUITES, *TASKS))}.")
    if protocol not in PROTOCOLS:
        raise ConfigError(f"--protocol: expected {' or '.join(PROTOCOLS)}, got {protocol!r}.")
    if languages:
        both_languages.check(languages, suite, playground.SUITES)
    share = _part(part)
    if processes > 1 and share == WHOLE:
        _make_apart(processes, output)
    torch.set_num_threads(1)  # sums in another order would change results with the number of threads
    loaded = load_quietly(model, device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.progress, transient=True) as progress:
        bar = progress.add_task("measuring", total=None)

        def told(task: str, finished: int, total: int) -> None:
            progress.update(bar, description=task, completed=finished, total=total)

        options: dict[str, Any] = {"seed": seed, "steps": steps, "guidance": guidance, "part": share, "told": told}
        if suite in TASKS:
            if annotations is None:
                raise ConfigError(f"--annotations: {suite} reads official files; give {TASKS[suite].about}.")
            instruments = Instruments(
                extractor=None if extractor is None else Extractor(extractor, width=INCEPTION),
                clip=None if clip is None else Clip(clip),
                segmenter=None if segmenter is None else Segmenter(segmenter),
            )
            options |= {"protocol": protocol, "instruments": instruments}
            files = Files(annotations=annotations, images=images, other=other)
            report = evaluate_benchmark(loaded, TASKS[suite], files, out, count=QUICK if quick else None, **options)
        else:
            folder = BOX if model is None else model
            known = tuple(playground.ROWS) if suite == "demonstrations" else playground.tasks_of(folder)
            chosen = tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip())) or known
            options |= {"tasks": chosen, "ablate": ablation, "count": QUICK if quick else n}
            measure = both_languages.evaluate_languages if languages else playground.evaluate
            report = measure(loaded, playground.world_of(folder, split), out, **options)
    if share != WHOLE:
        return output.say(f"part {part} is made; the same command without --part scores when all parts are there")
    for line in both_languages.table(report[both_languages.NAME]) if languages else _table(report):
        output.say(line)
    for name, option in report.get("unmeasured", {}).items():
        output.say(f"not measured: {name}, which needs {option}")
    written = both_languages.FILES if languages else (playground.RESULTS, playground.TABLE, playground.PROTOCOL, playground.REPORT)
    output.say(f"written: {', '.join(str(out / name) for name in written)}")
    output.result({**report, "files": [str(out / name) for name in written]})


def _part(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise ConfigError(f"--part: expected I/N with I from 0 to N - 1, got {text!r}.")
    return int(first), int(second)


def _make_apart(processes: int, output: Output) -> None:
    """Runs this command once for every part; what a failed one left undone is made afterwards by the command itself."""
    command = [sys.executable, "-m", "mm_interleaved.cli.main", *sys.argv[1:]]
    running = [subprocess.Popen([*command, "--part", f"{place}/{processes}"], stdout=subprocess.DEVNULL) for place in range(processes)]
    for place, process in enumerate(running):
        if process.wait():
            output.progress.print(f"part {place}/{processes} ended with status {process.returncode}; its samples are made here")


def _table(report: dict[str, Any]) -> list[str]:
    from mm_interleaved.evaluation.results import shown

    lines = [
        f"{'task':13} {'metric':22} {'score':>6} {'95 %':>13} {'chance':>7} {'blind':>6} {'copy':>6} {'judge':>6} {'closed':>6} {'n':>5}"
    ]
    for row in report["results"]:
        score, low, high, chance, *others = (
            shown(row["metric"], row[name]) for name in ("score", "low", "high", "chance", "blind", "copy", "ceiling", "ablation")
        )
        mark = " *" if row["metric"] == report["tasks"][row["task"]]["main"] else ""
        baselines = " ".join(f"{other:>6}" for other in others)
        between = "–" if row["low"] is None else f"{low}-{high}"
        figures = f"{score:>6} {between:>13} {chance:>7} {baselines} {row['n']:>5}{mark}"
        lines.append(f"{row['task']:13} {row['metric']:22} {figures}")
    legend = "percent, distances and ranks as they are; blind: grey or another prompt; judge: the true words and pictures"
    return [*lines, f"{legend}; closed: without synchronizers; *: main figure"]
