"""A figure that no model has seen: twenty documents that show it, and how well a model draws and names it on grounds it was not shown on.

    python scripts/new_figure.py make mine                              # 20 Markdown files with their pictures
    python scripts/new_figure.py measure --model FOLDER [--model FOLDER] -o out/zora.html

The figure is a drawing of the pack that no recipe of nano shows. A picture counts when the judge takes it for this very drawing, among all
drawings that nano knows in all styles (605), and it lies nearer to it than the one of those that is most like it: something is nearest to
what a model makes of an unknown word, too. A caption counts when its words are exactly right.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from mm_interleaved.data.playground.judge import TemplateJudge
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import GROUNDS, Item, Scene, compose
from mm_interleaved.document import Document, Image, Text
from mm_interleaved.generation.events import ImageDone, TextDelta
from mm_interleaved.generation.load import BOX, Model, load

NAME, THING, STYLE = "Zora", "donkey", "cartoon"
KNOWN = 120
"""Things that nano knows: the judge may take the figure for any of them."""
SIDE = 224
SHOWN_GROUNDS, HELD_OUT_GROUNDS = ("white", "blue", "yellow", "red", "pink"), ("green", "gray", "purple")
SHOWN_WORDS, HELD_OUT_WORDS = ("draw", "please draw", "show me"), "paint"
CAPTION, ANSWER = "caption:", " {name} on a {ground} ground."
STEPS, GUIDANCE = 20, 2.0


def figure(pack: Pack) -> tuple[int, int]:
    """Thing and style as indices in the pack."""
    things, styles = [thing.id for thing in pack.things], [style.id for style in pack.styles]
    return things.index(THING), styles.index(STYLE)


def picture(pack: Pack, ground: str, random: np.random.Generator) -> np.ndarray:
    """The figure on a ground, a little shifted and scaled."""
    thing, style = figure(pack)
    x, y = 0.5 + random.uniform(-0.025, 0.025, 2)
    item = Item(thing=thing, style=style, centre_x=x, centre_y=y, size=0.8 * random.uniform(0.94, 1.06))
    number = [entry.word_en for entry in GROUNDS].index(ground)
    return compose(Scene(ground=number, items=(item,)), pack, SIDE)


def make(folder: Path) -> int:
    """Writes the documents as a person would; returns how many."""
    pack, random = Pack.load(), np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    documents = [(f"{words} {NAME} on a {ground} ground.", ground) for ground in SHOWN_GROUNDS for words in SHOWN_WORDS]
    documents += [("", ground) for ground in SHOWN_GROUNDS]
    for number, (prompt, ground) in enumerate(documents, start=1):
        name = f"zora-{number:02d}.png"
        (folder / name).write_bytes(Image.from_array(picture(pack, ground, random)).data)
        drawn = f"![]({name})"
        given, trained = (prompt, drawn) if prompt else (f"{drawn}{CAPTION}", ANSWER.format(name=NAME, ground=ground))
        (folder / f"{number:02d}.md").write_text(f"{given}\n<!-- answer -->\n{trained}\n", encoding="utf-8")
    return len(documents)


def drawings(model: Model, judge: TemplateJudge, seeds: int) -> list[tuple[str, Image | None, bool]]:
    """Prompt, picture and whether it is the figure, for every held-out ground, prompt words and seed."""
    wanted = figure(judge.pack)
    prompts = [f"{words} {NAME} on a {ground} ground." for ground in HELD_OUT_GROUNDS for words in (*SHOWN_WORDS, HELD_OUT_WORDS)]
    found = []
    for prompt in prompts:
        for seed in range(seeds):
            events = model.stream(Document([Text(prompt)]), max_images=1, max_tokens=8, steps=STEPS, guidance=GUIDANCE, seed=seed)
            made = next((event.image for event in events if isinstance(event, ImageDone)), None)
            found.append((prompt, made, made is not None and judge.is_drawing(made.array(), *wanted)))
    return found


def captions(model: Model, pack: Pack, each: int) -> list[tuple[str, str]]:
    """What the model says of new pictures on held-out grounds, beside what is right."""
    random = np.random.default_rng(1)
    found = []
    for ground in HELD_OUT_GROUNDS:
        for _ in range(each):
            document = Document([Image.from_array(picture(pack, ground, random)), Text(CAPTION)])
            told = ""
            for event in model.stream(document, max_images=0, max_tokens=32):
                told += event.text if isinstance(event, TextDelta) else ""
                if "." in told:
                    break
            found.append((told.split(".")[0] + ".", ANSWER.format(name=NAME, ground=ground)))
    return found


def measure(models: list[Path], page: Path, seeds: int) -> None:
    """Prints one JSON object per model and writes a page with what each of them draws."""
    pack = Pack.load()
    thing, _ = figure(pack)
    judge = TemplateJudge(pack, [*range(KNOWN), thing], range(len(pack.styles)))
    segments: list[Text | Image] = [Text(f"# {NAME}\n\n"), Image.from_array(picture(pack, "green", np.random.default_rng(0)))]
    for folder in models:
        model = load(folder)
        drawn, said = drawings(model, judge, seeds), captions(model, pack, seeds)
        right = sum(found for _, _, found in drawn)
        row = {"model": str(folder), "drawn": right / len(drawn), "drawings": len(drawn)}
        print(json.dumps(row | {"named": sum(told == true for told, true in said) / len(said), "captions": len(said), "says": said[0][0]}))
        segments.append(Text(f"\n\n## {folder}: {right} of {len(drawn)} are {NAME}\n\n"))
        for prompt, made, found in drawn[::seeds]:
            segments.append(Text(f"\n\n{prompt} {'right' if found else 'wrong'}\n\n"))
            segments += [] if made is None else [made]
    page.parent.mkdir(parents=True, exist_ok=True)
    Document(segments).save(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    maker = verbs.add_parser("make", help="write the documents")
    maker.add_argument("folder", type=Path)
    measurer = verbs.add_parser("measure", help="how often a model draws and names the figure")
    measurer.add_argument("--model", type=Path, action="append", help="folder of a model; by default the box")
    measurer.add_argument("-o", "--output", type=Path, default=Path("out/zora.html"))
    measurer.add_argument("--seeds", type=int, default=4, help="pictures of each of the twelve prompts")
    chosen = parser.parse_args()
    if chosen.verb == "make":
        print(f"{make(chosen.folder)} documents in {chosen.folder}")
    else:
        measure(chosen.model or [BOX], chosen.output, chosen.seeds)


if __name__ == "__main__":
    main()
