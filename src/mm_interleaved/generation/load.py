"""A model with its processor, ready to continue documents: what `mm_interleaved.load` gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mm_interleaved.checkpoint.native import load_model, model_hash, save_model
from mm_interleaved.document import Document
from mm_interleaved.errors import BackendError, CheckpointError
from mm_interleaved.generation import engine
from mm_interleaved.generation.saving import load_continuation
from mm_interleaved.generation.scheduler import Scheduler
from mm_interleaved.generation.score import Score
from mm_interleaved.generation.score import score as score_continuations
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
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

    def scheduler(self, *, places: int = 8, painted_together: int = 8) -> Scheduler:
        """Continues many documents at once; see `generation.scheduler.Scheduler`."""
        return Scheduler(self.network, self.processor, model_hash=self.model_hash, places=places, painted_together=painted_together)

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
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    int8: bool = False,
    vae_tiling: bool = False,
) -> Model:
    """Loads a model.

    Args:
        path: folder of a checkpoint; None is the model in the box.
        device: where it computes.
        dtype: in what it computes; the autoencoder stays float32.
        int8: keep the language model's weights in 8 bits (`quantize_words`).
        vae_tiling: decode large pictures in tiles, which needs less memory and shows faint seams.

    Raises:
        CheckpointError: it is missing, incomplete, or not ours.
        BackendError: `int8` without torchao.
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
    network = load_model(folder, dtype=dtype).to(device)  # type: ignore[arg-type]
    network.image_decoder.choose_attention(torch.device(device).type)
    if int8:
        quantize_words(network)
    if vae_tiling:
        network.image_decoder.vae.enable_tiling()
    try:
        processor = MMInterleavedProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: the processor beside the weights cannot be read ({error}); save the checkpoint again.") from error
    form = " ".join([str(dtype).removeprefix("torch."), *["int8"] * int8, *["tiled"] * vae_tiling])
    return Model(network.eval(), processor, model_hash=model_hash(folder), form=form)


def quantize_words(network: MMInterleavedForConditionalGeneration) -> None:
    """Keeps the weights of the language model's layers and head in 8 bits; activations, MMFS and pictures stay as they are.

    A token then reads a quarter of float32's bytes. It cannot be trained or saved afterwards.

    Raises:
        BackendError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise BackendError("int8: expected the package torchao, which is not installed; pip install 'mm-interleaved[int8]'.") from error

    def chosen(module: torch.nn.Module, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and "synchronizer" not in name

    for part in (network.language_model.layers, network.text_head):
        quantize_(part, Int8WeightOnlyConfig(), filter_fn=chosen)
