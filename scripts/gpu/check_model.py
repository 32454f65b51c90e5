"""The model in the box on a CUDA device: first whether it is right, then how fast it is. `python scripts/gpu/check_model.py`

Right: loss, gradients, logits, words and a picture against the same model on the CPU, in float32 without TF32; then the loss in bf16. Fast:
words, pictures and training steps, the latter with each path of deformable attention, with the memory that they need and the share of the
step in which the device computes. `--device cpu` compares the CPU with itself and runs everything at a fraction of the length.

One JSON object per line; status 1 if a comparison fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from batch import finished
from cases import Cases, profiled, seconds

from mm_interleaved.document import Document, Image, Text
from mm_interleaved.generation.golden import drift
from mm_interleaved.generation.load import BOX, Model, load
from mm_interleaved.generation.rows import TextRows
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.model import mmfs, vit_adapter
from mm_interleaved.ops.deformable import deformable_attention, reasons
from mm_interleaved.training.assembly import make_corpus, picture_side
from mm_interleaved.training.device import Precision, choose_attention
from mm_interleaved.training.optim import freeze
from mm_interleaved.training.parts import DocumentBatch, Documents
from mm_interleaved.training.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "playground-nano-more.yaml"

LOSS, GRADIENT, WORST_GRADIENT, LOGITS, BF16_LOSS = 1e-4, 2e-3, 5e-2, 1e-3, 0.02
"""Largest differences, as shares: of the loss, of all gradients' norm, of one gradient's norm, of the largest logit; float32 sums in
another order. A point on a cell's border may fall to its other side, hence the room for one gradient."""
PICTURE_PSNR = 45.0

TOLD = Document(["tell a story: a flat dog looks for an apple."])
DRAWN = Document(["draw a 3D cat on a white ground."])


