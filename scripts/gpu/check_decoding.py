"""Decoding at the published size on a CUDA device: right, and how near to its bandwidth. `python scripts/gpu/check_decoding.py`

The language model of the release (LLaMA 13B, MMFS in every fourth layer) with random weights in bfloat16 reads 256 tokens with two
pictures, whose feature maps are random, and writes on by each of our paths. A token cannot take less time than reading the weights once,
so beside the seconds of a token stands the share of what the device was measured to read (a large product of a matrix with a vector, or
sum) and to copy (reading and writing counted). Nothing is read from a disk.

`--grouped` asks instead whether compiling the layers by groups (`TextRows(grouped=True)`) leaves less beside the products.
`--dtype float32` holds the paths to each other where no bfloat16 hides a difference; the share of the bandwidth then says little.
`--size tiny --device cpu` runs the same code anywhere. One JSON object per line; status 1 if two paths disagree or a case fails.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cases import Cases, profiled, seconds, wait
from measuring import copy_bandwidth
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mm_interleaved.batch import IGNORED_TARGET
from mm_interleaved.checkpoint.published import config_from_published
from mm_interleaved.generation.rows import TextRows
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.language_model import fuse_norms
from mm_interleaved.model.visual_tokenizer import VisualFeatures
from mm_interleaved.ops.deformable import reasons
from mm_interleaved.processing.layout import Layout

SIZES: dict[str, dict[str, Any]] = {
    "13b": {"model": {}},
    "tiny": {
        "model": {
            "llm_model_path": {
                "hidden_size": 256,
                "intermediate_size": 512,
                "num_hidden_layers": 5,
                "num_attention_heads": 4,
                "max_position_embeddings": 2048,
                "rms_norm_eps": 1e-6,
            }
        }
    },
}
BAR = 0.7
"""Share of the read bandwidth that decoding is to reach."""
PREFIX = 256
PICTURES = 2
TOKENS = 16
"""Written in each timed round; all rounds fit into the places that the prefix leaves, so that shapes stay."""
TOLERANCE = {torch.bfloat16: 0.06, torch.float32: 1e-3}
"""Of the largest logit: in bfloat16 after 40 layers, where sums of attention stand in another order, or kernels of other sizes are
chosen. Measured on an H200: rows against the engine 0.033, recorded rows against rows 0.035."""
MOVED = 0.1
"""Least change of some logit from token to token, of the largest one, and by other pictures."""

Step = Callable[[int], Tensor]
"""Token → logits of the next one."""


class RandomMaps(nn.Module):
    """In the place of the visual tokenizer: the same random tokens for every picture, and maps that depend on `seed`."""

    def __init__(self, network: MMInterleavedForConditionalGeneration) -> None:
        super().__init__()
        self.sides = network.visual_tokenizer.map_sides
        self.width = network.config.vision_config.hidden_size
        self.tokens = network.config.image_tokens, network.config.text_config.hidden_size
        self.seed = 0

    def forward(self, pixels: Tensor) -> VisualFeatures:
        def draw(seed: int, *shape: int) -> Tensor:
            return torch.randn(pixels.shape[0], *shape, generator=torch.Generator().manual_seed(seed)).to(pixels)

        return VisualFeatures(0.02 * draw(1, *self.tokens), tuple(draw(2 + self.seed, self.width, side, side) for side in self.sides))


@torch.no_grad()
def build(size: str, device: str, dtype: torch.dtype) -> MMInterleavedForConditionalGeneration:
    """The model without visual tokenizer and image decoder, random, made on the device."""
    with torch.device("meta"):
        network = MMInterleavedForConditionalGeneration(config_from_published(SIZES[size]))
    language = network.language_model
    torch.manual_seed(0)
    for part in (language, network.text_head):
        part.to(dtype).to_empty(device=device)
        for name, parameter in part.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.02)
    for layer in language.mmfs_layers:
        language.layers[layer].synchronizer.gate.fill_(0.5)
        language.layers[layer].synchronizer.mmfs.offsets.bias.uniform_(-3, 3)
    language.norm.weight.fill_(1.0)
    language.rotary_emb = LlamaRotaryEmbedding(config=language.config).to(device)  # its frequencies are no weights, and stay float32
    network.begin_image_embedding = nn.Parameter(torch.zeros_like(network.begin_image_embedding, dtype=dtype, device=device))
    network.visual_tokenizer = RandomMaps(network)
    if device.startswith("cuda"):
        fuse_norms(language)  # both as `load` does
        torch.backends.cuda.enable_cudnn_sdp(False)
    return network.eval().requires_grad_(False)


def prefix(network: MMInterleavedForConditionalGeneration) -> DocumentState:
    """A document of so many tokens and pictures that was read."""
    config, side = network.config, network.config.image_side
    ids, begins = [config.bos_token_id], []
    for _ in range(PICTURES):
        begins.append(len(ids))
        ids += [config.begin_image_token_id] + [config.image_token_id] * config.image_tokens
    ids += [1000 + place for place in range(PREFIX - len(ids))]
    layout = Layout(
        token_ids=tuple(ids),
        targets=(IGNORED_TARGET,) * len(ids),
        image_begin=tuple(begins),
        images=(np.zeros((side, side, 3), dtype=np.uint8),) * PICTURES,
        image_trained=(False,) * PICTURES,
        segment_start=(*begins, begins[-1] + config.image_tokens + 1),
    )
    state = DocumentState(network)
    state.read(layout)
    return state


def engine(state: DocumentState) -> Step:
    """One document by itself."""

    def step(token: int) -> Tensor:
        state.append_token(token)
        return state.next_logits()

    return step


def rows(state: DocumentState, documents: int = 1, **form: bool) -> Step:
    """Some documents in rows; the first one's logits are given."""
    states = [state.branch() for _ in range(documents)]
    table = TextRows(state.model, documents, **form)
    table.gather(states)

    def step(token: int) -> Tensor:
        table.read(states, [token] * documents)
        return states[0].next_logits()

    return step


