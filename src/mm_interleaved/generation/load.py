"""A model with its processor, ready to continue documents: what `mm_interleaved.load` gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from mm_interleaved.checkpoint.adapters import adapter_hash, load_adapter
from mm_interleaved.checkpoint.native import load_model, model_hash, read_config, save_model
from mm_interleaved.checkpoint.placement import WaitingPlace, offload_map
from mm_interleaved.checkpoint.quantized import FewBits, quantization
from mm_interleaved.document import Document
from mm_interleaved.errors import CheckpointError, ConfigError
from mm_interleaved.generation import engine
from mm_interleaved.generation.saving import load_continuation
from mm_interleaved.generation.scheduler import Scheduler
from mm_interleaved.generation.score import Score
from mm_interleaved.generation.score import score as score_continuations
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.model.language_model import fuse_norms
from mm_interleaved.ops.few_rows import for_few_rows
from mm_interleaved.processing.processor import MMInterleavedProcessor

BOX = Path(__file__).resolve().parent.parent / "box" / "nano"
"""The model in the box: it travels inside the package."""


class Model:
    """A loaded model: `stream`, `continue_document`, `score`, `save`."""

    def __init__(
        self,
        network: MMInterleavedForConditionalGeneration,
        processor: MMInterleavedProcessor,
        *,
        model_hash: str = "",
        form: str = "float32",
    ) -> None:
        """
        Args:
            network: in evaluation mode, on its device.
            processor: of the same checkpoint.
            model_hash: fingerprint of the weights, kept in every generated picture.
            form: how it computes, as far as results depend on it.
        """
        self.form = form
        self.network = network
        self.processor = processor
        self.model_hash = model_hash

    def stream(self, document: Document, *, stop: Callable[[], bool] | None = None, **options: Any) -> engine.Continuation:
        """Continues a document and tells what happens as it happens; see `generation.engine.stream`.

        Args:
            document: the prompt.
            stop: asked before every token and every denoising step; True ends it and keeps what was made.
            **options: fields of `generation.options.Options`.
        """
        return engine.stream(self.network, self.processor, document, model_hash=self.model_hash, stop=stop, **options)

    def continue_document(self, document: Document, *, stop: Callable[[], bool] | None = None, **options: Any) -> Document:
        """The document with its continuation; arguments as in `stream`."""
        return engine.continue_document(self.network, self.processor, document, model_hash=self.model_hash, stop=stop, **options)

    def scheduler(self, *, places: int = 8, painted_together: int = 8, grouped: bool = False, recorded: bool = False) -> Scheduler:
        """Continues many documents at once; see `generation.scheduler.Scheduler`."""
        return Scheduler(
            self.network,
            self.processor,
            model_hash=self.model_hash,
            places=places,
            painted_together=painted_together,
            grouped=grouped,
            recorded=recorded,
        )

    def resume(self, folder: str | os.PathLike[str], *, stop: Callable[[], bool] | None = None, **changes: Any) -> engine.Continuation:
        """Goes on with a continuation that was saved; see `generation.saving.load_continuation`."""
        return load_continuation(self.network, self.processor, Path(folder), model_hash=self.model_hash, stop=stop, **changes)

    def score(self, document: Document, continuations: list[str | Document]) -> list[Score]:
        """How likely each continuation is after the document; see `generation.score.score`."""
        return score_continuations(self.network, self.processor, document, continuations)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes weights, configuration and processor; the folder appears complete or not at all.

        Raises:
            StorageError: no space, or no permission.
        """
        return save_model(self.network, self.processor, Path(folder))


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    adapter: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: FewBits | None = None,
    wait_on: WaitingPlace | None = None,
    device_map: str | dict[str, Any] | None = None,
    vae_tiling: bool = False,
) -> Model:
    """Loads a model.

    Args:
        path: folder of a checkpoint; None is the model in the box.
        adapter: folder of an adapter (`final-adapter` of a run) that is added to its weights.
        device: where it computes.
        dtype: in what it computes; the autoencoder stays float32.
        quantize: holds the language model's layers as `int8` or `int4`, the rest in `dtype`.
        wait_on: where the language model's layers wait until they compute, `cpu` or `disk`, if the device cannot hold them.
        device_map: of `from_pretrained`, for any other distribution; `device` and `wait_on` then do not count.
        vae_tiling: decode large pictures in tiles, which needs less memory and shows faint seams.

    Raises:
        CheckpointError: it is missing, incomplete, or not ours.
        BackendError: what `quantize` needs is not installed.
        ConfigError: `quantize` and `wait_on` together.
    """
    folder = BOX if path is None else Path(path)
    if path is None and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"the model in the box is missing: expected weights in {folder}; install a wheel that contains them, "
            "or train one with 'mmi train recipes/playground-nano.yaml' and name its folder (--model FOLDER)."
        )
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing"
        raise CheckpointError(f"model {str(folder)!r}: expected the folder of a checkpoint, found {came} there; check the path.")
    options: dict[str, Any] = {"dtype": dtype}
    if quantize is not None:
        options["quantization_config"] = quantization(quantize, read_config(folder))
    if wait_on is not None:
        if quantize is not None:
            raise ConfigError("quantize and wait_on exclude each other: weights in few bits cannot wait elsewhere.")
        device_map = device_map or offload_map(read_config(folder), device=str(device), wait_on=wait_on)
    network = load_model(folder, **options, device_map=device_map or {"": device})
    choose_fast_forms(network)
    if vae_tiling:
        painter: Any = network.image_decoder
        painter.vae.enable_tiling()
    try:
        processor = MMInterleavedProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: the processor beside the weights cannot be read ({error}); save the checkpoint again.") from error
    fingerprint = model_hash(folder)
    if adapter is not None:
        load_adapter(network, Path(adapter))
        fingerprint = f"{fingerprint}+{adapter_hash(Path(adapter))}"
    form = " ".join([str(dtype).removeprefix("torch."), *([quantize] if quantize else []), *["tiled"] * vae_tiling])
    return Model(network.eval(), processor, model_hash=fingerprint, form=form)


def choose_fast_forms(network: PreTrainedModel) -> None:
    """Chooses what is faster without gradients where the network computes; equal but for rounding."""
    painter: Any = network.image_decoder
    device_type = painter.negative_tokens.device.type
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans every length of the text anew
    for part in (network.language_model, network.text_head):
        for_few_rows(cast(nn.Module, part))
        if device_type == "cuda":
            fuse_norms(cast(nn.Module, part))
    painter.choose_attention(device_type, backward=False)
