"""A model elsewhere than on the CPU: nothing that it computes with is left behind, and nothing makes it wait.

The meta device has no numbers: tensors of two devices do not meet there, and whoever asks for a number gets an error.
"""

import pytest
import torch

from mm_interleaved.document import Document
from mm_interleaved.generation.image import denoise_step
from mm_interleaved.generation.options import SAMPLERS
from mm_interleaved.generation.rows import TextRows
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.testing import tiny_model
from tests.generation.conftest import picture
from tests.model.test_interleaved import BLUE, RED, make_batch, make_draw
from tests.model.test_interleaved import picture as coloured

ELSEWHERE = "meta"


@pytest.fixture(params=["flow", "ddpm"])
def elsewhere(request):
    return tiny_model(noise=request.param).to(ELSEWHERE)


def test_a_training_pass_stays_on_its_device_and_never_waits(elsewhere):
    batch = make_batch(["a ", coloured(RED), "draw a cat. ", coloured(BLUE), "so"], ["a cat. ", coloured(RED), "b"], pack=[[0, 1]])
    assert batch.target_pixels.shape[0] == 3
    draw = make_draw(tiny_model(noise=elsewhere.image_decoder.schedule.config.kind), batch)
    loss = elsewhere.forward_batch(batch.to(ELSEWHERE), draw.to(ELSEWHERE)).loss
    loss.backward()
    lost = [name for name, part in elsewhere.named_parameters() if part.grad is not None and part.grad.device.type != ELSEWHERE]
    assert loss.device.type == ELSEWHERE
    assert not lost


def test_reading_and_writing_stay_on_their_device_and_never_wait(elsewhere, processor):
    states = [DocumentState(elsewhere) for _ in range(2)]
    for state, document in zip(states, (Document(["draw"]), Document([picture(1), "a ", picture(2), "cat"])), strict=True):
        state.read(processor.open_layout(document))
        state.append_token(9)
    rows = TextRows(elsewhere, 2)
    rows.gather(states)
    rows.read(states, [7, 8])
    assert states[1].next_logits().device.type == ELSEWHERE


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_painting_stays_on_its_device_and_never_waits(elsewhere, processor, sampler):
    from mm_interleaved.generation.engine import stream

    run = stream(elsewhere, processor, Document([picture(1), "draw a cat"]), steps=3, sampler=sampler)
    run.state.read(processor.open_layout(Document([picture(1), "draw a cat"])))
    caches = [run.state.features]
    for _ in range(2):
        painting = run.ready_painting()
        denoise_step(lambda latents, time, condition, rows: elsewhere.predict_noise(latents, time, condition, caches, rows), [painting])
    assert elsewhere.image_decoder.decode(run.painting.latents).device.type == ELSEWHERE
    assert torch.is_tensor(run.painting.foreseen())
