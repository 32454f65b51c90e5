"""OBELICS, conversations and Markdown: whole documents."""

import json

import fsspec
import pytest
from tests.data.sources.conftest import lines, parquet, picture_bytes

from mm_interleaved.errors import DataError

PAGE = {
    "texts": [None, "A paragraph.\n\n", None, "The end."],
    "images": ["1.png", None, "2.png", None],
    "metadata": "[]",
    "general_metadata": "{}",
}


def test_obelics_reads_parquet_json_and_json_lines_alike(read, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([PAGE]))
    for file in (parquet(tmp_path / "a.parquet", [PAGE]), lines(tmp_path / "a.jsonl", PAGE), tmp_path / "a.json"):
        reading = read("obelics", file)
        assert reading.shapes == [[1, "A paragraph.\n\n", 2, "The end."]]
        assert reading.examples[0].prompt == 0


def test_an_obelics_picture_that_is_missing_joins_its_neighbours(read, tmp_path):
    file = lines(tmp_path / "a.jsonl", PAGE | {"images": ["1.png", None, "nowhere.png", None]})
    reading = read("obelics", file)
    assert reading.shapes == [[1, "A paragraph.\n\nThe end."]]
    assert reading.reasons == {"missing image": 1}


def test_malformed_obelics_pages_are_counted(read, tmp_path):
    file = lines(
        tmp_path / "a.jsonl",
        PAGE | {"images": ["1.png"]},
        PAGE | {"images": ["1.png", "2.png", "2.png", None]},
        PAGE | {"texts": [None, None, None, None]},
        {"texts": "A", "images": None},
        {"texts": ["only words"], "images": [None]},
        {"texts": [None], "images": ["https://example.org/a.jpg"]},
    )
    assert read("obelics", file).reasons == {"wrong fields": 4, "no image left": 2, "missing image": 1}


TALK = {
    "id": "7",
    "image": "4.png",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "What colour?"},
        {"from": "gpt", "value": "Blue."},
    ],
}


def test_llava_conversations_become_single_rounds(read, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([TALK]))
    reading = read("llava", tmp_path / "a.json")
    assert reading.shapes == [[4, "What is this?", " A cat."], [4, "What colour?", " Blue."]]
    assert [example.prompt for example in reading.examples] == [2, 2]


def test_llava_keeps_the_history_on_request(read, tmp_path):
    reading = read("llava", lines(tmp_path / "a.jsonl", TALK), history=True)
    assert reading.shapes[1] == [4, "What is this? A cat.\nWhat colour?", " Blue."]
    assert reading.examples[1].prompt == 2


def test_malformed_conversations_are_counted(read, tmp_path):
    turns = TALK["conversations"]
    file = lines(
        tmp_path / "a.jsonl",
        TALK | {"conversations": turns[:1]},
        TALK | {"conversations": turns[1:3]},
        TALK | {"conversations": []},
        TALK | {"image": "nowhere.png"},
        TALK | {"image": None},
        TALK | {"conversations": [turns[0], {"from": "gpt", "value": ""}]},
        {"id": 1},
    )
    assert read("llava", file).reasons == {"wrong fields": 6, "missing image": 2, "no text": 1}


CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": "5.png"}, {"type": "text", "text": "Draw its friend."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Here:"}, {"type": "image", "image": "6.png"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "7.png"}}]},
        {"role": "assistant", "content": "A third."},
    ]
}


def test_every_answer_of_a_chat_is_trained_after_what_was_said_before(read, tmp_path):
    reading = read("messages", lines(tmp_path / "a.jsonl", CHAT))
    assert reading.shapes == [
        ["Be brief.\n", 5, "Draw its friend.", "\nHere:", 6],
        ["Be brief.\n", 5, "Draw its friend.\nHere:", 6, 7, "A third."],
    ]
    assert [example.prompt for example in reading.examples] == [3, 5]


def test_malformed_chats_are_counted(read, tmp_path):
    file = lines(
        tmp_path / "a.jsonl",
        {"messages": [{"role": "user", "content": "Hello?"}]},
        {"messages": "Hello?"},
        {"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "cut.png"}]}, {"role": "assistant", "content": "a"}]},
    )
    assert read("messages", file).reasons == {"wrong fields": 4, "broken image": 1, "no text": 1}


def test_a_folder_of_markdown_is_a_corpus(read, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "cat.png").write_bytes(picture_bytes(9))
    (folder / "a.md").write_text("My cat.\n\n![](cat.png)\n")
    (folder / "b.md").write_text("Draw my cat.\n\n<!-- answer -->\n![](cat.png)\n")
    (folder / "c.md").write_text("![](nowhere.png)\n")
    (folder / "d.md").write_text("Only given.\n\n<!-- answer -->\n")
    reading = read("markdown", folder)
    assert reading.shapes == [["My cat.", 9], ["Draw my cat.", 9]]
    assert [example.prompt for example in reading.examples] == [0, 1]
    assert reading.reasons == {"missing image": 1, "no text": 1}


def test_markdown_is_read_from_any_file_system(read):
    memory = fsspec.filesystem("memory")
    memory.pipe("/pages/a.md", b"My cat.\n\n![](img/cat.png)\n")
    memory.pipe("/pages/img/cat.png", picture_bytes(9))
    assert read("markdown", "memory://pages").shapes == [["My cat.", 9]]


def test_a_folder_without_markdown_is_refused(read, images):
    with pytest.raises(DataError, match="no Markdown"):
        read("markdown", images)
