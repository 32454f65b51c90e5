import fsspec
import pytest
from tests.data.sources.conftest import lines, parquet, picture_bytes, tarred

from mm_interleaved.errors import ConfigError, DataError

PAIR = {"image": "3.png", "caption": "A Dog on a beach"}


def test_every_container_gives_the_same_pair(read, tmp_path):
    forms = {
        "jsonl": lines(tmp_path / "a.jsonl", PAIR),
        "published txt": lines(tmp_path / "0000001.txt", PAIR),
        "tar": tarred(tmp_path / "a.tar", ("000.png", picture_bytes(3)), ("000.txt", b"A Dog on a beach")),
        "tar with json": tarred(tmp_path / "b.tar", ("x/0.json", b'{"caption": "A Dog on a beach"}'), ("x/0.png", picture_bytes(3))),
        "parquet of names": parquet(tmp_path / "a.parquet", [PAIR]),
        "parquet of pictures": parquet(
            tmp_path / "b.parquet", [{"image": {"bytes": picture_bytes(3), "path": None}, "TEXT": "A Dog on a beach"}]
        ),
    }
    for name, file in forms.items():
        reading = read("laion", file, image_first=1.0)
        assert reading.shapes == [[3, "a dog on a beach"]], name
        assert reading.reasons == {}, name


def test_half_of_the_pairs_begin_with_the_picture_and_leading_words_are_trained_in_captions_only(read, tmp_path):
    file = lines(tmp_path / "a.jsonl", *[PAIR] * 200)
    laion, captions = read("laion", file), read("captions", file)
    first = [shape[0] == 3 for shape in laion.shapes]
    assert 70 < sum(first) < 130
    assert [example.prompt for example in laion.examples] == [0 if picture else 1 for picture in first]
    assert {example.prompt for example in captions.examples} == {0}


def test_one_of_several_captions_is_drawn(read, tmp_path):
    reading = read("captions", lines(tmp_path / "a.jsonl", *[PAIR | {"caption": ["one", "two"]}] * 50), image_first=1.0)
    assert {shape[1] for shape in reading.shapes} == {"one", "two"}


def test_every_malformed_line_is_counted_by_its_reason(read, tmp_path):
    file = lines(
        tmp_path / "0000001.txt",
        "{'image': '3.png', 'caption': 'python, not JSON'}",
        "[1, 2]",
        {"image": "3.png"},
        {"image": "3.png", "caption": 7},
        {"image": "3.png", "caption": "  "},
        {"image": "nowhere.png", "caption": "a"},
        {"image": "page.png", "caption": "a"},
        {"image": "cut.png", "caption": "a"},
        {"image": "../images/3.png", "caption": "a"},
        {"image": "https://example.org/3.png", "caption": "a"},
        {"image": "data:image/png;base64,%%%", "caption": "a"},
        PAIR,
    )
    reading = read("captions", file)
    assert len(reading.examples) == 1
    assert reading.reasons == {
        "broken image": 3,
        "wrong fields": 3,
        "missing image": 2,
        "no text": 1,
        "not JSON": 1,
        "unsafe path": 1,
    }
    entries = {entry["place"]: entry["detail"] for entry in reading.skips.entries}
    assert "Python literal" in entries[f"{file}:1"]
    assert "web page" in entries[f"{file}:7"]
    assert "fetch: true" in entries[f"{file}:10"]


@pytest.mark.parametrize("kept", [0.4, 0.75, 0.9])
def test_a_truncated_tar_gives_what_is_whole_and_counts_the_rest(read, tmp_path, kept):
    members = [
        (f"{number}.{ending}", content) for number in range(6) for ending, content in (("png", picture_bytes(number)), ("txt", b"a"))
    ]
    whole = tarred(tmp_path / "a.tar", *members).read_bytes()
    size = 6 * 2 * 1024  # two members of a header and one block each
    (tmp_path / "a.tar").write_bytes(whole[: int(size * kept)])
    reading = read("captions", tmp_path / "a.tar", image_first=1.0)
    assert reading.shapes[:2] == [[0, "a"], [1, "a"]] and len(reading.examples) < 6
    assert reading.reasons["not readable"] == 1


def test_a_tar_cut_exactly_between_two_samples_is_noticed(read, tmp_path):
    members = [("0.png", picture_bytes(0)), ("0.txt", b"a" * 512), ("1.png", picture_bytes(1)), ("1.txt", b"a" * 512)]
    whole = tarred(tmp_path / "a.tar", *members).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 2 * 1024])
    reading = read("captions", tmp_path / "a.tar", image_first=1.0)
    assert len(reading.examples) == 1
    assert "cut short" in reading.skips.entries[0]["detail"]


def test_a_broken_parquet_and_a_shard_that_is_gone_are_counted(read, tmp_path):
    file = parquet(tmp_path / "a.parquet", [PAIR])
    file.write_bytes(file.read_bytes()[:-20])
    assert read("captions", file).reasons == {"not readable": 1}
    assert read("captions", "memory://nowhere/x.jsonl").reasons == {"not readable": 1}


def test_files_and_pictures_are_read_from_any_file_system(read):
    memory = fsspec.filesystem("memory")
    memory.pipe("/shards/part-0.jsonl", b'{"image": "a.png", "caption": "one"}\n')
    memory.pipe("/shards/part-1.jsonl", b'{"image": "a.png", "caption": "two"}\n')
    memory.pipe("/pictures/a.png", picture_bytes(8))
    expected = [[8, "one"], [8, "two"]]
    for pattern in ("memory://shards/part-{0..1}.jsonl", "memory://shards/*.jsonl", "memory://shards"):
        assert read("captions", pattern, images="memory://pictures", image_first=1.0).shapes == expected


def test_a_name_that_says_nothing_and_a_file_named_twice_are_refused(read, tmp_path):
    file = lines(tmp_path / "a.jsonl", PAIR)
    with pytest.raises(DataError, match="names no file"):
        read("captions", tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="named twice"):
        read("captions", file, tmp_path / "*.jsonl")
    with pytest.raises(DataError, match=r"expected one of \.jsonl"):
        read("captions", lines(tmp_path / "a.csv", PAIR))
    with pytest.raises(ConfigError, match="the nearest is 'image_first'"):
        read("captions", file, image_frist=1.0)
    with pytest.raises(ConfigError, match="the nearest is 'laion'"):
        read("laoin", file)
    with pytest.raises(ConfigError, match="a share from 0 to 1"):
        read("captions", file, image_first=2.0)
