"""The released prompts, each with the settings that the release used for it.

Source: release `custom_datasets/collator.py`, `custom_datasets/collator_sft.py` (spec §5.4). With `Behaviour.strip_texts` the pieces
around a picture are tokenized as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from mm_interleaved.errors import ConfigError
from mm_interleaved.generation.published_options import ANSWER, CAPTION, PARAGRAPH, PublishedTextOptions

IMAGE_MARK = "{image}"

Picture = TypeVar("Picture")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedPrompt:
    """A template with `{image}` and named fields."""

    template: str
    options: PublishedTextOptions | None = None
    """Settings of the text that follows; None where the release took them from its configuration."""

    def segments(self, picture: Picture, **fields: str) -> list[str | Picture]:
        """The prompt as segments of a document: words, the picture, words.

        Raises:
            ConfigError: a field is missing.
        """
        before, _, after = self.template.partition(IMAGE_MARK)
        try:
            pieces = [before.format(**fields), picture, after.format(**fields)]
        except KeyError as error:
            raise ConfigError(f"the prompt '{self.template}' needs the field {error}.") from error
        return [piece for piece in pieces if not isinstance(piece, str) or piece.strip()]


_QUESTION = "Based on the image, please answer the question. {image}{question}"

PROMPTS = {
    "caption": PublishedPrompt(template="{image} a photo of", options=CAPTION),
    "paragraph": PublishedPrompt(template="{image}Please describe the image in detail. The image depicts", options=PARAGRAPH),
    "question": PublishedPrompt(template=_QUESTION + " Please provide an accurate answer within one word. The answer is:", options=ANSWER),
    "question_or_unanswerable": PublishedPrompt(
        template=_QUESTION + " When the provided information is insufficient, respond with 'Unanswerable'. "
        "Please provide an accurate answer within one word. The answer is:",
        options=ANSWER,
    ),
    "dialogue": PublishedPrompt(template="{image} caption: {caption}. {turns}question: {question}? answer:"),
    "grounding": PublishedPrompt(
        template="{image}Provide the bounding box coordinate of the region this sentence describes. {caption}<box>"
    ),
    "referring": PublishedPrompt(template="{image}Provide a short description for this <ref>region</ref><box>{box}</box>."),
    "region_question": PublishedPrompt(
        template="{image}Answer this question according to the <ref>region</ref><box>{box}</box>. {question}"
    ),
    "grounded_caption": PublishedPrompt(template="{image}Generate the caption with grounding."),
}
"""By task."""
