"""Pictures under the published protocol: by the release's sampler, and the candidate that a tiny CLIP of our own finds to fit best."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mm_interleaved.checkpoint.clip import Clip
from mm_interleaved.document import Document, Image
from mm_interleaved.errors import ConfigError
from mm_interleaved.evaluation.benchmark import evaluate_benchmark
from mm_interleaved.evaluation.candidates import ReleasedPainter
from mm_interleaved.evaluation.extractors import Extractor
from mm_interleaved.evaluation.painting import Instruments
from mm_interleaved.evaluation.tasks import TASKS
from mm_interleaved.evaluation.tasks.files import Files
from mm_interleaved.generation.published_options import TEXT_TO_IMAGE, PublishedImageOptions
from tests.evaluation.material import paint, save_clip, write

FEW = PublishedImageOptions(steps=2, guidance=3.5, candidates=3)
"""The release's settings with fewer steps and candidates."""

CAPTIONS = ("a small dog", "two boats at sea")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip(save_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture
def coco(tmp_path):
    names = [f"{number}.jpg" for number in range(len(CAPTIONS))]
    described = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": number, "caption": text} for number, text in enumerate(CAPTIONS)],
    }
    return Files(annotations=write(tmp_path / "captions_val2014.json", described), images=paint(tmp_path / "images", *names))


def test_the_candidate_that_fits_its_caption_best_is_kept(model, coco, clip, tmp_path):
    out = tmp_path / "out"
    task = replace(TASKS["coco_images"], image=FEW)
    report = evaluate_benchmark(model, task, coco, out, protocol="published", instruments=Instruments(clip=clip), seed=5)
    records = [json.loads(line) for line in (out / "samples.jsonl").read_text("utf-8").splitlines()[1:]]
    for record, caption in zip(records, CAPTIONS, strict=True):
        (about,) = record["outcome"]["made"]["about"]
        kept = Image.open(out / "pictures" / f"coco_images-{record['index']}-0.png")
        fit = float(clip.pictures([kept])[0] @ clip.captions([caption])[0])
        assert len(about["fits"]) == 3 and len(set(about["fits"])) == 3
        assert about["candidate"] == int(np.argmax(about["fits"]))
        assert fit == pytest.approx(max(about["fits"]), abs=1e-5)
    assert report["decoding"] == {"steps": 2, "guidance": 3.5, "candidates": 3, "first_seeds": 30_000, "chosen_by": "clip"}
    assert report["instruments"]["clip"] == clip.fingerprint and report["first_prompt"] == CAPTIONS[0]


def test_candidates_are_those_of_their_seeds_and_no_others(model, clip):
    document = Document(["a small dog"])
    three = ReleasedPainter(model, FEW, clip)
    picture, about = three(document, 30_007)  # the remainder is 7
    alone = [ReleasedPainter(model, replace(FEW, candidates=1), None)(document, 7 + number)[0] for number in range(3)]
    fits = clip.pictures(alone) @ clip.captions(["a small dog"])[0]
    assert about["fits"] == pytest.approx(fits.tolist(), abs=1e-3)  # painted side by side, in float32
    assert np.abs(picture.array().astype(int) - alone[about["candidate"]].array()).max() <= 2


def test_a_kill_and_a_resume_keep_the_same_candidates(model, coco, clip, tmp_path):
    task = replace(TASKS["coco_images"], image=FEW)
    options = {"protocol": "published", "instruments": Instruments(clip=clip)}
    evaluate_benchmark(model, task, coco, tmp_path / "one", **options)
    evaluate_benchmark(model, task, coco, tmp_path / "two", part=(1, 2), **options)
    evaluate_benchmark(model, task, coco, tmp_path / "two", **options)
    assert (tmp_path / "one" / "results.json").read_bytes() == (tmp_path / "two" / "results.json").read_bytes()


def test_released_settings_are_those_of_each_benchmark():
    assert TASKS["coco_images"].image == TEXT_TO_IMAGE == PublishedImageOptions(steps=250, guidance=3.5, candidates=8)
    assert TASKS["narratives_images"].image == PublishedImageOptions(steps=250, guidance=3.5, candidates=1)


def test_eight_candidates_without_a_clip_and_benchmarks_without_released_settings_are_refused(model, coco, extractor, tmp_path):
    features = Instruments(extractor=Extractor(extractor))
    with pytest.raises(ConfigError, match=r"painted 8 candidates of every picture of coco_images .* --clip FOLDER"):
        evaluate_benchmark(model, TASKS["coco_images"], coco, tmp_path / "out", protocol="published", instruments=features)
    with pytest.raises(ConfigError, match="without settings for painting vist"):
        evaluate_benchmark(model, TASKS["vist"], coco, tmp_path / "out", protocol="published", instruments=features)
    assert not (tmp_path / "out").exists()


def test_one_candidate_needs_no_clip(model, coco, extractor, tmp_path):
    task = replace(TASKS["coco_images"], image=replace(FEW, candidates=1))
    features = Instruments(extractor=Extractor(extractor))
    report = evaluate_benchmark(model, task, coco, tmp_path / "out", protocol="published", instruments=features)
    assert report["unmeasured"] == {"clip_score": "--clip"} and report["decoding"]["chosen_by"] is None
