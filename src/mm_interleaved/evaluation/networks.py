"""The user's networks that judge painted pictures: a CLIP, a segmenter, each a folder as transformers saves it. (FID's: `extractors.py`.)

Nothing is downloaded. A folder of another kind, or with weights missing, is refused: a network that was filled up at random would give
figures all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from mm_interleaved.document import Image
from mm_interleaved.errors import CheckpointError

TOGETHER = 16
"""Pictures or captions that are computed at once."""

CLASSES = 150
"""Classes of ADE20K's benchmark."""


class Clip:
    """A CLIP: pictures and captions → unit vectors, whose product says how well they fit each other."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            CheckpointError: the folder holds no whole CLIP with its tokenizer and picture processor.
        """
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        check_kind(folder, ("clip",), "a whole CLIP, both for pictures and for words")
        self._network = load_whole(CLIPModel, folder)
        self._processor = read_part(CLIPImageProcessorPil, folder)
        self._tokenizer = read_part(AutoTokenizer, folder)
        self._words = self._network.config.text_config.max_position_embeddings
        self.fingerprint = fingerprint(folder)

    def pictures(self, pictures: Sequence[Image]) -> Float[np.ndarray, "I D"]:
        """Unit vectors of pictures."""
        found = []
        for start in range(0, len(pictures), TOGETHER):
            arrays = [picture.array() for picture in pictures[start : start + TOGETHER]]
            with torch.inference_mode():
                found.append(self._network.get_image_features(**self._processor(arrays, return_tensors="pt")).pooler_output)
        return _unit(torch.cat(found))

    def captions(self, captions: Sequence[str]) -> Float[np.ndarray, "I D"]:
        """Unit vectors of captions; what is longer than the network reads (77 tokens in the published ones) is cut off, as usual."""
        found = []
        for start in range(0, len(captions), TOGETHER):
            some = list(captions[start : start + TOGETHER])
            tokens = self._tokenizer(some, padding=True, truncation=True, max_length=self._words, return_tensors="pt")
            with torch.inference_mode():
                found.append(self._network.get_text_features(**tokens).pooler_output)
        return _unit(torch.cat(found))


class Segmenter:
    """A network for semantic segmentation of ADE20K's 150 classes: picture → label of every pixel, from 1."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            CheckpointError: the folder holds no such network with its picture processor, or one of other classes.
        """
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

        check_kind(folder, tuple(MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES), "a network for semantic segmentation")
        self._network = load_whole(AutoModelForSemanticSegmentation, folder)
        self._processor = read_part(AutoImageProcessor, folder)
        if (found := int(self._network.config.num_labels)) != CLASSES:
            raise CheckpointError(f"{folder}: expected a segmenter of ADE20K's {CLASSES} classes, got one of {found}; give another one.")
        self.fingerprint = fingerprint(folder)

    def labels(self, picture: np.ndarray, side: int) -> Int[np.ndarray, "side side"]:
        """Labels of a picture (H W 3 uint8) at another side."""
        with torch.inference_mode():
            found = self._network(**self._processor(picture, return_tensors="pt"))
        labels = self._processor.post_process_semantic_segmentation(found, target_sizes=[(side, side)])[0]
        return np.asarray(labels.numpy(), np.int64) + 1


def check_kind(folder: Path, kinds: Sequence[str], what: str) -> None:
    """
    Raises:
        CheckpointError: the folder's configuration is of none of these kinds, or there is none.
    """
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); expected a folder with {what}, as transformers saves it.") from error
    if kind not in kinds:
        raise CheckpointError(f"{path}: expected {what} (model_type {' or '.join(kinds)}), got {kind!r}; give the folder of one.")


def load_whole(kind: Any, folder: Path) -> Any:
    """A network with every weight of its own.

    Raises:
        CheckpointError: the weights cannot be read, or some are missing or of another shape.
    """
    try:
        network, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be read ({' '.join(str(error).split())[:120]}); save them again.") from error
    if missing := sorted([*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]):
        raise CheckpointError(f"{folder}: {len(missing)} weights are missing, first {missing[0]}; download the folder again.")
    return network.eval()


def read_part(kind: Any, folder: Path) -> Any:
    """A tokenizer or processor beside the weights.

    Raises:
        CheckpointError: it is not there.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{folder} holds no {kind.__name__} ({reason}); download the whole folder of the network.") from error


def fingerprint(folder: Path) -> str:
    """Hash of all files of a folder, for the protocol."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _unit(vectors: torch.Tensor) -> Float[np.ndarray, "I D"]:
    return torch.nn.functional.normalize(vectors.double(), dim=-1).numpy()
