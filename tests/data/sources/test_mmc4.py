import zipfile

from tests.data.sources.conftest import zipped


def page(*sims, texts=("One.", "Two.", "Three."), **changes):
    info = [{"image_name": f"{index}.png", "matched_text_index": index % len(texts), "matched_sim": sim} for index, sim in enumerate(sims)]
    return {
        "url": "http://a",
        "text_list": list(texts),
        "image_info": info,
        "similarity_matrix": [[0.1] * len(texts)] * len(sims),
    } | changes


SHARD = "docs_shard_0_v2.jsonl.zip"


def test_pictures_stand_before_or_after_their_sentence_without_spaces(read, tmp_path):
    file = zipped(tmp_path / SHARD, *[page(0.3, 0.1, 0.24)] * 60)
    found = {str(shape) for shape in read("mmc4", file).shapes}
    # Picture 1 is too dissimilar; 0.24 itself is enough.
    assert found == {
        str(shape)
        for shape in (
            [0, "One. Two.", 2, "Three."],
            [0, "One. Two. Three.", 2],
            ["One.", 0, "Two.", 2, "Three."],
            ["One.", 0, "Two. Three.", 2],
        )
    }


def test_everything_is_trained_and_nothing_lower_cased(read, tmp_path):
    (example, *_) = read("mmc4", zipped(tmp_path / SHARD, page(0.3, 0.3))).examples
    assert example.prompt == 0
    assert "One." in "".join(segment.text for segment in example.document.texts)


def test_at_most_six_pictures_are_kept_and_they_are_drawn_at_random(read, tmp_path):
    reading = read("mmc4", zipped(tmp_path / SHARD, *[page(*[0.3] * 9)] * 40))
    numbers = [tuple(part for part in shape if isinstance(part, int)) for shape in reading.shapes]
    assert {len(chosen) for chosen in numbers} == {6}
    assert set().union(*numbers) == set(range(9))


def test_half_of_the_documents_with_one_picture_are_dropped_and_counted(read, tmp_path):
    reading = read("mmc4", zipped(tmp_path / SHARD, *[page(0.3)] * 200))
    assert 70 < reading.reasons["left out by rule"] < 130
    assert len(reading.examples) == 200 - reading.reasons["left out by rule"]


def test_pictures_that_do_not_open_are_counted_and_the_others_used(read, tmp_path):
    broken = page(0.3, 0.3, 0.3)
    broken["image_info"][0]["image_name"] = "page.png"
    broken["image_info"][1]["image_name"] = "nowhere.png"
    reading = read("mmc4", zipped(tmp_path / SHARD, broken), drop_single=0.0)
    assert [part for part in reading.shapes[0] if isinstance(part, int)] == [2]
    assert reading.reasons == {"broken image": 1, "missing image": 1}


def test_malformed_pages_are_counted(read, tmp_path):
    file = zipped(
        tmp_path / SHARD,
        page(0.1, 0.2),
        page(0.3, text_list="One."),
        page(0.3, image_info=None),
        page(0.3, image_info=[{"image_name": "0.png", "matched_text_index": 0}]),
        page(0.3, image_info=[{"image_name": "0.png", "matched_text_index": 9, "matched_sim": 0.3}]),
    )
    assert read("mmc4", file).reasons == {"wrong fields": 4, "no image left": 2}


def test_a_truncated_zip_is_counted(read, tmp_path):
    file = zipped(tmp_path / SHARD, *[page(0.3, 0.3)] * 5)
    file.write_bytes(file.read_bytes()[:-30])
    assert read("mmc4", file).reasons == {"not readable": 1}


def test_a_zip_with_a_damaged_member_gives_the_pages_before_it(read, tmp_path):
    file = tmp_path / SHARD
    pages = [page(0.3, 0.3, texts=(f"{number} {'x' * 4000}.", "Two.", "Three.")) for number in range(60)]
    with zipfile.ZipFile(file, "w") as archive:
        import json

        archive.writestr("docs_shard_0_v2.jsonl", "".join(json.dumps(entry) + "\n" for entry in pages))
    content = bytearray(file.read_bytes())
    place = content.rfind(b"59 xxx")
    content[place + 50] ^= 1  # the sum no longer fits
    file.write_bytes(content)
    reading = read("mmc4", file)
    assert reading.reasons["not readable"] == 1
    assert len(reading.examples) > 40
