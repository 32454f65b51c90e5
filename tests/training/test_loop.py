from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mm_interleaved.checkpoint.native import load_model, read_config
from mm_interleaved.data.playground.tasks import READING_TASKS
from mm_interleaved.errors import CheckpointError, ConfigError, MMInterleavedError, StorageError
from mm_interleaved.processing.processor import MMInterleavedProcessor
from mm_interleaved.testing import TINY_VOCABULARY
from mm_interleaved.training import loop
from mm_interleaved.training.assembly import make_corpus, make_model, make_processor
from mm_interleaved.training.feed import Feed, WorkerFeed
from mm_interleaved.training.loop import train
from mm_interleaved.training.objectives import make_objective
from mm_interleaved.training.parts import Documents
from mm_interleaved.training.recipe import read_model_config
from mm_interleaved.training.report import SamplesMade, Started, StepDone

OBJECTIVES = {
    "documents": {},
    "concepts": {"objective": "concepts", "data": {"last_unread": 1.0}},
    "paintings": {"objective": "paintings", "trainable": ["image_decoder.unet.*"]},
    "words": {"objective": "words", "trainable": ["language_model.*"]},
    "vision": {"objective": "vision", "trainable": ["visual_tokenizer.*"]},
}


def rows(output):
    return (Path(output) / "losses.csv").read_bytes()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_resumed_run_repeats_the_uninterrupted_losses(recipe, objective):
    changes = OBJECTIVES[objective]
    whole = recipe("whole", **changes)
    train(whole)
    parts = recipe("parts", **changes)
    steps = []
    events = []
    stopped = train(parts, on_event=steps.append, should_stop=lambda: len([event for event in steps if isinstance(event, StepDone)]) == 3)
    assert not stopped.completed
    assert stopped.step == 3
    before = rows(parts.output)
    finished = train(parts, on_event=events.append)
    assert finished.completed
    assert events[0].first_step == 3
    assert events[0].resumed_from.name == "step-000003"
    assert rows(parts.output).startswith(before)
    assert rows(parts.output) == rows(whole.output)
    resumed = load_model(Path(parts.output) / "final").state_dict()
    for name, value in load_model(Path(whole.output) / "final").state_dict().items():
        assert torch.equal(value, resumed[name]), name


