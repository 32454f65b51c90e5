"""`mmi page` and the end of `mmi demo`: when the page opens, and what is told instead."""

import socket

import pytest

from mm_interleaved.cli import demo as demo_verb
from mm_interleaved.cli import page as page_verb
from mm_interleaved.generation.scheduler import Scheduler
from tests.cli.conftest import assert_user_error


@pytest.fixture
def a_screen(monkeypatch):
    monkeypatch.setattr(demo_verb, "has_screen", lambda: True)
    monkeypatch.setattr(page_verb, "has_screen", lambda: True)


@pytest.fixture
def quick(monkeypatch):
    plain = Scheduler.add
    monkeypatch.setattr(Scheduler, "add", lambda self, *document, **options: plain(self, *document, **{**options, "max_tokens": 1}))


@pytest.fixture
def served(monkeypatch):
    """What would have been served."""
    calls = []
    monkeypatch.setattr(demo_verb, "serve", lambda model, out, taken, **options: calls.append((out, options)))
    return calls


def test_the_demo_opens_the_page_where_there_is_a_screen(mmi, model, tmp_path, a_screen, quick, served, monkeypatch):
    monkeypatch.setattr(demo_verb, "find_spec", lambda name: True)
    assert mmi("demo", "-o", tmp_path, "--model", model, "--steps", 1).exit_code == 0
    ((folder, options),) = served
    assert folder == tmp_path / "page"
    assert options["open_page"]
    for flag in ("--no-open", "--json"):
        assert mmi("demo", "-o", tmp_path, "--model", model, "--steps", 1, flag).exit_code == 0
    assert len(served) == 1


def test_the_demo_without_a_screen_or_without_gradio_ends_by_itself(mmi, model, tmp_path, quick, served, monkeypatch):
    assert mmi("demo", "-o", tmp_path, "--model", model, "--steps", 1).exit_code == 0
    opened = []
    monkeypatch.setattr(demo_verb, "has_screen", lambda: True)
    monkeypatch.setattr(demo_verb, "find_spec", lambda name: None)
    monkeypatch.setattr(demo_verb.webbrowser, "open", opened.append)
    run = mmi("demo", "-o", tmp_path, "--model", model, "--steps", 1)
    assert "mm-interleaved[page]" in run.stdout
    assert opened == [(tmp_path / "story.html").resolve().as_uri()]
    assert served == []


def test_the_page_without_gradio_says_what_to_install(mmi, monkeypatch):
    monkeypatch.setattr(page_verb, "find_spec", lambda name: None)
    assert_user_error(mmi("page"), "pip install 'mm-interleaved[page]'")


def test_a_port_that_is_taken_is_named_before_the_model_is_loaded(mmi, model, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    monkeypatch.setattr(page_verb, "load_quietly", lambda *_: pytest.fail("the model was loaded"))
    with socket.socket() as taken:
        taken.bind((page_verb.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_user_error(mmi("page", "-o", tmp_path, "--model", model, "--port", port, "--no-open"), "--port", str(port))


def test_an_unknown_language_is_named(mmi):
    assert_user_error(mmi("page", "--language", "fr"), "en or zh", "fr")
