"""Stories of several pictures on small files of the official forms: what is given, what is painted behind what, and what is refused."""

import numpy as np
import pytest

from mm_interleaved.checkpoint.clip import Clip
from mm_interleaved.document import Image, Text
from mm_interleaved.errors import DataError, LayoutError
from mm_interleaved.evaluation.benchmark import evaluate_benchmark
from mm_interleaved.evaluation.extractors import Extractor
from mm_interleaved.evaluation.painting import Instruments
from mm_interleaved.evaluation.tasks import TASKS
from mm_interleaved.evaluation.tasks.files import Files
from tests.evaluation.material import paint, save_clip, write

WORDS = ("We left early.", "The lake was calm.", "We swam.")
FAST = {"steps": 1, "guidance": 1.0}


def sentence(story, order, *, words=None):
    """One sentence of VIST, in a list of its own as in the official file."""
    text = WORDS[order] if words is None else words
    photo = str(10 * story + order)
    return [
        {
            "original_text": text,
            "text": text.lower(),
            "album_id": "72157",
            "photo_flickr_id": photo,
            "setting": "first-2-pick-and-tell",
            "story_id": str(story),
            "tier": "story-in-sequence",
            "worker_arranged_photo_order": order,
            "storylet_id": f"{story}{order}",
        }
    ]


@pytest.fixture
def vist(tmp_path):
    sentences = [sentence(story, order) for story in (1, 2) for order in (1, 0, 2)]
    names = [f"{10 * story + order}.jpg" for story in (1, 2) for order in range(3)]
    annotations = write(tmp_path / "test.story-in-sequence.json", {"images": [], "albums": [], "annotations": sentences})
    return Files(annotations=annotations, images=paint(tmp_path / "images", *names))


def frames(folder, name, *values):
    """A strip of even frames of 128 pixels, one below the other."""
    folder.mkdir(exist_ok=True)
    strip = np.concatenate([np.full((128, 128, 3), value, np.uint8) for value in values])
    (folder / name).write_bytes(Image.from_array(strip).data)


@pytest.fixture
def pororo(tmp_path):
    for place in range(4):
        frames(tmp_path / "images", f"{place}.png", *(40 * place + number for number in range(3)))
    stories = [
        {"texts": [f"Pororo waves {place}.", "Loopy laughs."], "images": [f"{2 * place}.png", f"{2 * place + 1}.png"]} for place in (0, 1)
    ]
    return Files(annotations=write(tmp_path / "test.jsonl", stories), images=tmp_path / "images")


def shown(document):
    return [segment.text if isinstance(segment, Text) else "picture" for segment in document]


def prompts(monkeypatch, model):
    """The documents that the model is asked to continue, as it is asked."""
    asked = []
    stream = type(model).stream

    def told(self, document, **options):
        asked.append((document, options["seed"]))
        return stream(self, document, **options)

    monkeypatch.setattr(type(model), "stream", told)
    return asked


def test_every_picture_of_a_story_is_painted_behind_those_painted_before_it(model, vist, tmp_path, extractor, monkeypatch):
    asked = prompts(monkeypatch, model)
    out = tmp_path / "out"
    report = evaluate_benchmark(model, TASKS["vist"], vist, out, instruments=Instruments(extractor=Extractor(extractor)), **FAST)
    first, second, third = (shown(document) for document, _ in asked[:3])
    assert first == [WORDS[0]]
    assert second == [WORDS[0], "picture", WORDS[1]]
    assert third == [WORDS[0], "picture", WORDS[1], "picture", WORDS[2]]
    painted = [Image.open(out / "pictures" / f"vist-0-{number}.png") for number in range(3)]
    assert [image.sha256 for image in asked[2][0].images] == [image.sha256 for image in painted[:2]]
    assert len(asked) == 6 and len({seed for _, seed in asked}) == 6
    assert {row["metric"] for row in report["results"]} == {"fid", "fid_64_published", "feature_similarity"}
    assert {row["n"] for row in report["results"]} == {2}


def test_the_last_picture_alone_is_painted_behind_the_true_ones(model, vist, tmp_path, extractor, monkeypatch):
    asked = prompts(monkeypatch, model)
    evaluate_benchmark(model, TASKS["vist_last"], vist, tmp_path / "out", instruments=Instruments(extractor=Extractor(extractor)), **FAST)
    assert len(asked) == 2
    true = [Image.open(vist.images / name) for name in ("10.jpg", "11.jpg")]
    assert [image.sha256 for image in asked[0][0].images] == [image.sha256 for image in true]
    assert shown(asked[0][0])[-1] == WORDS[2]


@pytest.mark.parametrize("name", ["pororo_sv", "flintstones_sv"])
def test_stories_of_strips_show_the_same_frame_in_every_run(name, pororo):
    first, again = (TASKS[name].read(pororo)[1] for _ in range(2))
    assert shown(first.prompt()) == ["Pororo waves 1."] and shown(first.rest()) == ["picture", "Loopy laughs.", "picture"]
    assert [image.size for image in first.rest().images] == [(128, 128)] * 2
    values = [image.array().flat[0] for image in first.rest().images]
    assert values == [image.array().flat[0] for image in again.rest().images]
    assert values[0] in (80, 81, 82) and values[1] in (120, 121, 122)


