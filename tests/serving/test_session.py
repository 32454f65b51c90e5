"""What one tab can do with its document, and what it is shown, without a browser."""

import threading

import pytest

from mm_interleaved.document import Document, Text
from mm_interleaved.errors import DocumentError, LayoutError, StorageError
from mm_interleaved.generation.events import Finished
from mm_interleaved.serving.drawing import shown
from mm_interleaved.serving.labels import LABELS
from tests.serving.conftest import DEMONSTRATIONS

LONG = 100_000
ONE = {"language": "en", "max_images": 1, "seed": 4}


@pytest.fixture
def session(desk):
    session = desk.session("one")
    session.set(**ONE)
    return session


def keys(session):
    return list(session.segments)


def texts(session):
    return [text.text.strip() for text in session.document.texts]


def written(session, *words):
    """Their keys."""
    for text in words:
        assert session.ask("add", text=text, pictures=[])
    return keys(session)


def finished(session, act, **given):
    """How a continuation ended that was asked for and waited for."""
    assert session.ask(act, **given)
    session._worker.join()
    return session.news


def test_words_and_pictures_come_in_the_order_they_were_added(session, picture):
    session.ask("add", text="a cat", pictures=[])
    session.ask("add", text="and this?", pictures=[str(picture)])
    assert [type(segment).__name__ for segment in session.document] == ["Text", "Image", "Text"]
    session.ask("up", key=keys(session)[1])
    assert [type(segment).__name__ for segment in session.document] == ["Image", "Text", "Text"]
    session.ask("remove", key=keys(session)[0])
    assert session.document.images == ()


def test_words_behind_words_begin_a_paragraph(session):
    written(session, "a cat", "a dog")
    assert [text.text for text in session.document.texts] == ["a cat", "\n\na dog"]


def test_a_broken_picture_changes_nothing_and_is_named_without_its_folder(session, tmp_path):
    written(session, "a cat")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no")
    assert not session.ask("add", text="more", pictures=[str(broken)])
    assert isinstance(session.news, DocumentError)
    assert "broken.png" in str(session.news) and str(tmp_path) not in str(session.news)
    assert session.document == Document(["a cat"])


def test_a_picture_that_was_not_uploaded_is_not_read(session, picture, tmp_path):
    session.desk.uploads = tmp_path / "elsewhere"
    assert not session.ask("add", text="a cat", pictures=[str(picture)])
    assert "was not uploaded here" in str(session.news)
    assert session.document == Document()


def test_a_segment_keeps_its_key_when_others_are_moved_removed_edited_and_added(session):
    cat, dog, tree = written(session, "a cat", "a dog", "a tree")
    assert session.ask("up", key=tree)
    assert session.ask("edit", key=tree, text="a fir")
    assert session.ask("remove", key=cat)
    assert session.ask("up", key=tree) and session.ask("up", key=tree)  # the first stays the first
    written(session, "a car")
    assert texts(session) == ["a fir", "a dog", "a car"]
    assert keys(session)[:2] == [tree, dog]
    assert keys(session)[2] not in (cat, dog, tree)
    for act in ("edit", "up", "remove", "from_here", "reroll"):
        assert not session.ask(act, key=cat, **({"text": "no"} if act == "edit" else {}))
        assert "no longer in the document" in str(session.news)


def test_an_edited_text_is_the_users(session):
    session.segments = {"1": Text("\n\na cat", "generated", (9, 10))}
    session.ask("edit", key="1", text="a cat")
    assert session.document[0].origin == "generated"
    session.ask("edit", key="1", text="a dog")
    assert session.document[0] == Text("\n\na dog")


def test_a_continuation_makes_the_document_grow_and_keeps_it(session, desk):
    ended = finished(session, "go_on", text="draw a cat.", pictures=[])
    assert ended.document == session.document
    assert len(session.document.images) == 1
    (draft,) = desk.drafts()
    assert Document.load(draft) == session.document
    other = desk.session("two")
    assert other.ask("begin", start=str(draft))
    assert other.document == session.document


def test_what_is_set_decides_the_continuation(session, model):
    session.ask("set", **{**ONE, "seed": 7, "guidance": 3})
    finished(session, "go_on", text="draw a cat.", pictures=[])
    assert model.asked["seed"] == 7 and model.asked["guidance"] == 3
    assert session.document.images[0].generation.seed == 7
    session.ask("set", **{**ONE, "seed": None})  # an empty field
    assert "seed" in str(finished(session, "go_on", text="", pictures=[]))


