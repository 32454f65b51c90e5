"""The README beside converted weights: what was joined, and under which licences its parts stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CARD_FILE = "README.md"


@dataclass(frozen=True)
class LicensedPart:
    """One part of a model that came from somewhere else."""

    part: str
    """Prefix of its names."""
    origin: str
    """What it was before."""
    licence: str
    """Its licence, or where it stands."""


PUBLISHED_PARTS = (
    LicensedPart("language_model, text_head", "Vicuna 13B v1.3, derived from LLaMA", "LLaMA licence: research, not commercial"),
    LicensedPart("visual_tokenizer.encoder", "OpenAI CLIP ViT-L/14", "MIT"),
    LicensedPart("image_decoder.unet, image_decoder.vae", "Stable Diffusion 2.1 base", "CreativeML Open RAIL++-M: use-based restrictions"),
    LicensedPart("everything else, and the training", "OpenGVLab/MM-Interleaved", "see the release; its code is Apache-2.0"),
)
"""Parts of the released model; the strictest licence holds for the whole."""


def model_card(title: str, description: str, parts: Iterable[LicensedPart]) -> str:
    """The text of the card, as the model hub reads it."""
    rows = "".join(f"| {each.part} | {each.origin} | {each.licence} |\n" for each in parts)
    return (
        "---\nlicense: other\nlibrary_name: mm-interleaved\npipeline_tag: image-text-to-text\n---\n"
        f"# {title}\n\n{description}\n\n"
        "## Licences of the parts\n\n"
        "The weights join parts of different licences; whoever uses or passes them on has to keep all of them.\n\n"
        f"| names | origin | licence |\n|---|---|---|\n{rows}"
    )
