"""The released generation by itself: beams, options, caches, order of candidates. Its numbers are held by tests/parity."""

import itertools

import pytest
import torch
from transformers.generation.logits_process import LogitsProcessorList

from mm_interleaved.errors import ConfigError, GenerationError, ShapeError
from mm_interleaved.generation.beam import beam_search
from mm_interleaved.generation.published import draw_noise, generate_images, generate_texts
from mm_interleaved.generation.published_options import HIDDEN_TOP_K, PublishedImageOptions, PublishedTextOptions
from mm_interleaved.generation.published_prompts import PROMPTS
from mm_interleaved.testing import tiny_model

BEGIN, PAD, END, PICTURE = 0, 4, 2, 3  # of the little language of the beam tests; 1 is its only other word
STOP = (END, PICTURE)
GREEDY = PublishedTextOptions(beams=1, max_new_tokens=5, min_length=0)


def search(table, *, prompts=1, beams=2, length_penalty=1.0, longest=5, returned=1):
    """Beam search in a language where the next token depends on the last one only: `table[last]` are probabilities of the next."""
    logits = torch.tensor(table).log()
    return beam_search(
        logits[BEGIN].repeat(prompts * beams, 1),
        lambda tokens, origins: logits[tokens],
        beams=beams,
        processors=LogitsProcessorList(),
        begin=BEGIN,
        stop=STOP,
        pad=PAD,
        longest=longest,
        length_penalty=length_penalty,
        returned=returned,
    ).tolist()


def probabilities(seed):
    return torch.rand(5, 5, generator=torch.Generator().manual_seed(seed)).softmax(dim=1).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_enough_beams_find_the_likeliest_text(seed):
    table = probabilities(seed)
    texts = {}
    for length in range(1, 4):
        for words in itertools.product([0, 1, 4], repeat=length):
            steps = [(BEGIN, *words)[place : place + 2] for place in range(length)]
            likelihood = torch.tensor([table[last][word] for last, word in steps]).prod().item()
            if length == 3:
                texts[(BEGIN, *words)] = likelihood
            for stop in STOP:
                if length < 3:
                    texts[(BEGIN, *words, stop)] = likelihood * table[words[-1]][stop]
    for stop in STOP:
        texts[(BEGIN, stop)] = table[BEGIN][stop]
    best = max(texts, key=texts.get)
    # Without a length penalty; the release writes its first stop token, whichever ended the text.
    expected = [*best[:-1], END] if best[-1] in STOP else list(best)
    found = search(table, beams=30, length_penalty=0.0, longest=4)[0]
    assert found[: len(expected)] == expected
    assert set(found[len(expected) :]) <= {PAD}


def test_the_length_counts_the_placeholder_but_not_the_stop_token():
    stop, go = 0.4, 0.6
    tiny = 1e-12
    table = [
        [tiny, go, stop, tiny, tiny],  # the end at once: log .4 / 1 = -.92
        [tiny, tiny, 0.3, tiny, 0.7],  # one word, then the end: log(.6 * .3) / 2 = -.86
        *[[0.2] * 5] * 2,
        [tiny, tiny, 0.1, tiny, 0.9],
    ]
    assert search(table, beams=2, length_penalty=0.0, longest=3)[0] == [BEGIN, 1, PAD]  # .42 is the most probable of all
    table[1] = [tiny, tiny, 0.999, tiny, tiny]
    assert search(table, beams=2, length_penalty=1.0)[0] == [BEGIN, 1, END]
    table[1] = [tiny, tiny, 0.3, tiny, tiny]
    found = search(table, beams=2, length_penalty=1.0, returned=2)
    assert found == [[BEGIN, 1, END], [BEGIN, END, PAD]]  # -.86 before -.92; counted without the placeholder it would be -1.7


def test_another_stop_token_is_written_as_the_first():
    tiny = 1e-12
    table = [[tiny, tiny, tiny, 1.0, tiny]] + [[0.2] * 5] * 4
    assert search(table)[0] == [BEGIN, END]


def test_prompts_of_a_batch_do_not_touch_each_other():
    table = probabilities(1)
    alone = search(table, beams=3)
    assert search(table, prompts=3, beams=3) == alone * 3


def rows(model, *, pad=0, words=(), pictures=2):
    """One row: bos, words and pictures, some more words; `pad` of padding on the left."""
    config = model.config
    picture = [config.begin_image_token_id] + [config.image_token_id] * config.image_tokens
    ids = [config.bos_token_id, 40, 50, *picture * pictures, 60, 70, *words]
    return torch.tensor([[config.pad_token_id] * pad + ids]), torch.tensor([[0] * pad + [1] * len(ids)])


