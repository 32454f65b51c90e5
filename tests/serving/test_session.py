"""What one tab can do with its document, without the page."""

import threading

import pytest

from mm_interleaved.document import Document, Text
from mm_interleaved.errors import DocumentError, GenerationError, LayoutError, StorageError
from mm_interleaved.serving.labels import LABELS
from tests.serving.conftest import DEMONSTRATIONS

LONG = 100_000

HERO = ("this is {name}.", "tell a story about {name}.")


@pytest.fixture
def session(desk):
    return desk.session("one")


def test_words_and_pictures_come_in_the_order_they_were_added(session, picture):
    session.add("a cat", [])
    session.add("and this?", [str(picture)])
    kinds = [type(segment).__name__ for segment in session.document]
    assert kinds == ["Text", "Image", "Text"]
    session.up(1)
    assert [type(segment).__name__ for segment in session.document] == ["Image", "Text", "Text"]
    session.remove(0)
    assert session.document.images == ()


def test_a_broken_picture_changes_nothing_and_is_named(session, tmp_path):
    session.add("a cat", [])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no")
    with pytest.raises(DocumentError, match=r"broken\.png"):
        session.add("more", [str(broken)])
    assert session.document == Document(["a cat"])


def test_a_segment_keeps_its_key_when_others_are_moved_removed_edited_and_added(session):
    session.document = Document(["a cat", "a dog", "a tree"])
    cat, dog, tree = (key for key, _ in session.keyed())
    session.up(2)
    session.edit(session.place(tree), "a fir")
    session.remove(session.place(cat))
    session.add("a car", [])
    assert [text.text for text in session.document.texts][:2] == ["a fir", "a dog"]
    assert (session.place(tree), session.place(dog)) == (0, 1)
    assert session.keyed()[2][0] not in (cat, dog, tree)
    with pytest.raises(DocumentError, match="no longer in the document"):
        session.place(cat)


def test_an_edited_text_is_the_users(session):
    session.document = Document([Text("\n\na cat", "generated", (9, 10))])
    session.edit(0, "a cat")
    assert session.document[0].origin == "generated"
    session.edit(0, "a dog")
    assert session.document[0] == Text("\n\na dog")


def test_a_continuation_makes_the_document_grow_and_keeps_it(session, desk):
    session.add("draw a cat.", [])
    session.start(max_images=1)
    assert session.wait().document == session.document
    assert len(session.document.images) == 1
    (draft,) = desk.drafts()
    assert Document.load(draft) == session.document
    other = desk.session("two")
    other.begin(draft)
    assert other.document == session.document


def test_every_tab_and_every_document_has_a_draft_of_its_own(session, desk):
    other = desk.session("two")
    for tab, words in ((session, "a cat"), (other, "a dog")):
        tab.add(words, [])
        tab.keep()
        tab.keep()
    session.begin(None)
    session.add("a tree", [])
    desk.leave("one")
    assert [Document.load(draft)[0].text for draft in desk.drafts()] == ["a tree", "a dog", "a cat"]


def test_a_document_that_was_only_looked_at_is_no_draft(session, desk):
    session.begin(DEMONSTRATIONS[0])
    session.begin(None)
    assert desk.drafts() == []
    session.begin(DEMONSTRATIONS[0])
    session.add("and a cat", [])
    session.begin(None)
    assert len(desk.drafts()) == 1


def test_a_hero_is_a_picture_between_words_that_hold_its_name(session, desk, picture):
    session.add("a cat", [])
    session.begin_hero(str(picture), " {Mo} ", HERO)
    assert [segment.text for segment in session.document.texts] == ["this is {Mo}.", "tell a story about {Mo}."]
    assert session.document[1].data == picture.read_bytes()
    assert Document.load(desk.drafts()[0])[0].text == "a cat"  # what stood here is kept


@pytest.mark.parametrize(("given", "name"), [(True, " "), (False, "Momo")])
def test_a_hero_without_picture_or_name_changes_nothing(given, name, session, picture):
    session.add("a cat", [])
    with pytest.raises(DocumentError, match="a picture and a name"):
        session.begin_hero(str(picture) if given else None, name, HERO)
    assert session.document == Document(["a cat"])


def test_a_picture_is_drawn_again_with_the_next_seed_and_what_follows_is_dropped(session):
    session.add("draw a cat.", [])
    session.start(max_images=1, seed=4)
    session.wait()
    first = session.document.images[0]
    place = session.document.segments.index(first)
    session.start(until=place, max_images=1, seed=session.seed_of_next_roll(place))
    session.wait()
    second = session.document.images[0]
    assert second.generation.seed == 5
    assert second.sha256 != first.sha256
    assert session.document.segments[:place] == (Text("draw a cat."),)


@pytest.fixture
def painting(session, model):
    """A session in the middle of a picture that would take very long."""
    session.add("draw a cat.", [])
    model.steps, begun = LONG, threading.Event()
    model.begun = begun.set
    session.start(max_images=1)
    assert begun.wait(60)
    return session


def test_words_that_still_grow_are_not_among_the_whole_segments(painting):
    with painting.lock:
        painting.document = Document((*painting.document, Text("the", "generated")))
        assert painting.whole == (Text("draw a cat."),)
    painting.stop()
    assert painting.whole == painting.wait().document.segments


def test_stopping_keeps_what_was_made_and_frees_the_model(painting):
    with pytest.raises(GenerationError, match="stop it first"):
        painting.edit(0, "a dog")
    painting.stop()
    assert painting.wait().reason == "stopped"
    assert painting.document == Document(["draw a cat."])
    painting.edit(0, "a dog")


def test_only_one_tab_is_continued_at_a_time(painting, desk, model):
    other = desk.session("two")
    other.add("a dog", [])
    with pytest.raises(GenerationError, match="other tab"):
        other.start()
    desk.leave("one")  # the browser goes away in the middle
    model.steps = 1
    other.start(max_images=1)
    assert other.wait().document.images
    assert desk.session("one").document == Document()


def test_an_empty_prompt_is_an_error_and_leaves_the_model_free(session, desk):
    session.start()
    with pytest.raises(LayoutError, match="empty prompt"):
        session.wait()
    assert not session.running
    assert not desk.busy.locked()


def test_a_prompt_that_is_too_long_keeps_the_document(session):
    session.add("word " * 400, [])
    before = session.document
    session.start(until=1)
    with pytest.raises(LayoutError, match="at most 256"):
        session.wait()
    assert session.document == before


def test_the_document_is_saved_in_three_forms(session, picture):
    session.add("a cat", [str(picture)])
    files = session.save()
    assert [path.suffix for path in files] == [".html", ".md", ".json"]
    assert Document.load(files[1]) == Document.load(files[2]) == session.document


def test_a_full_disk_is_an_error_and_the_document_stays(session, desk):
    session.add("draw a cat.", [])
    desk.folder.write_bytes(b"a file where the folder should be")
    with pytest.raises(StorageError):
        session.save()
    with pytest.raises(StorageError):
        session.begin(None)  # it could not be kept, so it stays
    assert session.document == Document(["draw a cat."])
    session.start(max_images=1)
    with pytest.raises(StorageError):
        session.wait()
    assert len(session.document.images) == 1
    assert not desk.busy.locked()


def test_every_demonstration_can_be_begun(session):
    for start in DEMONSTRATIONS:
        session.begin(start)
        assert len(session.document)
    session.begin(None)
    assert session.document == Document()


def test_every_label_is_there_in_both_languages():
    assert all(set(forms) == {"en", "zh"} and all(forms.values()) for forms in LABELS.values())
