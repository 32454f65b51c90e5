"""Makes docs/gallery.md and its pictures anew: every demonstration that a model was trained on, with and without MMFS.

    python scripts/make_gallery.py [--model FOLDER] [--docs docs] [--work out/gallery]

By default the model in the box. For each of its tasks the example prompts and the first held-out sample of seed 0 are continued with
seed 0, once each; nothing is picked or left out. What comes is what the commands on the page give.
"""

from __future__ import annotations

import argparse
import html
import io
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image as pillow

from mm_interleaved.cli.console import Output
from mm_interleaved.cli.continuing import Job, continue_one, load_quietly
from mm_interleaved.cli.prompts import EXAMPLES
from mm_interleaved.data.playground.material.lettering import faces
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.world import World
from mm_interleaved.document import Document, Image, Segment, Text
from mm_interleaved.evaluation.ablation import closed_synchronizers
from mm_interleaved.evaluation.playground import tasks_of, world_of
from mm_interleaved.export.lettering import lettered
from mm_interleaved.generation.load import BOX, Model
from mm_interleaved.generation.options import Options

MOST_BYTES = 2_000_000
"""Of all pictures together."""
SHOWN_WIDTH = 128
"""Pixels of a picture on the page; nano paints 64, the true ones are kept at this size."""
HERO = "story"
"""The demonstration whose pictures become the README's."""
PANEL, MARGIN, LETTERS = 224, 16, 17

DEMONSTRATIONS = {
    "caption": ("what a picture shows", ()),
    "question": ("a question about a picture", ("what-is-it",)),
    "picture": ("a picture from words", ("draw-a-picture", "huatu")),
    "style": ("the style of a picture above", ("same-style",)),
    "story": ("a story", ("story",)),
    "arithmetic": ("arithmetic with fruit", ("fruit-arithmetic", "shuiguo")),
    "logo": ("whose logo", ("whose-logo", "biaozhi")),
    "handwriting": ("the word in the red circle", ("red-circle", "hongquan")),
    "robot": ("what the robot does", ("robot", "jiqiren")),
    "screens": ("the next tap", ("grayscale", "huidu")),
    "referring": ("the hidden plane", ("hidden-plane", "zhao-feiji")),
    "blocks": ("building a fence", ("build-a-fence", "build-a-fence-zh")),
    "silhouette": ("a silhouette", ("grand-piano", "grand-piano-zh")),
    "style_named": ("the style of the picture above, in words", ("elephant", "elephant-zh")),
    "two_roles": ("two pictures, two roles", ("cat-like-dog", "cat-like-dog-zh")),
    "surroundings": ("something new in a given place", ("wooden-house", "wooden-house-zh")),
    "joined_scene": ("several pictures in one", ("two-in-one", "two-in-one-zh")),
    "context_style": ("a style that only the context has", ("waves", "waves-zh")),
    "layout_map": ("a picture with the layout of a map", ("layout", "layout-zh")),
    "tale": ("a fairy tale, a journal", ("rose-tale", "rose-tale-zh", "journal", "journal-zh")),
    "process": ("how to make apple juice", ("apple-juice", "apple-juice-zh")),
    "episode": ("a cartoon", ("cartoon", "cartoon-zh")),
    "own_hero": ("your own picture as hero", ("own-hero", "own-hero-zh")),
    "conversation": ("a conversation", ("conversation", "conversation-zh")),
}
"""Task -> what it is, its example prompts."""


@dataclass(frozen=True)
class Shown:
    """One demonstration: a prompt file, and what is true where the playground knows it."""

    name: str
    file: Path
    truth: tuple[Segment, ...] = ()