def pixels(count, seed=0):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def painter():
    return tiny_model(noise="ddpm")


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_padded_on_the_left_are_continued_as_if_alone(exact_model, beams):
    options = PublishedTextOptions(beams=beams, max_new_tokens=6)
    long, long_mask = rows(exact_model)
    short, short_mask = rows(exact_model, pictures=1)
    padded, padded_mask = rows(exact_model, pictures=1, pad=long.shape[1] - short.shape[1])
    views = pixels(3)
    alone = [
        generate_texts(exact_model, long, long_mask, views[:2], options)[0].tolist(),
        generate_texts(exact_model, short, short_mask, views[2:], options)[0].tolist(),
    ]
    together = generate_texts(exact_model, torch.cat([long, padded]), torch.cat([long_mask, padded_mask]), views, options).tolist()
    for text, expected in zip(together, alone, strict=True):
        assert text[: len(expected)] == expected
        assert set(text[len(expected) :]) <= {exact_model.config.pad_token_id}


def test_reading_on_with_caches_gives_what_reading_anew_gives(exact_model):
    ids, mask = rows(exact_model)
    scores = []
    text = generate_texts(exact_model, ids, mask, pixels(2), GREEDY, watch=scores.append)[0].tolist()
    assert text[0] == exact_model.config.bos_token_id
    for step, expected in enumerate(scores):
        again = []
        ids, mask = rows(exact_model, words=text[1 : 1 + step])
        generate_texts(exact_model, ids, mask, pixels(2), PublishedTextOptions(beams=1, max_new_tokens=1, min_length=0), watch=again.append)
        torch.testing.assert_close(expected, again[0], rtol=1e-5, atol=1e-5)  # scores are float32