def test_words_of_the_model_go_on_growing_where_they_ended(session, model):
    finished(session, "go_on", text="draw a cat.", pictures=[])
    kinds = [type(segment).__name__ for segment in session.document]
    assert kinds == ["Text", "Image", "Text"]
    before, first = keys(session), session.document.texts[-1].text
    model.stream = lambda document, **options: type(model).__mro__[1].stream(model, document, **options | {"max_tokens": 2})
    finished(session, "go_on", text="", pictures=[])
    assert [type(segment).__name__ for segment in session.document][:3] == kinds
    assert session.document.texts[1].text.startswith(first) and session.document.texts[1].text != first
    assert keys(session)[:2] == before[:2]


def test_every_tab_and_every_document_has_a_draft_of_its_own(session, desk):
    other = desk.session("two")
    for tab, words in ((session, "a cat"), (other, "a dog")):
        written(tab, words)
        tab.keep()
        tab.keep()
    session.ask("begin", start="")
    written(session, "a tree")
    session.leave()
    assert [Document.load(draft)[0].text for draft in desk.drafts()] == ["a tree", "a dog", "a cat"]


def test_a_tab_finds_its_last_document_at_a_server_that_was_started_anew(session, desk, model):
    written(session, "a cat")
    session.ask("begin", start="")
    written(session, "a dog")
    session.leave()
    again = type(desk)(model, desk.folder)
    assert texts(again.session("one")) == ["a dog"]
    assert texts(again.session("two")) == []
    written(again.session("one"), "a tree")
    again.session("one").leave()
    assert len(desk.drafts()) == 2  # it goes on in the draft it came from
    desk.drafts()[0].write_bytes(b"broken")
    assert texts(type(desk)(model, desk.folder).session("one")) == []


def test_a_document_that_was_only_looked_at_is_no_draft(session, desk):
    session.begin(str(DEMONSTRATIONS[0]))
    session.begin("")
    assert desk.drafts() == []
    session.begin(str(DEMONSTRATIONS[0]))
    written(session, "and a cat")
    session.begin("")
    assert len(desk.drafts()) == 1


def test_only_what_is_offered_can_be_begun(session, tmp_path):
    Document(["secret"]).save(tmp_path / "other.json")
    for start in (tmp_path / "other.json", session.desk.folder / ".." / "other.json"):
        assert not session.ask("begin", start=str(start))
        assert "is not offered" in str(session.news)
    assert session.document == Document()


def test_a_hero_is_a_picture_between_words_that_hold_its_name(session, desk, picture):
    written(session, "a cat")
    finished(session, "begin_hero", text="in a castle", pictures=[str(picture)], name=" {Mo} ")
    assert [segment.text for segment in session.document.texts][:2] == ["this is {Mo}.", "tell a story about {Mo}.\n\nin a castle"]
    assert session.document[1].data == picture.read_bytes()
    assert "a cat" in [Document.load(draft)[0].text for draft in desk.drafts()]  # what stood here is kept


@pytest.mark.parametrize(("given", "name"), [(True, " "), (False, "Momo")])
def test_a_hero_without_picture_or_name_changes_nothing(given, name, session, picture):
    written(session, "a cat")
    assert not session.ask("begin_hero", text="", pictures=[str(picture)] if given else [], name=name)
    assert "a picture and a name" in str(session.news)
    assert session.document == Document(["a cat"])


def test_a_picture_is_drawn_again_with_the_next_seed_and_what_follows_is_dropped(session):
    finished(session, "go_on", text="draw a cat.", pictures=[])
    first, place = session.document.images[0], 1
    finished(session, "reroll", key=keys(session)[place])
    second = session.document.images[0]
    assert (first.generation.seed, second.generation.seed) == (4, 5)
    assert second.sha256 != first.sha256
    assert session.document.segments[:place] == (Text("draw a cat."),)


@pytest.fixture
def painting(session, model):
    """A session in the middle of a picture that would take very long."""
    model.steps, begun = LONG, threading.Event()
    model.begun = begun.set
    assert session.ask("go_on", text="draw a cat.", pictures=[])
    assert begun.wait(60)
    return session


def test_words_that_still_grow_are_no_segment_that_can_be_changed(painting):
    with painting.lock:
        painting.growing.tail = (Text("the", "generated"),)
        assert texts(painting) == ["draw a cat.", "the"]
        assert len(shown(painting)["segments"]) == 1
        assert "<p>the</p>" in shown(painting)["growing"]
    painting.stop()
    assert shown(painting)["growing"] == ""


def test_stopping_keeps_what_was_made_and_frees_the_model(painting, desk):
    assert not painting.ask("remove", key=keys(painting)[0])
    assert "stop it first" in str(painting.news)
    assert painting.ask("stop")
    assert painting.news.reason == "stopped"
    assert painting.document == Document(["draw a cat."])
    assert not desk.busy.locked()
    assert painting.ask("remove", key=keys(painting)[0])


