"""The user's network that says what is where in a picture, in the classes of ADE20K."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from mm_interleaved.checkpoint.upstream import check_kind, fingerprint, load_whole, read_part
from mm_interleaved.errors import CheckpointError

CLASSES = 150
"""Classes of ADE20K's benchmark."""


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