def test_nothing_is_read_or_projected_twice(exact_model, monkeypatch):
    pictures, tokens, projections = [], [], []
    language = exact_model.language_model
    encode, project = exact_model.encode_images, language.project_features
    monkeypatch.setattr(exact_model, "encode_images", lambda views: pictures.append(len(views)) or encode(views))
    monkeypatch.setattr(language, "project_features", lambda maps: projections.append(len(maps)) or project(maps))
    hook = language.register_forward_pre_hook(
        lambda _, __, arguments: tokens.append(tuple(arguments["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    ids, mask = rows(exact_model)
    generate_texts(exact_model, ids, mask, pixels(2), PublishedTextOptions(beams=3, max_new_tokens=4))
    hook.remove()
    assert pictures == projections == [2]
    assert tokens == [(1, ids.shape[1]), (3, 1), (3, 1), (3, 1)]


def test_the_minimum_length_counts_the_placeholder(exact_model):
    ids, mask = rows(exact_model)
    stop = [exact_model.config.eos_token_id, exact_model.config.begin_image_token_id]
    scores = []
    options = PublishedTextOptions(beams=1, max_new_tokens=6, min_length=4)
    generate_texts(exact_model, ids, mask, pixels(2), options, watch=scores.append)
    assert [bool(step[0, stop].isinf().all()) for step in scores[:4]] == [True, True, True, False]


def test_repetition_is_punished_in_new_tokens_and_the_placeholder_only(exact_model):
    ids, mask = rows(exact_model)
    free, punished = [], []
    generate_texts(exact_model, ids, mask, pixels(2), GREEDY, watch=free.append)
    options = PublishedTextOptions(beams=1, max_new_tokens=1, min_length=0, repetition_penalty=2)
    generate_texts(exact_model, ids, mask, pixels(2), options, watch=punished.append)
    changed = (free[0][0] != punished[0][0]).nonzero().flatten().tolist()
    assert changed == [exact_model.config.bos_token_id]


def test_sampling_stays_among_the_hidden_fifty_and_follows_its_generator(exact_model):
    ids, mask = rows(exact_model)
    options = PublishedTextOptions(beams=1, sample=True, top_p=1.0, temperature=100.0, max_new_tokens=4, returned=40, min_length=0)

    def sample(seed):
        scores = []
        generator = torch.Generator().manual_seed(seed)
        texts = generate_texts(exact_model, ids, mask, pixels(2), options, generator=generator, watch=scores.append)
        return texts, scores

    texts, scores = sample(0)
    assert texts.shape[0] == options.returned
    for step, given in enumerate(scores):
        is_open = texts[:, step + 1] != exact_model.config.pad_token_id
        rank = (given > given.gather(1, texts[:, step + 1 : step + 2])).sum(dim=1)[is_open]
        assert int(rank.max()) < HIDDEN_TOP_K
    assert texts[:, 1].unique().numel() > 1
    assert torch.equal(texts, sample(0)[0])


def test_texts_need_no_picture(exact_model):
    ids, mask = rows(exact_model, pictures=0)
    assert generate_texts(exact_model, ids, mask, pixels(0), PublishedTextOptions(beams=2, max_new_tokens=2)).shape[0] == 1


def test_rows_that_end_with_padding_are_refused_for_texts(exact_model):
    ids, mask = rows(exact_model)
    mask[0, -1] = 0
    with pytest.raises(GenerationError, match="on the left"):
        generate_texts(exact_model, ids, mask, pixels(2), GREEDY)


def paint(model, options=None, *, views=None, targets=None, watch=None, noise=None):
    options = options or PublishedImageOptions(steps=2)
    ids, mask = rows(model)
    views = pixels(2) if views is None else views
    decoder = model.image_decoder
    count = 2 if targets is None else len(targets)
    shape = (decoder.latent_channels, decoder.latent_side, decoder.latent_side)
    initial, steps = noise or draw_noise(count, shape, options)
    return generate_images(
        model, ids, mask, views, initial_latents=initial, step_noise=steps, targets=targets, guidance=options.guidance, watch=watch
    )


def test_candidates_come_one_after_another_each_from_its_own_seed(painter):
    both = paint(painter, PublishedImageOptions(steps=2, candidates=2, seed=5))
    assert both.shape == (4, 3, 32, 32)
    for candidate in range(2):
        alone = paint(painter, PublishedImageOptions(steps=2, seed=5 + candidate))
        torch.testing.assert_close(both[2 * candidate : 2 * candidate + 2], alone, rtol=0, atol=1e-4)  # float32, other batch size


def test_what_stands_in_the_place_of_a_picture_does_not_reach_it_but_the_one_before_does(painter):
    views = pixels(2)
    expected = paint(painter, views=views, targets=[1])
    own, before = views.clone(), views.clone()
    own[1], before[0] = 0.5, 0.5
    torch.testing.assert_close(paint(painter, views=own, targets=[1]), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(paint(painter, views=before, targets=[1]), expected, rtol=0, atol=1e-3)


def test_guidance_leaves_the_picture_before_to_the_negative_branch(painter):
    steps = []
    paint(painter, PublishedImageOptions(steps=2, guidance=3.0), watch=steps.append)
    assert steps[0].visible.flatten().tolist() == [False, True] * 2  # per branch: the first picture has none before it
    assert torch.equal(steps[0].condition[:2], painter.image_decoder.negative_condition(2))
    steps.clear()
    paint(painter, PublishedImageOptions(steps=2, guidance=1.0), watch=steps.append)
    assert steps[0].condition.shape[0] == steps[0].visible.shape[0] == 2


def test_each_picture_is_projected_once_for_all_steps_candidates_and_branches(painter, monkeypatch):
    projected = []
    project = painter.image_decoder.project_features
    monkeypatch.setattr(painter.image_decoder, "project_features", lambda maps: projected.append(tuple(maps.shape[:2])) or project(maps))
    paint(painter, PublishedImageOptions(steps=2, candidates=2), targets=[1])
    assert projected == [(1, 1)]


def test_noise_and_targets_that_do_not_fit_are_refused(painter):
    with pytest.raises(GenerationError, match="between 0 and 1"):
        paint(painter, targets=[2])
    shape = (4, 16, 16)
    with pytest.raises(ShapeError, match="multiple"):
        paint(painter, noise=(torch.zeros(3, *shape), torch.zeros(2, 3, *shape)))
    with pytest.raises(ShapeError, match="step"):
        paint(painter, noise=(torch.zeros(2, *shape), torch.zeros(2, 1, *shape)))


def test_noise_is_drawn_for_eight_pictures_at_a_time():
    options = PublishedImageOptions(steps=2, seed=3, candidates=2)
    initial, steps = draw_noise(10, (1, 2, 2), options)
    assert initial.shape == (20, 1, 2, 2)
    assert steps.shape == (2, 20, 1, 2, 2)
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(count, 1, 2, 2, generator=generator) for count in (8, 8, 8, 2, 2, 2)]
    assert torch.equal(initial[:10], torch.cat([drawn[0], drawn[3]]))
    assert torch.equal(steps[1, :10], torch.cat([drawn[2], drawn[5]]))
    assert torch.equal(initial[10:18], torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(4)))


def test_released_names_are_read_and_unknown_ones_refused():
    assert PublishedTextOptions.read({"num_beams": 3, "max_length": 12}) == PublishedTextOptions(beams=3, max_new_tokens=12)
    assert PublishedImageOptions.read({"guidance_scale": 3.5}) == PublishedImageOptions(guidance=3.5)
    with pytest.raises(ConfigError, match="num_beam"):
        PublishedTextOptions.read({"num_beam": 3})


@pytest.mark.parametrize(
    "wrong", [{"beams": 0}, {"max_new_tokens": True}, {"sample": True}, {"returned": 6}, {"min_length": -1}, {"max_new_tokens": 1.5}]
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError):
        PublishedTextOptions(**wrong)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"candidates": 0}])
def test_image_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError):
        PublishedImageOptions(**wrong)


def test_released_prompts_stand_around_their_picture_with_the_released_settings():
    prompt = PROMPTS["question"]
    before, seen, after = prompt.segments(0, question="What is it?")
    assert (before.strip(), seen) == ("Based on the image, please answer the question.", 0)
    assert after == "What is it? Please provide an accurate answer within one word. The answer is:"
    assert (prompt.options.max_new_tokens, prompt.options.min_length, prompt.options.beams) == (10, 0, 3)
    assert PROMPTS["caption"].segments(0) == [0, " a photo of"]
    with pytest.raises(ConfigError, match="'question'"):
        prompt.segments(0)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_every_released_prompt_holds_its_picture_once(prompt):
    fields = dict.fromkeys(("question", "caption", "turns", "box"), "x")
    assert prompt.segments(0, **fields).count(0) == 1
