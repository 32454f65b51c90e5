"""The publication's fine-tuning tasks: their official annotation files and its prompts, as sources (spec §5.4, §5.5)."""

from __future__ import annotations

from mm_interleaved.data.sources.source import Source
from mm_interleaved.data.tuning.captions import CocoCaptions, Karpathy, Paragraphs
from mm_interleaved.data.tuning.places import Ade20k, RefCoco
from mm_interleaved.data.tuning.questions import Gqa, TextVqa, VisDial, VizWiz, Vqa
from mm_interleaved.data.tuning.stories import Stories, Vist

TASKS: dict[str, type[Source]] = {
    "coco_captions": CocoCaptions,
    "karpathy": Karpathy,
    "paragraphs": Paragraphs,
    "vqa": Vqa,
    "gqa": Gqa,
    "vizwiz": VizWiz,
    "textvqa": TextVqa,
    "visdial": VisDial,
    "refcoco": RefCoco,
    "ade20k": Ade20k,
    "vist": Vist,
    "stories": Stories,
}
"""Class of each task by its `kind` in a recipe."""
