"""The assembled model: initialisation that survives construction and loading, documents that stay apart, batches of one modality."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from mm_interleaved.batch import IGNORED_TARGET, NoiseDraw
from mm_interleaved.errors import ConfigError
from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.layout import lay_out
from mm_interleaved.testing import tiny_config, tiny_model, tiny_processor

RED, BLUE = ([[[200, 30, 30]]], [[[20, 40, 220]]])


def picture(colour, side=32):
    import numpy as np

    array = np.broadcast_to(np.asarray(colour, dtype=np.uint8), (side, side, 3)).copy()
    array[side // 4 : side // 2, side // 3 :] = 255 - array[0, 0]
    return array


def make_batch(*documents, pack=None, prompts=None, last_unread=None):
    processor = tiny_processor()
    prompts = prompts or [0] * len(documents)
    unread = last_unread or [False] * len(documents)
    layouts = [
        processor.lay_out(document, prompt=prompt, last_unread=last)
        for document, prompt, last in zip(documents, prompts, unread, strict=True)
    ]
    return processor.collate(layouts, pack=pack)


def make_draw(model, batch, *, seed=0, drop=1.0):
    decoder = model.image_decoder
    shape = (batch.target_image.shape[0], decoder.latent_channels, decoder.latent_side, decoder.latent_side)
    draw = torch.Generator().manual_seed(seed)
    uniform = torch.rand(shape[0], generator=draw)
    return NoiseDraw(
        noise=torch.randn(shape, generator=draw).to(model.dtype),
        timestep=decoder.schedule.draw_timestep(uniform),
        posterior=torch.randn(shape, generator=draw).to(model.dtype),
        drop=torch.full((shape[0],), drop),
    )


def run(model, batch):
    from dataclasses import replace

    batch = replace(batch, pixels=batch.pixels.to(model.dtype), target_pixels=batch.target_pixels.to(model.dtype))
    return model.forward_batch(batch, make_draw(model, batch))


def zero_at_start(model):
    """Parameters that have to be 0, so that a new model equals its upstream parts."""
    for name, parameter in model.named_parameters():
        if name.endswith((".gate", ".gamma", "null_value", "begin_image_embedding", "level_embedding")):
            yield name, parameter
        if "synchronizer" in name and ".convolution." in name:
            yield name, parameter


def check_initialisation(model):
    names = dict(zero_at_start(model))
    kinds = {name.rsplit(".", 1)[-1] for name in names}
    assert {"gate", "gamma", "null_value", "begin_image_embedding"} <= kinds
    for name, parameter in names.items():
        assert not parameter.any(), f"{name} is not 0"
    for name, module in model.named_modules():
        if type(module).__name__ == "MMFS":
            assert not module.offsets.weight.any(), name
            assert 0 < module.offsets.bias.abs().max() <= module.config.offset_init, name
            assert not module.attention_weights.bias.any(), name
            assert float(module.value_projection.weight.std()) == pytest.approx(
                (2 / sum(module.value_projection.weight.shape)) ** 0.5, rel=0.2
            ), f"{name}: Xavier"


def fresh(seed=0):
    torch.manual_seed(seed)
    return MMInterleavedForConditionalGeneration(tiny_config())


def test_gates_zero_convolutions_and_null_values_are_zero_after_construction():
    check_initialisation(fresh())


def test_gates_zero_convolutions_and_null_values_are_zero_after_loading(tmp_path):
    model = fresh()
    model.save_pretrained(tmp_path)
    loaded = MMInterleavedForConditionalGeneration.from_pretrained(tmp_path)
    check_initialisation(loaded)
    for (name, before), after in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(before, after), name


def test_every_buffer_is_bit_equal_after_loading(tmp_path):
    model = fresh()
    model.save_pretrained(tmp_path)
    loaded = dict(MMInterleavedForConditionalGeneration.from_pretrained(tmp_path).named_buffers())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, loaded[name]), name


def test_unet_and_autoencoder_keep_the_initialisation_of_diffusers():
    """transformers would redraw them with its own small normal; their statistics tell which one they have."""
    model = fresh()
    unet = UNet2DConditionModel.from_config(model.image_decoder.unet.config)
    autoencoder = AutoencoderKL.from_config(model.image_decoder.vae.config)
    for ours, upstream in ((model.image_decoder.unet, unet), (model.image_decoder.vae, autoencoder)):
        expected = dict(upstream.named_parameters())
        compared = 0
        for name, parameter in ours.named_parameters():
            if name in expected and parameter.dim() == 4 and parameter.numel() > 500:
                assert float(parameter.std()) == pytest.approx(float(expected[name].std()), rel=0.25), name
                compared += 1
        assert compared >= 4


def test_a_picture_changes_every_later_word_and_no_earlier_one():
    model = tiny_model(seed=0).double().eval()
    first, second = (run(model, make_batch(["draw a cat.", picture(colour), " a dog."])).logits for colour in (RED, BLUE))
    begin = int((make_batch(["draw a cat.", picture(RED), " a dog."]).token_ids[0] == model.config.begin_image_token_id).nonzero()[0])
    assert torch.equal(first[:, : begin + 1], second[:, : begin + 1])
    assert ((first - second)[:, begin + 1 :].abs().amax(-1) > 1e-6).all()


def test_packed_documents_do_not_see_each_other():
    model = tiny_model(seed=0).double().eval()
    other = ["a cat.", picture(RED), " and a dog."]
    own = ["draw a tree.", picture(BLUE), " more.", picture(RED)]
    alone = run(model, make_batch(own))
    packed = run(model, make_batch(other, own, pack=[[0, 1]]))
    length = alone.logits.shape[1]
    torch.testing.assert_close(packed.logits[:, -length:], alone.logits, rtol=0, atol=1e-10)


def test_gradients_do_not_cross_from_one_packed_document_to_the_other():
    model = tiny_model(seed=0).double().eval()
    batch = make_batch(["a cat.", picture(RED), " and."], ["draw a tree.", picture(BLUE)], pack=[[0, 1]])
    from dataclasses import replace

    pixels = batch.pixels.double().requires_grad_()
    batch = replace(batch, pixels=pixels, target_pixels=batch.target_pixels.double())
    output = model.forward_batch(batch, None)
    second = batch.document_index[0] == 1
    gradient = torch.autograd.grad(output.logits[0, second].square().sum(), pixels)[0]
    assert not gradient[0].any()
    assert gradient[1].any()


def test_padding_changes_nothing():
    model = tiny_model(seed=0).double().eval()
    short = ["draw a cat.", picture(RED)]
    alone = run(model, make_batch(short)).logits
    padded = run(model, make_batch(short, ["draw a dog. in the style of the picture above.", picture(BLUE), picture(RED)])).logits
    torch.testing.assert_close(padded[:1, : alone.shape[1]], alone, rtol=0, atol=1e-10)


def test_text_only_documents_are_trained_on_words_alone():
    model = tiny_model(seed=0).train()
    output = run(
        model,
        make_batch(
            [
                "draw a cat.",
            ],
            ["draw a dog."],
        ),
    )
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.terms.image_count == 0
    assert model.language_model.embed_tokens.weight.grad.any()


def test_a_batch_without_any_text_target_has_a_finite_loss():
    model = tiny_model(seed=0).train()
    batch = make_batch(["draw a cat.", picture(RED)], prompts=[2])
    output = run(model, batch)
    assert torch.isfinite(output.loss)


def test_a_picture_that_nothing_reads_is_painted_exactly_like_one_that_is_read():
    model = tiny_model(seed=0).double().eval()
    documents = (["draw a cat.", picture(RED)], ["a dog.", picture(BLUE), " again.", picture(RED)])
    read = run(model, make_batch(*documents, prompts=[1, 3]))
    unread = make_batch(*documents, prompts=[1, 3], last_unread=[True, True])
    assert unread.pixels.shape[0] == 1
    torch.testing.assert_close(run(model, unread).image_loss, read.image_loss, rtol=0, atol=1e-10)


def test_the_image_decoder_reads_all_earlier_pictures_of_its_document_and_no_others():
    model = tiny_model(seed=0).double().eval()
    losses = [
        run(model, make_batch(["one", picture(first), "two", picture(RED), "three", picture(BLUE)], prompts=[5])).image_loss
        for first in (RED, BLUE)
    ]
    assert abs(losses[0] - losses[1]) > 1e-9


def test_the_published_behaviour_reads_the_previous_picture_only():
    batch = make_batch(["one", picture(RED), "two", picture(RED), "three", picture(BLUE)])
    assert batch.earlier_images(previous_only=True).tolist() == [[False] * 3, [True, False, False], [False, True, False]]
    assert batch.earlier_images(previous_only=False).tolist() == [[False] * 3, [True, False, False], [True, True, False]]


def test_plain_tensors_give_the_same_losses_as_records():
    model = tiny_model(seed=0).eval()
    batch = make_batch(["draw a cat.", picture(RED), " a dog."])
    draw = make_draw(model, batch)
    records = model.forward_batch(batch, draw)
    plain = model(
        batch.token_ids,
        batch.pixels,
        targets=batch.targets,
        target_pixels=batch.target_pixels,
        noise=draw.noise,
        timestep=draw.timestep,
        posterior=draw.posterior,
        drop=draw.drop,
    )
    torch.testing.assert_close(plain.loss, records.loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(plain.logits, records.logits, rtol=1e-5, atol=1e-5)


def test_without_targets_there_is_no_loss():
    model = tiny_model(seed=0).eval()
    batch = make_batch(["draw a cat."])
    assert model(batch.token_ids).loss is None


def test_levels_that_the_tokenizer_does_not_make_are_named():
    config = tiny_config().to_dict()
    config["mmfs"] = {**config["mmfs"], "level_sides": [9, 4]}
    with pytest.raises(ConfigError, match=r"names sides \[9\]"):
        MMInterleavedForConditionalGeneration(MMInterleavedConfig(**config))


def test_targets_of_the_prompt_are_not_trained():
    layout = lay_out(["draw a cat.", picture(RED)], tiny_processor(), prompt=1)
    assert layout.targets[0] == IGNORED_TARGET
    assert layout.targets[-2] == tiny_processor().tokens.end