class Checks:
    """The cases, in order; later ones need what earlier ones made."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cuda = device.startswith("cuda")
        self.here: Any = None
        self.there: Any = None
        self.corpus: Any = None
        self.few: Any = None
        self.batches: dict[int, DocumentBatch] = {}
        self.loss = float("nan")
        self.words, self.tokens, self.steps, self.sizes = (48, 64, 20, (32, 256)) if self.cuda else (6, 4, 2, (2, 4))

    # Right.

    def load(self) -> dict[str, Any]:
        self.here, self.there = load(), load(device=self.device)
        torch.manual_seed(0)
        recipe = read_recipe(RECIPE)
        self.corpus = make_corpus(recipe, side=picture_side(self.here.network.config))
        name = torch.cuda.get_device_name() if self.cuda else "cpu"
        parameters = sum(parameter.numel() for parameter in self.here.network.parameters())
        elsewhere = sorted({str(part.device) for part in (*self.there.network.parameters(), *self.there.network.buffers())})
        path = next(path for path, reason in reasons(torch.zeros(1, 1, 1, 32, device=self.device)).items() if reason is None)
        row = {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads(), "parameters": parameters}
        return row | {"lies_on": elsewhere, "deformable_attention": path, "passed": len(elsewhere) == 1}

    def gradients(self) -> dict[str, Any]:
        painted = [index for index in range(100) if self.corpus.is_painted(index)][:3]
        few = sorted([*painted, *(index for index in range(100) if not self.corpus.is_painted(index))][:6])
        self.few = self.objective(self.here).prepare(self.corpus, few)
        found = {name: self.backward(model) for name, model in {"here": self.here, "there": self.there}.items()}
        (self.loss, here), (loss, there) = found["here"], found["there"]
        apart = {name: float((there[name] - here[name]).norm() / here[name].norm().clamp(min=1e-12)) for name in here}
        together = float(torch.stack([(there[name] - here[name]).norm() for name in here]).norm())
        whole = float(torch.stack([gradient.norm() for gradient in here.values()]).norm())
        # Gradients that are nothing but rounding are not compared by themselves.
        counted = {name: away for name, away in apart.items() if float(here[name].norm()) > 1e-4 * whole}
        worst = max(counted, key=counted.__getitem__)
        row = {"samples": len(few), "painted": self.few.batch.target_pixels.shape[0], "loss": self.loss, "other_loss": loss}
        row |= {"loss_away": abs(loss / self.loss - 1), "gradients_away": together / whole, "tensors": len(counted)}
        row |= {"worst_away": counted[worst], "worst": worst, "same_tensors": here.keys() == there.keys()}
        right = row["loss_away"] <= LOSS and row["gradients_away"] <= GRADIENT and row["worst_away"] <= WORST_GRADIENT
        return row | {"passed": right and here.keys() == there.keys()}

    def logits(self) -> dict[str, Any]:
        picture = Document([self.picture(), "what is this? "])
        rows: list[list[Tensor]] = []
        for model in (self.here, self.there):
            state = DocumentState(model.network)
            state.read(model.processor.open_layout(picture))
            found = [state.next_logits().float().cpu()]
            for token in (300, 301, 302):
                state.append_token(token)
                found.append(state.next_logits().float().cpu())
            rows.append(found)
        here, there = (torch.stack(found) for found in rows)
        away = float((there - here).abs().max() / here.abs().max())
        return {"away": away, "passed": away <= LOGITS}

    def greedy(self) -> dict[str, Any]:
        documents = [TOLD, Document([self.picture(), "what is this? "])]
        options = {"max_images": 0, "max_tokens": self.words}
        here, there = (
            [written(model.continue_document(document, **options)) for document in documents] for model in (self.here, self.there)
        )
        return {"words": there, "passed": here == there}

    def one_picture(self) -> dict[str, Any]:
        options = {"force_image": True, "max_images": 1, "max_tokens": 1, "seed": 7, "steps": min(8, self.steps)}
        here, there = (drawn(model.continue_document(DRAWN, **options)) for model in (self.here, self.there))
        error = float(np.square(here[0].astype(float) - there[0].astype(float)).mean())
        psnr = float(10 * np.log10(255**2 / error)) if error else 100.0
        return {"psnr": psnr, "largest": int(np.abs(here[0].astype(int) - there[0].astype(int)).max()), "passed": psnr >= PICTURE_PSNR}

    def golden(self) -> dict[str, Any]:
        found = drift(self.there, BOX)
        return {"drift": found, "passed": not found}

    def recorded(self) -> dict[str, Any]:
        """Documents that come and go, decoded through recorded passes and without them."""
        styles = ("flat", "3D", "cartoon", "ink", "sticker")
        documents = [Document([f"tell a story: a {style} dog looks for an apple."]) for style in styles]
        options = {"max_images": 0, "max_tokens": self.words}
        plain, kept = (
            [written(document) for document in scheduled(self.there, documents, places=3, recorded=recorded, **options)]
            for recorded in (False, True)
        )
        return {"documents": len(documents), "places": 3, "alike": sum(map(str.__eq__, plain, kept)), "passed": plain == kept}

    def bf16_loss(self) -> dict[str, Any]:
        loss, _ = self.backward(self.there, torch.bfloat16)
        return {
            "loss": loss,
            "float32_loss": self.loss,
            "away": abs(loss / self.loss - 1),
            "passed": abs(loss / self.loss - 1) <= BF16_LOSS,
        }

    # Fast.

    def in_bf16(self) -> dict[str, Any]:
        self.there = load(device=self.device, dtype=torch.bfloat16)
        return {"words": [written(self.there.continue_document(TOLD, max_images=0, max_tokens=self.words))]}

    def alone(self) -> dict[str, Any]:
        options = {"max_images": 0, "max_tokens": self.words}
        count = written_tokens(self.there.continue_document(TOLD, **options))
        taken = seconds(lambda: self.there.continue_document(TOLD, **options), self.device)
        return {"tokens": count, "seconds": taken, "tokens_per_second": count / taken}

    def together(self, recorded: bool = False) -> dict[str, Any]:
        documents = [Document([f"tell a story: a {style} dog looks for an apple."]) for style in ("flat", "3D") * 4]
        options = {"max_images": 0, "max_tokens": self.words}
        count = sum(written_tokens(document) for document in scheduled(self.there, documents, recorded=recorded, **options))
        taken = seconds(lambda: scheduled(self.there, documents, recorded=recorded, **options), self.device)
        return {"documents": len(documents), "tokens": count, "seconds": taken, "tokens_per_second": count / taken}

    def rows(self, **form: bool) -> dict[str, Any]:
        model = self.there
        states = [DocumentState(model.network) for _ in range(8)]
        for state in states:
            state.read(model.processor.open_layout(TOLD))
        table = TextRows(model.network, 8, **form)
        table.gather(states)

        def write() -> None:
            for _ in range(self.tokens):
                table.read(states, [300] * 8)
                torch.stack([state.next_logits().argmax() for state in states]).tolist()

        write()
        taken = seconds(write, self.device, rounds=2)
        return {"rows": 8, "seconds_per_pass": taken / self.tokens, "tokens_per_second": 8 * self.tokens / taken}

    def pictures(self, together: int) -> dict[str, Any]:
        options = {"force_image": True, "max_images": 1, "max_tokens": 1, "steps": self.steps}
        taken = seconds(lambda: scheduled(self.there, [DRAWN] * together, **options), self.device, rounds=2)
        return {"together": together, "steps": self.steps, "seconds": taken, "pictures_per_second": together / taken}

    def prepare(self) -> dict[str, Any]:
        self.there = load(device=self.device)
        freeze(self.there.network, read_recipe(RECIPE).trainable)
        objective, taken = self.objective(self.there), {}
        for size in self.sizes:
            found: list[DocumentBatch] = []
            taken[f"seconds_for_{size}"] = seconds(
                lambda size=size, found=found: found.append(objective.prepare(self.corpus, range(size))), "cpu", rounds=1
            )
            self.batches[size] = found[0]
        images = {f"pictures_of_{size}": batch.batch.pixels.shape[0] for size, batch in self.batches.items()}
        return taken | images

    def training(self, size: int, path: str = "auto") -> dict[str, Any]:
        """Steps as the loop does them, data prepared before."""
        with sampled_by(path):
            step = self.step(size)
            step()
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            taken = seconds(step, self.device, rounds=4 if self.cuda else 1)
        row = {"batch": size, "path": path, "seconds_per_step": taken, "samples_per_second": size / taken}
        return row | ({"peak_bytes": float(torch.cuda.max_memory_allocated())} if self.cuda else {})

    def busy(self, size: int) -> dict[str, Any]:
        """How much of a step the device computes, and what takes longest."""
        step = self.step(size)
        step()
        taken = seconds(step, self.device, rounds=2)
        found = profiled(step, self.device)
        return {"batch": size, "seconds_per_step": taken, "busy": found["computing_seconds"] / taken, **found}

    # What the cases share.

    def objective(self, model: Model, dtype: torch.dtype | None = None) -> Documents:
        precision: Precision = "bf16" if dtype == torch.bfloat16 else "float32"
        choose_attention(model.network, next(model.network.parameters()).device, precision)
        return Documents(model.network.train(), model.processor)

    def backward(self, model: Model, dtype: torch.dtype | None = None) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradients, on the CPU; the model is left as it was for generation."""
        device = next(model.network.parameters()).device
        objective = self.objective(model, dtype)
        objective.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            total = objective(self.few.to(device)).total
        total.backward()
        found = {name: part.grad.float().cpu() for name, part in model.network.named_parameters() if part.grad is not None}
        objective.zero_grad()
        model.network.eval()
        model.network.image_decoder.choose_attention(device.type, backward=False)
        return float(total.detach()), found

    def step(self, size: int) -> Callable[[], None]:
        dtype = torch.bfloat16 if self.cuda else None
        objective, prepared = self.objective(self.there, dtype), self.batches[size]
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        device = torch.device(self.device)

        def run() -> None:
            with torch.autocast(device.type, dtype=dtype, enabled=self.cuda):
                total = objective(prepared.to(device)).total
            total.backward()
            norm = clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            torch.stack([total.detach(), norm]).tolist()  # what the loop writes down

        return run

    def picture(self) -> Image:
        sample = next(
            sample for sample in map(self.corpus.sample, range(100)) if any(not isinstance(part, str) for part in sample.segments)
        )
        return Image.from_array(next(part for part in sample.segments if isinstance(part, np.ndarray)))


