"""The user's CLIP: vectors of pictures, and of captions in the same space, for scores and for finding similar pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from mm_interleaved.checkpoint.upstream import check_kind, fingerprint, load_whole, read_part
from mm_interleaved.document import Image

TOGETHER = 16
"""Pictures or captions that are computed at once."""


class Clip:
    """A CLIP: pictures and captions → unit vectors, whose product says how well they fit each other."""

    def __init__(self, folder: Path, *, words: bool = True) -> None:
        """
        Args:
            words: whether captions will be read too; without them the half with projection that sees is enough.

        Raises:
            CheckpointError: the folder holds no whole CLIP (or no such half) with its tokenizer and picture processor.
        """
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, CLIPVisionModelWithProjection

        if words:
            check_kind(folder, ("clip",), "a whole CLIP, both for pictures and for words")
        else:
            check_kind(folder, ("clip", "clip_vision_model"), "a CLIP")
        self._network = load_whole(CLIPModel if words else CLIPVisionModelWithProjection, folder)
        self._processor = read_part(CLIPImageProcessorPil, folder)
        self._tokenizer = read_part(AutoTokenizer, folder) if words else None
        self.fingerprint = fingerprint(folder)

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Image]) -> Float[np.ndarray, "I D"]:
        """Unit vectors of pictures."""
        found = []
        for start in range(0, len(pictures), TOGETHER):
            seen = self._processor([picture.array() for picture in pictures[start : start + TOGETHER]], return_tensors="pt")
            whole = self._tokenizer is not None
            found.append(self._network.get_image_features(**seen).pooler_output if whole else self._network(**seen).image_embeds)
        return _unit(torch.cat(found))

    @torch.inference_mode()
    def captions(self, captions: Sequence[str]) -> Float[np.ndarray, "I D"]:
        """Unit vectors of captions; what is longer than the network reads (77 tokens in the published ones) is cut off, as usual."""
        assert self._tokenizer is not None, "a CLIP that was read without words"
        most = self._network.config.text_config.max_position_embeddings
        found = []
        for start in range(0, len(captions), TOGETHER):
            some = list(captions[start : start + TOGETHER])
            tokens = self._tokenizer(some, padding=True, truncation=True, max_length=most, return_tensors="pt")
            found.append(self._network.get_text_features(**tokens).pooler_output)
        return _unit(torch.cat(found))


def _unit(vectors: torch.Tensor) -> Float[np.ndarray, "I D"]:
    return torch.nn.functional.normalize(vectors.double(), dim=-1).numpy()