def weight_bytes(network: MMInterleavedForConditionalGeneration) -> float:
    """Bytes of weights that a token reads; the projections of pictures ran when they were read."""
    unread = ("value_projection", "feature_norm")
    layers = [part for name, part in network.language_model.layers.named_parameters() if not any(word in name for word in unread)]
    return float(sum(part.nbytes for part in (*layers, network.language_model.norm.weight, *network.text_head.parameters())))


def read_bandwidth(device: str, size: int) -> dict[str, float]:
    """Bytes per second of reading a large matrix once, by several kernels."""
    matrix = torch.empty(size // 2**14, 2**13, dtype=torch.bfloat16, device=device).normal_()
    row = torch.ones(1, 2**13, dtype=torch.bfloat16, device=device)
    kernels = {
        "matrix_vector": lambda: torch.mv(matrix, row[0]),
        "linear": lambda: functional.linear(row, matrix),
        "sum": lambda: matrix.view(torch.float32).sum(),
    }
    found = {}
    for name, kernel in kernels.items():
        kernel()
        found[name] = 8 * matrix.nbytes / seconds(lambda kernel=kernel: [kernel() for _ in range(8)], device, rounds=5)
    return found


class Checks:
    """The cases, in order; later ones need what earlier ones made."""

    def __init__(self, size: str, device: str, attention: str, dtype: torch.dtype) -> None:
        self.size, self.device, self.attention, self.dtype = size, device, attention, dtype
        self.network: Any = None
        self.state: Any = None
        self.read_bytes_per_second = float("nan")
        self.logits: dict[str, Tensor] = {}

    def machine(self) -> dict[str, Any]:
        found = read_bandwidth(self.device, 2**31 if self.device.startswith("cuda") else 2**26)
        self.read_bytes_per_second = max(found.values())
        name = torch.cuda.get_device_name() if self.device.startswith("cuda") else "cpu"
        row = {"device": name, "torch": torch.__version__, "copy_bytes_per_second": copy_bandwidth(self.device)}
        return row | {"read_bytes_per_second": self.read_bytes_per_second} | {f"read_by_{kernel}": rate for kernel, rate in found.items()}

    def build(self) -> dict[str, Any]:
        self.network = build(self.size, self.device, self.dtype)
        self.network.language_model.set_attn_implementation(self.attention)
        wait(self.device)
        parameters = sum(part.numel() for part in (*self.network.language_model.parameters(), *self.network.text_head.parameters()))
        return {"size": self.size, "parameters": parameters, "weight_bytes_per_token": weight_bytes(self.network)}

    def prefix(self) -> dict[str, Any]:
        self.state = prefix(self.network)
        logits = self.state.next_logits()
        (values, *_) = self.state.features.text_values()
        backend = next(name for name, reason in reasons(values.flatten(1, 2)).items() if reason is None)
        row = {"tokens": self.state.position, "pictures": self.state.images, "largest_logit": float(logits.abs().max())}
        return row | {"deformable_attention": backend, "passed": bool(logits.isfinite().all())}

    def speed(self, step: Step, documents: int = 1) -> dict[str, Any]:
        """Writes what the model finds likeliest, as generation does: one wait for the device per token."""
        token = 1000
        for _ in range(3):
            token = int(step(token).argmax())

        def write() -> None:
            next_token = token
            for _ in range(TOKENS):
                next_token = int(step(next_token).argmax())

        taken = seconds(write, self.device) / TOKENS
        read = weight_bytes(self.network)
        share = read / taken / self.read_bytes_per_second
        row = {"seconds_per_token": taken, "tokens_per_second": documents / taken, "weight_bytes": read, "read_fraction": share}
        return row | {"copy_fraction": read / taken / copy_bandwidth(self.device), "bar": BAR, "reached": share >= BAR}

    def profile(self, step: Step) -> dict[str, Any]:
        """What the device does during a few tokens."""
        for _ in range(3):
            step(1000)
        wait(self.device)
        found = profiled(lambda: [step(1000) for _ in range(4)], self.device)
        return {"tokens": 4, **found}

    def products(self, rows: int) -> dict[str, Any]:
        """Share of the read bandwidth at which the weights of all layers are multiplied with so many rows, kind after kind."""
        layers = self.network.language_model.layers
        kinds = {
            "attention": [layer.self_attn.q_proj.weight for layer in layers],
            "wide": [layer.mlp.gate_proj.weight for layer in layers],
            "narrow": [layer.mlp.down_proj.weight for layer in layers],
            "head": [self.network.text_head.head.weight],
        }
        found: dict[str, Any] = {"rows": rows}
        for kind, weights in kinds.items():
            state = torch.ones(rows, weights[0].shape[1], dtype=self.dtype, device=self.device)

            def multiply(state: Tensor = state, weights: list[Tensor] = weights) -> None:
                for weight in weights:
                    functional.linear(state, weight)

            multiply()
            read = float(sum(weight.nbytes for weight in weights))
            found[kind] = read / seconds(multiply, self.device, rounds=5) / self.read_bytes_per_second
        return found

    def spoken(self, name: str, step: Step) -> Tensor:
        """Logits after each of the same tokens."""
        self.logits[name] = torch.stack([step(1100 + 7 * place).float().clone() for place in range(TOKENS)])
        return self.logits[name]

    def agreement(self, name: str, other: str) -> dict[str, Any]:
        """Whether two paths gave the same logits token by token, and whether these move on from token to token."""
        one, two = self.logits[name], self.logits[other]
        largest = float(two.abs().max())
        away = float((one - two).abs().max()) / largest
        moved = float(one.diff(dim=0).abs().amax(dim=1).min()) / largest
        same_choice = float((one.argmax(dim=1) == two.argmax(dim=1)).float().mean())
        allowed = TOLERANCE[self.dtype]
        row = {"path": name, "against": other, "away": away, "tolerance": allowed, "moved": moved, "same_choice": same_choice}
        return row | {"passed": away <= allowed and moved > MOVED}  # NaN fails too

    def other_pictures(self) -> dict[str, Any]:
        """The same tokens after pictures with other maps: decoding reads them."""
        self.network.visual_tokenizer.seed = 100
        state = prefix(self.network)
        self.network.visual_tokenizer.seed = 0
        here, there = self.state.branch(), self.state.branch()
        there.features = state.features  # read with the first maps, written with the others
        one, two = engine(here)(1100), engine(there)(1100)
        away = float((one.float() - two.float()).abs().max() / one.float().abs().max())
        return {"away": away, "passed": away > MOVED}


def grouped(cases: Cases, checks: Checks, *, recorded: bool, tuned: bool) -> None:
    """Rows as they are and rows whose layers are compiled by groups; the engine is asked for logits only."""
    cases.run("engine_logits", lambda: {"largest": float(checks.spoken("engine", engine(checks.state.branch())).abs().max())})
    forms: dict[str, dict[str, bool]] = {"recorded_rows": {}, "grouped_rows": {"grouped": True}}
    forms |= {"tuned_rows": {"grouped": True, "tuned": True}} if tuned else {}
    made: dict[str, Step] = {}  # timed and profiled
    for name, form in forms.items():

        def measure(name: str = name, form: dict[str, bool] = form) -> dict[str, Any]:
            step = rows(checks.state, **form, recorded=recorded)
            began, before = time.perf_counter(), counters["stats"]["unique_graphs"]
            step(1100)
            wait(checks.device)
            made[name] = step
            first = {"first_token": time.perf_counter() - began, "programs": counters["stats"]["unique_graphs"] - before}
            return checks.speed(step) | first

        def logits(name: str = name, form: dict[str, bool] = form) -> dict[str, Any]:
            return {"largest": float(checks.spoken(name, rows(checks.state, **form, recorded=recorded)).abs().max())}

        cases.run(name, measure)
        cases.run(f"{name}_logits", logits)
        cases.run(f"{name}_equal_engine", lambda name=name: checks.agreement(name, "engine"))
        if name != "recorded_rows":
            cases.run(f"{name}_equal_rows", lambda name=name: checks.agreement(name, "recorded_rows"))
    for count in (1, 8):
        cases.run("products", lambda count=count: checks.products(count))
    for name in reversed(forms if recorded else {}):
        cases.run(f"{name}_profile", lambda name=name: checks.profile(made[name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="13b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="transformers' form of attention")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--at-most", type=float, help="seconds after which no case is begun; 75, or 300 with --compile")
    parser.add_argument("--compile", action="store_true", help="rows through torch.compile too, which takes minutes at 13b")
    parser.add_argument("--grouped", action="store_true", help="instead of all else, recorded rows as they are and compiled by groups")
    parser.add_argument(
        "--tuned", action="store_true", help="with --grouped, the products by torch.compile too, which takes minutes at 13b"
    )
    chosen = parser.parse_args()
    at_most = chosen.at_most or (300.0 if chosen.compile or chosen.tuned else 75.0)
    cases, checks = Cases(at_most), Checks(chosen.size, chosen.device, chosen.attention, getattr(torch, chosen.dtype))
    cases.run("machine", checks.machine)
    cases.run("build", checks.build)
    cases.run("prefix", checks.prefix)
    on_device = chosen.device.startswith("cuda")
    if chosen.grouped:
        grouped(cases, checks, recorded=on_device, tuned=chosen.tuned)
        cases.end()
    forms: dict[str, dict[str, bool]] = {"rows": {}}
    if on_device:
        forms["recorded_rows"] = {"recorded": True}
    cases.run("engine", lambda: checks.speed(engine(checks.state.branch())))
    for name, form in forms.items():
        cases.run(name, lambda form=form: checks.speed(rows(checks.state, **form)))
    cases.run("engine_logits", lambda: {"largest": float(checks.spoken("engine", engine(checks.state.branch())).abs().max())})
    for name, form in forms.items():
        cases.run(
            f"{name}_logits", lambda name=name, form=form: {"largest": float(checks.spoken(name, rows(checks.state, **form)).abs().max())}
        )
        cases.run(f"{name}_equal_engine", lambda name=name: checks.agreement(name, "engine"))
        if name != "rows":
            cases.run(f"{name}_equal_rows", lambda name=name: checks.agreement(name, "rows"))
    cases.run("other_pictures", checks.other_pictures)
    for count in (1, 8):
        cases.run("products", lambda count=count: checks.products(count))
    if on_device:
        cases.run("eight_recorded_rows", lambda: checks.speed(rows(checks.state, 8, recorded=True), documents=8))
        cases.run("profile", lambda: checks.profile(rows(checks.state, recorded=True)))
        cases.run("memory", lambda: {"peak_bytes": float(torch.cuda.max_memory_allocated())})
    if chosen.compile:
        form = {"compiled": True, "recorded": on_device}
        cases.run("compiled_rows", lambda: checks.speed(rows(checks.state, **form)))
        cases.run(
            "compiled_rows_logits", lambda: {"largest": float(checks.spoken("compiled_rows", rows(checks.state, **form)).abs().max())}
        )
        cases.run("compiled_rows_equal_rows", lambda: checks.agreement("compiled_rows", "rows"))
    cases.end()


if __name__ == "__main__":
    main()