@contextmanager
def sampled_by(path: str) -> Iterator[None]:
    """Inside, all deformable attention of the model runs by one path."""

    def chosen(*inputs: Any, backend: str = "auto") -> Tensor:
        return deformable_attention(*inputs, backend=path)

    if path == "auto":
        yield
        return
    with mock.patch.object(mmfs, "deformable_attention", chosen), mock.patch.object(vit_adapter, "deformable_attention", chosen):
        yield


def scheduled(
    model: Model, documents: Sequence[Document], *, places: int | None = None, recorded: bool = False, **options: Any
) -> list[Document]:
    """Continues documents together."""
    scheduler = model.scheduler(places=places or len(documents), painted_together=len(documents), recorded=recorded)
    for number, document in enumerate(documents):
        scheduler.add(number, document, **{**options, "seed": number})
    return finished(scheduler, len(documents))


def written(document: Document) -> str:
    return "".join(segment.text for segment in document if isinstance(segment, Text) and segment.origin == "generated")


def written_tokens(document: Document) -> int:
    return sum(len(segment.token_ids or ()) for segment in document if isinstance(segment, Text) and segment.origin == "generated")


def drawn(document: Document) -> list[np.ndarray]:
    return [segment.array() for segment in document if isinstance(segment, Image) and segment.origin == "generated"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--at-most", type=float, default=70.0, help="seconds after which no case is begun")
    chosen = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cases, checks = Cases(chosen.at_most), Checks(chosen.device)
    small, large = checks.sizes
    paths = ("triton", "reference") if checks.cuda else ("compiled", "gather", "reference")
    cases.run("load", checks.load)
    for name in ("gradients", "logits", "greedy", "one_picture", "golden", "bf16_loss"):
        cases.run(name, getattr(checks, name))
    if checks.cuda:
        cases.run("recorded", checks.recorded)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    cases.run("prepare", checks.prepare)
    for path in ("auto", *paths):
        cases.run("training", lambda path=path: checks.training(small, path))
    for path in ("auto", "reference"):
        cases.run("training", lambda path=path: checks.training(large, path))
    if checks.cuda:
        cases.run("busy", lambda: checks.busy(small))
        cases.run("busy", lambda: checks.busy(large))
    cases.run("in_bf16", checks.in_bf16)
    cases.run("words_alone", checks.alone)
    cases.run("words_together", checks.together)
    cases.run("words_rows", checks.rows)
    if checks.cuda:
        cases.run("words_together_recorded", lambda: checks.together(recorded=True))
        cases.run("words_recorded_rows", lambda: checks.rows(recorded=True))
    for together in (1, 8):
        cases.run("pictures", lambda together=together: checks.pictures(together))
    cases.end()


if __name__ == "__main__":
    main()