def test_words_that_are_changed_while_the_model_works_are_changed_in_the_document(painting):
    (key,) = keys(painting)
    assert painting.ask("edit", key=key, text="draw a dog.")
    painting.stop()
    assert texts(painting) == ["draw a dog."]


def test_only_one_tab_is_continued_at_a_time_and_a_refusal_changes_nothing(painting, desk, model, picture):
    other = desk.session("two")
    assert not other.ask("go_on", text="a dog", pictures=[])
    assert not other.ask("begin_hero", text="", pictures=[str(picture)], name="Mo")
    assert "other tab" in str(other.news)
    assert other.document == Document()
    painting.leave()  # the browser goes away in the middle
    model.steps = 1
    assert finished(other, "go_on", text="a dog", pictures=[]).document.images
    assert desk.session("one").document == Document(["draw a cat."])


def test_an_empty_prompt_is_an_error_and_leaves_the_model_free(session, desk):
    error = finished(session, "go_on", text=" ", pictures=[])
    assert isinstance(error, LayoutError) and "empty prompt" in str(error)
    assert not session.running
    assert not desk.busy.locked()


def test_a_prompt_that_is_too_long_keeps_the_document(session):
    first, _ = written(session, "word " * 400, "more")
    before = session.document
    error = finished(session, "from_here", key=first)
    assert isinstance(error, LayoutError) and "at most 256" in str(error)
    assert session.document == before


def test_a_fault_in_the_middle_keeps_what_was_made(session, model, monkeypatch):
    def fail(self, *_, **__):
        raise ArithmeticError("no numbers")

    monkeypatch.setattr("mm_interleaved.generation.engine.TokenChooser.choose", fail)
    error = finished(session, "go_on", text="draw a cat.", pictures=[])
    assert isinstance(error, ArithmeticError)
    assert len(session.document.images) == 1
    assert "ArithmeticError" in shown(session)["told"] and "the document is kept" in shown(session)["told"]


def test_the_document_is_saved_in_three_forms_and_never_over_another(session, picture):
    session.ask("add", text="a cat", pictures=[str(picture)])
    session.ask("save")
    first = session.news
    assert [path.suffix for path in first] == [".html", ".md", ".json"]
    assert Document.load(first[1]) == Document.load(first[2]) == session.document
    assert all(path.name in shown(session)["told"] for path in first)
    written(session, "a dog")
    session.ask("save")  # within the same second
    assert len({*first, *session.news}) == 6
    assert len(Document.load(first[2])) == 2


def test_a_full_disk_is_an_error_and_the_document_stays(session, desk):
    written(session, "draw a cat.")
    desk.folder.write_bytes(b"a file where the folder should be")
    for act, given in (("save", {}), ("begin", {"start": ""})):  # what cannot be kept stays
        assert not session.ask(act, **given)
        assert isinstance(session.news, StorageError)
    assert session.document == Document(["draw a cat."])
    assert isinstance(finished(session, "go_on", text="", pictures=[]), StorageError)
    assert len(session.document.images) == 1
    assert not desk.busy.locked()
    session.leave()
    assert desk.session("one").document == session.document


def test_every_demonstration_can_be_begun(session):
    for start in DEMONSTRATIONS:
        session.begin(str(start))
        assert len(session.document)
    session.begin("")
    assert session.document == Document()


def test_a_refusal_is_told_until_something_else_is_done(session):
    (key,) = written(session, "a cat")
    assert not session.ask("edit", key="gone", text="a dog")
    assert session.ask("edit", key=key, text="a dog")
    assert "no longer in the document" in shown(session)["told"]
    assert isinstance(finished(session, "go_on", text="", pictures=[]), Finished)
    assert "role=" in shown(session)["told"] and "no longer" not in shown(session)["told"]
    written(session, "more")
    assert shown(session)["told"] == ""


def test_every_change_is_a_new_version_in_the_readers_language(session):
    versions = [session.version]
    (key,) = written(session, "a cat")
    for act, given in (("edit", {"key": key, "text": "a dog"}), ("set", {**ONE, "language": "zh"})):
        versions.append(session.version)
        session.ask(act, **given)
    assert len({*versions, session.version}) == 4
    assert "段落 1" in shown(session)["segments"][0]


def test_an_act_that_the_page_does_not_have_is_a_fault(session):
    for act in ("keep", "_begin", "ask"):
        assert not session.ask(act)
        assert isinstance(session.news, ValueError)


def test_every_label_is_there_in_both_languages():
    assert all(set(forms) == {"en", "zh"} and all(forms.values()) for forms in LABELS.values())
