"""What the page asks of a tab, and what it is shown, without a browser."""

import pytest

from mm_interleaved.document import Document
from mm_interleaved.serving.tab import Tab
from tests.serving.conftest import DEMONSTRATIONS

OPTIONS = {"pictures": 1, "seed": 0, "steps": 1, "guidance": 2, "temperature": 0}


@pytest.fixture
def tab(desk, tmp_path):
    return Tab(desk.session("one"), "en", tmp_path)


def composed(text, *files):
    return {"text": text, "files": [{"path": str(file)} for file in files]}


def told(tab):
    return tab.shown()[2]


def test_a_refusal_stays_until_the_next_answer_or_the_end_of_a_continuation(tab):
    assert tab.ask({"act": "add", "composed": composed("a cat")})
    (key,) = (key for key, _ in tab.session.keyed())
    assert not tab.ask({"act": "edit", "key": key + 1, "text": "a dog"})
    assert "no longer in the document" in told(tab)
    assert tab.ask({"act": "edit", "key": str(key), "text": "a dog"})
    assert "no longer in the document" in told(tab)
    assert tab.ask({"act": "continue", "composed": None, "options": OPTIONS})
    tab.session.wait()
    assert "no longer in the document" not in told(tab)
    assert "role=" in told(tab)
    assert tab.ask({"act": "add", "composed": composed("more")})
    assert "role=" not in told(tab)


def test_a_picture_that_was_not_uploaded_is_not_read(tab, picture, desk):
    elsewhere = Tab(tab.session, "en", desk.folder)
    assert not elsewhere.ask({"act": "add", "composed": composed("a cat", picture)})
    assert "was not uploaded here" in told(elsewhere)
    assert tab.session.document == Document()


def test_only_what_is_offered_can_be_begun(tab, tmp_path):
    Document(["secret"]).save(tmp_path / "other.json")
    assert not tab.ask({"act": "begin", "start": str(tmp_path / "other.json")})
    assert "is not offered" in told(tab)
    assert tab.ask({"act": "begin", "start": str(DEMONSTRATIONS[0])})
    assert len(tab.session.document)


def test_every_change_is_a_new_moment(tab):
    moments = [tab.moment()]
    tab.ask({"act": "add", "composed": composed("a cat")})
    moments.append(tab.moment())
    tab.ask({"act": "edit", "key": 0, "text": "a dog"})
    moments.append(tab.moment())
    tab.language = "zh"
    moments.append(tab.moment())
    assert len(set(moments)) == len(moments)
    assert tab.moment() == moments[-1]


def test_a_fault_is_told_and_the_document_stays(tab, monkeypatch):
    tab.ask({"act": "add", "composed": composed("a cat")})
    monkeypatch.setattr(tab.session, "save", lambda: 1 / 0)
    assert not tab.ask({"act": "save"})
    assert "ZeroDivisionError" in told(tab)
    assert tab.session.document == Document(["a cat"])