def main() -> None:
    """Parses, continues, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None, help="folder of a checkpoint")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--work", type=Path, default=Path("out/gallery"), help="where the commands of the page write")
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    pictures = chosen.docs / "gallery"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    model = load_quietly(chosen.model)
    with closed_synchronizers(model.network):
        silent_folder = model.save(_emptied(chosen.work / "without-mmfs"))
    without = load_quietly(silent_folder)
    world = World(Pack.load(), world_of(chosen.model or BOX, "test"))
    named = "" if chosen.model is None else f" --model {chosen.model}"
    parts = []
    for task in tasks_of(chosen.model or BOX):
        title, examples = DEMONSTRATIONS[task]
        parts.append(f"## {title.capitalize()}\n")
        for one in (*(Shown(name, EXAMPLES / f"{name}.md") for name in examples), _held_out(task, world, pictures)):
            commands = [f"mmi generate {_shown_path(one.file)} -o {chosen.work}/with{named}"]
            commands += [f"mmi generate {_shown_path(one.file)} -o {chosen.work}/without --model {silent_folder}"]
            made = [_continued(tested, one, chosen.work / kind) for tested, kind in ((model, "with"), (without, "without"))]
            prompt = Document.load(one.file)
            columns = {"given": prompt.segments}
            columns |= {kind: _new(prompt, document) for kind, document in zip(("with MMFS", "without MMFS"), made, strict=True)}
            if one.truth:
                columns["true"] = one.truth
            heading = f"### {one.name.removesuffix('-' + task)} sample\n" if one.truth else f"### `{one.name}.md`\n"
            parts.append("\n".join([heading, _table(columns, one.name, pictures), "", "```bash", *commands, "```", ""]))
            if one.name == HERO:
                _sheet(made[0]).save(pictures / f"{HERO}.png", optimize=True)
    text = _top(model, chosen.model) + "\n" + "\n".join(parts)
    (chosen.docs / "gallery.md").write_text(text, encoding="utf-8")
    size = sum(path.stat().st_size for path in pictures.rglob("*.png"))
    if size > MOST_BYTES:
        raise SystemExit(f"the pictures have {size:,} bytes, at most {MOST_BYTES:,} are wanted; show fewer or smaller ones.")
    print(f"{chosen.docs / 'gallery.md'}: {len(list(pictures.rglob('*.png')))} pictures, {size:,} bytes")


def _held_out(task: str, world: World, folder: Path) -> Shown:
    """The first sample of seed 0 on the test side of the held-out line, its prompt as a file."""
    made = sample(task, world, 0, 0)
    segments = [Text(part) if isinstance(part, str) else Image.from_array(part, alt="given") for part in made.segments]
    name = f"held-out-{task}"
    file = Document(segments[: made.prompt]).save(folder / f"{name}.md")
    return Shown(name, file, tuple(segments[made.prompt :]))


def _continued(model: Model, one: Shown, folder: Path) -> Document:
    defaults = Options()
    options = {name: getattr(defaults, name) for name in ("seed", "max_images", "max_tokens", "steps", "guidance", "sampler")}
    job = Job(one.name, Document.load(one.file), folder, ("html", "json"), options)
    continue_one(model, job, Output(as_json=True))
    return Document.load(job.files["json"])


def _new(prompt: Document, made: Document) -> tuple[Segment, ...]:
    return made.segments[len(prompt) :]


def _table(columns: dict[str, Iterable[Segment]], name: str, folder: Path) -> str:
    head = "".join(f"<th>{column}</th>" for column in columns)
    cells = "".join(
        f'<td valign="top">{"<br>".join(_cells(segments, f"{name}-{column.split()[0]}", folder))}</td>'
        for column, segments in columns.items()
    )
    return f"<table><tr>{head}</tr><tr>{cells}</tr></table>"


def _cells(segments: Iterable[Segment], name: str, folder: Path) -> Iterator[str]:
    number = 0
    for segment in segments:
        if isinstance(segment, Text):
            if segment.text.strip():
                yield html.escape(segment.text.strip()).replace("\n", "<br>")
            continue
        number += 1
        file = folder / f"{name}-{number}.png"
        if max(segment.size) > SHOWN_WIDTH:
            small = pillow.fromarray(segment.array())
            small.thumbnail((SHOWN_WIDTH, SHOWN_WIDTH), pillow.Resampling.LANCZOS)
            file.write_bytes(_png(small))
        else:
            file.write_bytes(segment.data)
        yield f'<img src="gallery/{file.name}" width="{SHOWN_WIDTH}" alt="{html.escape(segment.alt or "picture", quote=True)}">'
    if not number and not any(isinstance(segment, Text) and segment.text.strip() for segment in segments):
        yield "<i>(nothing)</i>"


def _png(picture: pillow.Image) -> bytes:
    stream = io.BytesIO()
    picture.quantize(128).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _sheet(document: Document) -> pillow.Image:
    """A document as one strip: each picture with the words before it."""
    panels, words = list[tuple[str, Image]](), ""
    for segment in document:
        if isinstance(segment, Text):
            words += segment.text
        else:
            panels.append((words.strip(), segment))
            words = ""
    chinese = [face.at(LETTERS) for use in ("screen", "hand") for face in faces(use, "zh")]
    texts = [lettered(told, PANEL, size=LETTERS, fonts=chinese) for told, _ in panels]
    high = max(text.height for text in texts)
    sheet = pillow.new("RGB", (len(panels) * (PANEL + MARGIN) + MARGIN, high + PANEL + 3 * MARGIN), "white")
    for place, (text, (_, image)) in enumerate(zip(texts, panels, strict=True)):
        left = MARGIN + place * (PANEL + MARGIN)
        sheet.paste(pillow.fromarray(image.array()).resize((PANEL, PANEL), pillow.Resampling.BICUBIC), (left, MARGIN))
        sheet.paste(text, (left, PANEL + 2 * MARGIN))
    return sheet


def _top(model: Model, folder: Path | None) -> str:
    named = "the model in the box" if folder is None else str(folder)
    again = "python scripts/make_gallery.py" + ("" if folder is None else f" --model {folder}")
    return f"""# Gallery

What {named} (hash `{model.model_hash[:12]}`) makes of every demonstration that it was trained on: first sample of seed 0,
not picked, failures included. `{again}` makes this page anew, and the model without MMFS, which has the
same weights with every synchronizer silenced (gates and output convolutions zero; it was not trained so).
A picture that no other stands before reads none, and words that no picture stands before read none: there both columns are equal.

*Held-out* samples are the first of the playground's test split: combinations of thing and style that training never showed. Their last
column is what the playground knows to be true.
"""


def _shown_path(file: Path) -> Path:
    return Path("src/mm_interleaved/examples") / file.name if file.parent == EXAMPLES else file


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