def test_frame_similarity_is_the_cosine_of_each_picture_with_its_own_true_one(model, pororo, tmp_path):
    """Worked again by hand from the pictures in the folder."""
    out = tmp_path / "out"
    clip = Clip(save_clip(tmp_path / "clip"))
    report = evaluate_benchmark(model, TASKS["pororo_sv"], pororo, out, instruments=Instruments(clip=clip), **FAST)
    (row,) = report["results"]
    stories = []
    for place, item in enumerate(TASKS["pororo_sv"].read(pororo)):
        painted = [Image.open(out / "pictures" / f"pororo_sv-{place}-{number}.png") for number in range(2)]
        pairs = zip(clip.pictures(painted), clip.pictures(item.rest().images), strict=True)
        stories.append(sum(float(np.dot(made, true)) for made, true in pairs) / 2)
    assert row["metric"] == "clip_similarity" and row["score"] == pytest.approx(sum(stories) / 2, abs=1e-12)
    assert row["low"] <= row["score"] <= row["high"] and row["blind"] is not None
    assert report["unmeasured"] == {"fid": "--extractor", "feature_similarity": "--extractor"}


def test_a_kill_and_a_resume_paint_the_same_stories(model, vist, tmp_path, extractor):
    options = {"instruments": Instruments(extractor=Extractor(extractor)), **FAST}
    evaluate_benchmark(model, TASKS["vist"], vist, tmp_path / "one", **options)
    evaluate_benchmark(model, TASKS["vist"], vist, tmp_path / "two", part=(1, 2), **options)
    evaluate_benchmark(model, TASKS["vist"], vist, tmp_path / "two", **options)
    assert (tmp_path / "one" / "results.json").read_bytes() == (tmp_path / "two" / "results.json").read_bytes()


def test_a_picture_that_was_not_painted_counts_nothing_and_makes_a_distance_impossible(model, pororo, tmp_path, extractor, monkeypatch):
    stream = type(model).stream

    def full(self, document, **options):
        if document.images and "1" in document.texts[0].text:
            raise LayoutError("the document does not fit")
        return stream(self, document, **options)

    monkeypatch.setattr(type(model), "stream", full)
    clip = Clip(save_clip(tmp_path / "clip"))
    seen = Instruments(clip=clip)
    report = evaluate_benchmark(model, TASKS["pororo_sv"], pororo, tmp_path / "out", instruments=seen, blind=False, **FAST)
    (row,) = report["results"]
    painted = Image.open(tmp_path / "out" / "pictures" / "pororo_sv-1-0.png")
    (true, _) = TASKS["pororo_sv"].read(pororo)[1].rest().images
    half = float(clip.pictures([painted])[0] @ clip.pictures([true])[0]) / 2
    low = evaluate_benchmark(model, TASKS["pororo_sv"], pororo, tmp_path / "whole", instruments=seen, count=1, **FAST)
    assert row["score"] == pytest.approx((low["results"][0]["score"] + half) / 2) and row["n"] == 2
    assert report["refused"] == {"1": "the document does not fit"}
    with pytest.raises(DataError, match="1 of 2 items could not be painted, first '1'"):
        evaluate_benchmark(
            model, TASKS["pororo_sv"], pororo, tmp_path / "fid", instruments=Instruments(extractor=Extractor(extractor)), **FAST
        )


def test_a_missing_photograph_is_found_before_anything_is_painted(model, vist, tmp_path, extractor, monkeypatch):
    asked = prompts(monkeypatch, model)
    (vist.images / "21.jpg").unlink()
    with pytest.raises(DataError, match=r"vist: 1 of the pictures of 2 items are missing, first .*21\.jpg"):
        evaluate_benchmark(model, TASKS["vist"], vist, tmp_path / "out", instruments=Instruments(extractor=Extractor(extractor)), **FAST)
    assert asked == []


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([sentence(1, 0), sentence(1, 2)], "places 0, 2; expected each from 0 once"),
        ([sentence(1, 0), sentence(1, 0)], "places 0, 0; expected each from 0 once"),
        ([sentence(1, 0), [{"text": "lost"}]], "a sentence without story_id"),
        ([], "holds no entry"),
    ],
)
def test_malformed_stories_are_refused_and_never_dropped(sentences, message, vist, tmp_path):
    write(vist.annotations, {"annotations": sentences})
    with pytest.raises(DataError, match=message):
        TASKS["vist"].read(vist)


def test_the_file_of_another_benchmark_is_refused(vist, pororo):
    with pytest.raises(DataError, match="expected 'texts' and 'images' of one length"):
        TASKS["pororo_sv"].read(Files(annotations=write(pororo.annotations, [{"story": 1}]), images=pororo.images))
    with pytest.raises(DataError, match="expected 'texts' and 'images' of one length"):
        TASKS["pororo_sv"].read(Files(annotations=write(pororo.annotations, [{"texts": ["a"], "images": []}]), images=pororo.images))
    with pytest.raises(DataError, match="list 'annotations'"):
        TASKS["vist"].read(Files(annotations=write(vist.annotations, {"images": []}), images=vist.images))


def test_a_strip_of_another_size_and_an_empty_sentence_are_refused(pororo, vist):
    (pororo.images / "3.png").write_bytes(Image.from_array(np.zeros((100, 128, 3), np.uint8)).data)
    with pytest.raises(DataError, match="no column of frames of 128 pixels"):
        TASKS["pororo_sv"].read(pororo)[1].prompt()
    write(vist.annotations, {"annotations": [sentence(1, 0, words="  ")]})
    with pytest.raises(DataError, match=r"story 1.*: a caption is empty"):
        TASKS["vist"].read(vist)[0].prompt()