def test_rows_after_the_newest_checkpoint_are_rewritten_identically(recipe):
    run = recipe()
    train(run)
    complete = rows(run.output)
    newest = sorted((Path(run.output) / "checkpoints").glob("step-*"))[-1]
    (newest / "manifest.json").unlink()
    events = []
    train(run, on_event=events.append)
    assert events[0].first_step == 2
    assert rows(run.output) == complete


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_repeats_the_uninterrupted_losses(recipe, recipe_file):
    whole = recipe("whole", training={"steps": 12})
    train(whole)
    path = recipe_file("killed", training={"steps": 12})
    code = "import sys, torch; torch.set_num_threads(1)\nfrom mm_interleaved.training.recipe import read_recipe\n"
    code += "from mm_interleaved.training.loop import train\ntrain(read_recipe(sys.argv[1]))"
    output = path.parent / "killed"
    chance = np.random.default_rng()
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while process.poll() is None and not (output / "losses.csv").exists():
            time.sleep(0.05)
        time.sleep(float(chance.uniform(0.0, 3.0)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert rows(output) == rows(whole.output)


def test_a_sample_does_not_depend_on_the_batch_it_comes_in(recipe):
    plain = recipe()
    config = read_model_config(plain)
    corpus = make_corpus(plain, side=config.vision_config.image_size)
    objective = Documents(make_model(plain), make_processor(plain, config, corpus.world))
    together = objective.prepare(corpus, range(6))
    alone = [objective.prepare(corpus, [index]) for index in range(6)]
    assert len(set(map(corpus.task_of, range(30)))) == 3
    for field in ("noise", "posterior", "timestep", "drop"):
        assert torch.equal(getattr(together.draw, field), torch.cat([getattr(single.draw, field) for single in alone]))
    assert torch.equal(together.batch.target_pixels, torch.cat([single.batch.target_pixels for single in alone]))
    assert len(together.draw.noise.unique(dim=0)) == len(together.draw.noise) > 1


@pytest.mark.parametrize("kind", [Feed, partial(WorkerFeed, workers=2)], ids=["thread", "processes"])
def test_batches_come_in_order_and_an_error_of_the_feed_is_raised_where_they_are_used(kind):
    def prepare(indices):
        if indices[0] == 6:
            raise ConfigError("broken sample")
        return list(indices)

    feed = kind(prepare, start=1, stop=9, batch_size=2, ahead=2)
    batches = iter(feed)
    assert [next(batches), next(batches)] == [[2, 3], [4, 5]]
    with pytest.raises(ConfigError, match="broken sample"):
        next(batches)
    feed.close()


@pytest.mark.parametrize("over_all", [False, True])
def test_pictures_that_even_a_batch_out_change_neither_losses_nor_gradients(recipe, over_all):
    plain = recipe(
        model_changes={"behaviour": {"image_mean_over_all": over_all}}, data={"last_unread": 0.5}, training={"mixed_precision": "float32"}
    )
    config = read_model_config(plain)
    corpus = make_corpus(plain, side=config.vision_config.image_size)
    objective = Documents(make_model(plain), make_processor(plain, config, corpus.world))
    prepared = objective.prepare(corpus, range(6))
    evened = prepared.evened(16)
    assert (evened.batch.pixels.shape[0], evened.batch.target_pixels.shape[0]) == (16, 16) == (len(evened.draw.noise), 16)
    found = []
    for each in (prepared, evened):
        objective.zero_grad()
        terms = objective(each)
        terms.total.backward()
        gradients = [parameter.grad.clone() for parameter in objective.parameters() if parameter.grad is not None]
        found.append([terms.columns["text_loss"], terms.columns["image_loss"], *gradients])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_closing_a_feed_stops_its_thread():
    feed = Feed(list, start=0, stop=10**9, batch_size=2, ahead=2)
    next(iter(feed))
    feed.close()
    assert not feed._thread.is_alive()


def test_closing_a_feed_ends_its_processes():
    feed = WorkerFeed(list, start=0, stop=10**9, batch_size=2, ahead=2, workers=2)
    next(iter(feed))
    processes = list(feed._batches._workers)
    feed.close()
    assert [process.is_alive() for process in processes] == [False, False]


@pytest.mark.parametrize("objective", ["documents", "vision"])
def test_samples_composed_in_processes_give_the_losses_of_samples_composed_in_a_thread(recipe, objective):
    thread, processes = (
        recipe(name, training={"workers": workers}, **OBJECTIVES[objective]) for name, workers in (("thread", 0), ("processes", 2))
    )
    train(thread)
    train(processes)
    assert rows(processes.output) == rows(thread.output)


def test_a_changed_recipe_is_refused_on_resuming_and_a_longer_one_goes_on(recipe):
    train(recipe())
    with pytest.raises(ConfigError, match=r"these keys differ: training\.learning_rate, training\.seed"):
        train(recipe(training={"learning_rate": 5e-4, "seed": 3}))
    with pytest.raises(ConfigError, match="has 4 steps behind it"):
        train(recipe(training={"steps": 3}))
    events = []
    assert train(recipe(training={"steps": 5}), on_event=events.append).step == 5
    assert events[0].first_step == 4


def test_a_finished_run_says_so_again_without_training(recipe):
    first = train(recipe())
    events = []
    again = train(recipe(), on_event=events.append)
    assert again.final == first.final
    assert not any(isinstance(event, StepDone) for event in events)


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_the_batch(recipe, monkeypatch):
    class Poisoned(Documents):
        def forward(self, prepared):
            terms = super().forward(prepared)
            return type(terms)(terms.total * torch.nan, terms.columns)

    monkeypatch.setattr(loop, "make_objective", lambda name, model, processor, corpus: Poisoned(model, processor))
    run = recipe()
    with pytest.raises(MMInterleavedError, match="step 1: the loss is nan"):
        train(run)
    (saved,) = Path(run.output).glob("diverged-step-000001.safetensors")
    from safetensors.torch import load_file

    assert {"batch.token_ids", "draw.noise"} <= set(load_file(saved))


def test_a_full_disk_leaves_a_run_that_can_be_resumed(recipe, monkeypatch):
    run = recipe()
    saved = []

    def full(number):
        if saved:
            raise OSError(28, "No space left on device")
        return real(number)

    real = os.fsync
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        train(run, on_event=lambda event: saved.append(event) if type(event).__name__ == "Saved" else None)
    monkeypatch.setattr(os, "fsync", real)
    whole = recipe("whole")
    train(whole)
    assert train(run).completed
    assert rows(run.output) == rows(whole.output)


def test_the_autoencoder_run_stores_statistics_that_travel_with_its_weights(recipe, monkeypatch):
    from mm_interleaved.training import parts

    monkeypatch.setattr(parts, "STATISTICS_PICTURES", 8)
    monkeypatch.setattr(parts, "STATISTICS_BATCH", 4)
    first = recipe("first", objective="autoencoder", trainable=["image_decoder.vae.*"], training={"steps": 2})
    finished = train(first)
    statistics = read_config(finished.final).image_decoder["vae"]
    assert len(statistics["latents_mean"]) == 4
    assert all(value > 0 for value in statistics["latents_std"])
    assert finished.measures["validation_psnr"] > 0
    second = recipe("second", init=[{"from": first.output, "parts": ["image_decoder.vae"]}])
    model = make_model(second)
    assert list(model.image_decoder.vae.config["latents_std"]) == statistics["latents_std"]
    source = load_model(finished.final).image_decoder.vae.state_dict()
    for name, value in model.image_decoder.vae.state_dict().items():
        assert torch.equal(value, source[name])
    side = model.image_decoder.latent_side
    latents = model.image_decoder.encode(torch.rand(2, 3, 32, 32), torch.zeros(2, 4, side, side))
    assert latents.isfinite().all()


def test_a_missing_or_unfit_init_run_is_refused(recipe):
    with pytest.raises(ConfigError, match="holds no finished run"):
        train(recipe("a", init=[{"from": "nowhere", "parts": ["visual_tokenizer"]}]))
    first = recipe("first", training={"steps": 1})
    train(first)
    init = [{"from": first.output, "parts": ["visual_tokenizer"]}]
    wider = recipe("b", init=init, model_changes={"vision_config": {"hidden_size": 32}})
    with pytest.raises(CheckpointError, match="visual_tokenizer"):
        make_model(wider)
    misnamed = recipe("c", init=[{"from": first.output, "parts": ["eye"]}])
    with pytest.raises(CheckpointError, match="eye"):
        make_model(misnamed)


def test_a_run_goes_on_from_a_trained_model(recipe):
    first = recipe("first", training={"steps": 1})
    final = train(first).final
    second = recipe("second", model=str(final), training={"steps": 1})
    events = []
    assert train(second, on_event=events.append).completed
    assert isinstance(events[0], Started)


def test_frozen_parts_stay_bit_equal_and_the_final_model_is_the_average(recipe):
    run = recipe(trainable=["image_decoder.unet.*"], training={"ema_decay": 0.5, "final_dtype": "bfloat16"})
    before = make_model(run).state_dict()
    final = train(run).final
    after = load_model(final, dtype=torch.float32).state_dict()
    changed = {name for name in before if not torch.equal(before[name].bfloat16(), after[name].bfloat16())}
    assert changed
    assert all(name.startswith("image_decoder.unet.") for name in changed)
    assert json.loads((final / "training.json").read_text())["step"] == 4


def test_sample_pages_are_made_by_the_injected_function(recipe):
    events = []

    def page(model, processor, step, folder):
        assert not model.training
        return folder / f"step-{step}.html"

    train(recipe(training={"steps": 4, "sample_every": 2}), on_event=events.append, sample_page=page)
    assert [event.step for event in events if isinstance(event, SamplesMade)] == [2, 4]


def test_every_objective_names_its_columns(recipe):
    plain = recipe()
    config = read_model_config(plain)
    corpus = make_corpus(plain, side=config.vision_config.image_size)
    processor = make_processor(plain, config, corpus.world)
    for name in ("documents", "words", "autoencoder", "vision"):
        objective = make_objective(name, make_model(plain), processor, corpus)
        terms = objective(objective.prepare(corpus, range(3)))
        assert set(terms.columns) == set(objective.columns)
        assert terms.total.requires_grad or name == "autoencoder"


def test_samples_that_are_not_painted_are_read_as_before(recipe):
    plain, few = recipe("all"), recipe("few", data={"painted": 0.5, "last_unread": 0.5})
    corpus, other = (make_corpus(run, side=16) for run in (plain, few))
    config = read_model_config(plain)
    objective = Documents(make_model(plain), make_processor(plain, config, corpus.world))
    painted = [other.is_painted(index) for index in range(200)]
    paints = sum(other.task_of(index) not in READING_TASKS for index in range(200))
    assert 0.3 * paints < sum(painted) < 0.7 * paints
    for index in range(12):
        batch, lesser = (objective.prepare(made, [index]).batch for made in (corpus, other))
        width = lesser.token_ids.shape[1]
        assert torch.equal(lesser.token_ids, batch.token_ids[:, :width])  # shorter where its last picture is not read
        assert torch.equal(lesser.targets[:, : width - 1], batch.targets[:, : width - 1])
        assert len(lesser.target_image) == (len(batch.target_image) if painted[index] else 0)
    batch = objective.prepare(other, [index for index in range(40) if not painted[index]])
    terms = objective(batch)
    terms.total.backward()
    assert terms.columns["image_loss"].isnan()
    assert objective.model.image_decoder.unet.conv_in.weight.grad is None


def test_samples_of_tokens_alone_are_read_as_by_a_model_without_synchronizers(recipe):
    run = recipe("alone", data={"tokens_alone": 0.5, "tasks": {"question": 1.0, "style": 1.0}})
    corpus, config = make_corpus(run, side=16), read_model_config(run)
    objective = Documents(make_model(run), make_processor(run, config, corpus.world)).eval()
    gates = [parameter for name, parameter in objective.model.named_parameters() if name.endswith(".gate")]
    for gate in gates:
        torch.nn.init.constant_(gate, 0.7)
    indices = range(12)
    alone = torch.tensor([corpus.reads_tokens_alone(index) for index in indices])
    assert 0 < alone.sum() < len(alone)
    for row_tokens in (None, 200):
        objective.row_tokens = row_tokens
        prepared = objective.prepare(corpus, indices)
        batch, synchronized = prepared.batch, prepared.synchronized
        assert synchronized is not None and synchronized.shape == (*batch.token_ids.shape, 1)
        features = objective.model.encode_images(batch.pixels)
        mixed = objective.model.read_batch(batch, features, synchronized=synchronized)
        opened = objective.model.read_batch(batch, features)
        with torch.no_grad():
            for gate in gates:
                gate.zero_()
            closed = objective.model.read_batch(batch, features)
            for gate in gates:
                gate.fill_(0.7)
        real = batch.document_index >= 0
        torch.testing.assert_close(mixed[real], torch.where(synchronized, opened, closed)[real], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(opened[real], closed[real], atol=1e-3)
    assert int((~synchronized[..., 0]).any(dim=1).sum()) > 0 and len(batch.token_ids) < 12  # several documents in a row
    assert objective.prepare(make_corpus(recipe("open"), side=16), [0]).synchronized is None


def test_a_run_with_more_words_takes_rows_over_by_their_text(recipe):
    first = recipe("first")
    train(first)
    more = {"vocabulary": TINY_VOCABULARY, "texts": 40, "tasks": ["caption", "tale"]}
    init = {"from": first.output, "parts": ["language_model"]}
    second = recipe("second", tokenizer=more, init=[init | {"rows": "by_text"}])
    config = read_model_config(second)
    now = make_processor(second, config, make_corpus(second, side=1).world)
    with pytest.raises(CheckpointError, match="rows: by_text"):
        make_model(recipe("refused", tokenizer=more, init=[init]), now)
    earlier = MMInterleavedProcessor.from_pretrained(str(Path(first.output) / "processor")).tokenizer
    before = load_model(Path(first.output) / "final").state_dict()["language_model.embed_tokens.weight"]
    after = make_model(second, now).state_dict()["language_model.embed_tokens.weight"]
    known, fresh = earlier.get_vocab(), now.tokenizer.get_vocab()
    assert set(fresh) - set(known)
    moved = [token for token in known if token in fresh and known[token] != fresh[token]]
    assert moved
    for token, place in fresh.items():
        pieces = [known[token]] if token in known else [piece.id for piece in earlier.backend_tokenizer.model.tokenize(token)]
        assert torch.allclose(after[place], before[pieces].mean(0)), token
