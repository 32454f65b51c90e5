"""Documents continued side by side."""

import numpy as np

from mm_interleaved.document import Document, Image
from mm_interleaved.evaluation.together import continue_together
from mm_interleaved.generation.events import Finished, ImageDone

OPTIONS = {"steps": 3, "guidance": 2.0, "max_images": 2, "max_tokens": 6}


def picture(seed):
    return Image.from_array(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def test_pictures_painted_together_are_those_painted_alone(eager_model):
    documents = [Document(["draw a cat."]), Document([picture(1), "draw a dog."]), Document(["draw a flat tree."])]
    events = continue_together(eager_model, documents, [3, 4, 5], **OPTIONS)
    for document, seed, found in zip(documents, [3, 4, 5], events, strict=True):
        alone = eager_model.continue_document(document, seed=seed, **OPTIONS)
        assert isinstance(found[-1], Finished)
        together = found[-1].document
        assert [text.text for text in together.texts] == [text.text for text in alone.texts]
        assert len(together.images) == len(alone.images) > len(document.images)
        for one, other in zip(together.images, alone.images, strict=True):
            assert np.abs(one.array().astype(int) - other.array().astype(int)).max() <= 2
            assert one.generation == other.generation


def test_a_document_can_be_left_after_its_first_picture(eager_model):
    (events,) = continue_together(eager_model, [Document(["draw a cat."])], [0], first_picture_only=True, **OPTIONS)
    assert isinstance(events[-1], ImageDone)
    assert sum(isinstance(event, ImageDone) for event in events) == 1
