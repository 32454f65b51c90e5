"""The page in a real browser: type, paste, generate, stop, edit, draw again, save, print; and what goes wrong."""

import base64
import errno
import os
import shutil
import struct
import threading
import time
import zlib

import pytest

pytest.importorskip("gradio", reason="the page needs Gradio (pip install 'mm-interleaved[page]')")
pytest.importorskip("playwright", reason="the browser is driven by playwright (pip install playwright)")
import uvicorn
from playwright.sync_api import Error, expect, sync_playwright

from mm_interleaved.cli.page import bind
from mm_interleaved.document import Document
from mm_interleaved.export import files
from mm_interleaved.picture_file import MAX_BYTES
from mm_interleaved.serving import page as page_module
from mm_interleaved.serving.labels import LABELS
from mm_interleaved.serving.page import app
from mm_interleaved.serving.session import Desk
from tests.serving.conftest import Eager

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
SECONDS = 60
"""For one expectation: the machine may be busy."""
LONG = 100_000
"""Steps of a picture that is not finished before the test stops it."""
ENDINGS = tuple(LABELS[reason]["en"] for reason in ("end", "max_images", "max_tokens", "context_full"))
PASTE = """(box, encoded) => {
  const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0)), held = new DataTransfer();
  held.items.add(new File([bytes], "cat.png", {type: "image/png"}));
  box.dispatchEvent(new ClipboardEvent("paste", {clipboardData: held, bubbles: true, cancelable: true}));
}"""
AT_ONCE = """() => {
  const [, , , car] = document.querySelectorAll(".segment"), press = (at, act) =>
    document.querySelectorAll(".segment")[at].querySelector(`[data-act=${act}]`).click();
  press(0, "remove"), press(1, "remove"), press(3, "up");
  const box = car.querySelector("textarea");
  box.value = "a red car";
  box.dispatchEvent(new Event("input", {bubbles: true}));
}"""
"""Two removals, a move and an edit in one go, all in the page as it stands."""
PHONE = {"width": 390, "height": 844}


class Served:
    """The page of a desk, served until `end`; `anew` serves another desk in its place."""

    def __init__(self, desk, port=0):
        self.desk, taken = desk, bind(port)
        self.port = taken.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app(desk), log_level="warning", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [taken]}, daemon=True)
        self.thread.start()

    def end(self):
        for session in self.desk.sessions.values():
            session.leave()
        self.server.should_exit = True
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()

    def anew(self, desk):
        self.__init__(desk, self.port)


@pytest.fixture
def served(desk):
    served = Served(desk)
    yield served
    served.end()


@pytest.fixture
def address(served):
    return f"http://127.0.0.1:{served.port}/"


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Tab:
    """One tab, in the words of these tests."""

    def __init__(self, page, address):
        page.set_default_timeout(1000 * SECONDS)
        self.page = page
        page.goto(address)
        page.locator("#composer textarea").wait_for()

    def until(self, claim):
        """Waits for a claim about the page."""
        for _ in range(10 * SECONDS):
            try:
                if claim():
                    return
            except (Error, IndexError):
                pass  # it was being drawn anew
            self.page.wait_for_timeout(100)
        assert claim()

    def write(self, text):
        self.page.locator("#composer textarea").fill(text)

    def paste(self, picture):
        box = self.page.locator("#composer textarea")
        box.evaluate(PASTE, base64.b64encode(picture.read_bytes()).decode())
        self.page.locator("#composer img").wait_for()

    def upload(self, file):
        self.page.locator("#composer input[type=file]").set_input_files(file)

    def click(self, css):
        self.page.locator(css).click()

    def press(self, words):
        self.page.locator(".tools button:visible", has_text=words).first.click()

    def texts(self):
        return self.page.locator(".segment textarea").evaluate_all("(boxes) => boxes.map((box) => box.value)")

    def pictures(self, css=".segment img"):
        return self.page.locator(css).evaluate_all("(pictures) => pictures.map((picture) => picture.getAttribute('src'))")

    def version(self):
        """Which version of its document the page shows; -1 before it shows any."""
        return int(self.page.locator("#sheet").get_attribute("data-version") or -1)

    def composed(self, words):
        """Waits until the composer holds these words: what was refused returns to it a moment after the message is shown."""
        expect(self.page.locator("#composer textarea")).to_have_value(words, timeout=1000 * SECONDS)

    def told(self, words, after=-1):
        """Waits for a message, one that came `after` a version."""
        self.until(lambda: self.version() > after and words in self.page.locator("#told").inner_text())

    def finished(self):
        self.until(lambda: self.page.locator("#told").inner_text().startswith(ENDINGS))


@pytest.fixture
def open_tab(chromium, address):
    contexts = []

    def tab(**options):
        contexts.append(chromium.new_context(**options))
        return Tab(contexts[-1].new_page(), address)

    yield tab
    for context in contexts:
        context.close()


@pytest.fixture
def tab(open_tab):
    return open_tab()


def test_a_document_is_written_made_changed_saved_and_printed(tab, model: Eager, picture, desk):
    asked = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.write("draw a cat.")
    tab.click("#add")
    tab.until(lambda: tab.texts() == ["draw a cat."])
    tab.paste(picture)
    tab.click("#add")
    tab.until(lambda: len(tab.pictures()) == 1)

    tab.click("#continue")
    tab.until(lambda: len(tab.pictures(".made img")) >= 1)
    tab.finished()
    drawn = tab.pictures(".made img")[0]
    tab.press("Draw again")
    tab.until(lambda: tab.pictures(".made img")[0] != drawn)
    tab.finished()

    box = tab.page.locator(".segment textarea").first
    box.fill("draw a dog.")  # as pasted, or by an input method: no key is pressed
    box.blur()
    (session,) = desk.sessions.values()
    tab.until(lambda: session.document[0].text == "draw a dog.")
    model.steps = LONG
    before = len(tab.pictures())
    tab.click("#continue")
    tab.page.locator("#growing progress").wait_for()
    tab.click("#stop")
    tab.told("Stopped")
    tab.until(lambda: len(tab.pictures()) == before)

    tab.click("#save")
    tab.told("Saved as")
    (written,) = desk.folder.glob("page-*.json")
    document = Document.load(written)
    assert document[0].text == "draw a dog."
    assert document[1].data == picture.read_bytes()
    assert document.images[1].generation.seed == 1
    assert {path.suffix for path in desk.folder.glob("page-*.*")} == {".html", ".md", ".json"}
    with tab.page.expect_download() as download:
        tab.click("#told a[download$=json]")
    assert Document.load(download.value.path().rename(desk.folder / "down.json")) == document
    printed = tab.page.pdf()
    assert printed.startswith(b"%PDF") and len(printed) > 5000
    assert asked and not [url for url in asked if not url.startswith((tab.page.url, "data:", "blob:"))]


def test_a_text_is_gone_on_from_and_segments_are_moved_and_removed(tab):
    for words in ("a cat", "a dog"):
        tab.write(words)
        tab.click("#add")
        tab.until(lambda words=words: tab.texts()[-1:] == [words])
    tab.press("Up")
    tab.until(lambda: tab.texts() == ["a dog", "a cat"])
    tab.press("Remove")
    tab.until(lambda: tab.texts() == ["a cat"])
    tab.press("Go on from here")
    tab.finished()
    tab.until(lambda: tab.texts()[:1] == ["a cat"] and len(tab.pictures(".made img")) >= 1)


def test_what_is_clicked_and_typed_before_the_page_is_redrawn_meets_the_segment_it_was_meant_for(tab, desk):
    for words in ("a cat", "a dog", "a tree", "a car"):
        tab.write(words)
        tab.click("#add")
        tab.until(lambda words=words: tab.texts()[-1:] == [words])
    tab.page.evaluate(AT_ONCE)
    tab.until(lambda: tab.texts() == ["a red car", "a tree"])
    (session,) = desk.sessions.values()
    tab.until(lambda: [text.text.strip() for text in session.document.texts] == ["a red car", "a tree"])


def test_the_caret_stays_in_its_paragraph_when_another_is_removed(tab, desk):
    for words in ("a cat", "a dog", "a tree"):
        tab.write(words)
        tab.click("#add")
        tab.until(lambda words=words: tab.texts()[-1:] == [words])
    tab.page.locator(".segment textarea").nth(1).press("End")
    tab.page.locator(".segment").first.locator("[data-act=remove]").evaluate("(button) => button.click()")
    tab.until(lambda: tab.texts() == ["a dog", "a tree"])
    tab.page.keyboard.type("house")
    (session,) = desk.sessions.values()
    tab.until(lambda: [text.text.strip() for text in session.document.texts] == ["a doghouse", "a tree"])


def test_what_was_composed_is_taken_once_by_two_clicks_and_an_edit_before_a_click_counts(tab, model, desk):
    tab.write("a cat")
    tab.click("#add")
    tab.click("#continue")
    tab.until(lambda: len(tab.pictures(".made img")) >= 1)
    tab.finished()
    assert tab.texts().count("a cat") == 1
    tab.page.locator(".segment textarea").first.fill("a red cat")
    tab.click("#continue")
    tab.until(lambda: len(tab.pictures(".made img")) >= 2)
    (session,) = desk.sessions.values()
    assert session.document[0].text == "a red cat"


def test_words_typed_while_the_model_works_stay(tab, model, desk):
    model.steps = LONG
    tab.write("a cat")
    tab.click("#continue")
    tab.page.locator("#growing progress").wait_for()
    box = tab.page.locator(".segment textarea").first
    box.fill("a red cat")
    tab.click("#stop")
    tab.told("Stopped")
    (session,) = desk.sessions.values()
    tab.until(lambda: [text.text for text in session.document.texts] == ["a red cat"])
    assert tab.texts() == ["a red cat"]


def test_what_is_set_on_the_page_counts_for_the_next_continuation(tab, model):
    tab.page.locator("#settings button").first.click()
    tab.page.wait_for_timeout(1500)  # no person types while Gradio still writes its labels into the fields
    tab.page.locator("#seed input").fill("7")
    tab.write("a cat")
    tab.click("#continue")
    tab.finished()
    assert model.asked["seed"] == 7
    tab.page.locator("#steps input[type=number]").fill("9")
    tab.press("Draw again")
    tab.until(lambda: "seed 8" in tab.page.locator(".made figcaption").inner_text())
    assert (model.asked["seed"], model.asked["guidance"]) == (8, 2)


def test_an_empty_prompt_is_told_on_the_page(tab):
    tab.click("#continue")
    tab.told("empty prompt")


def assert_named_and_left_in_the_composer(tab, file):
    tab.write("a cat")
    tab.upload(file)
    tab.page.locator("#composer .thumbnail-item").wait_for()
    tab.click("#add")
    tab.told(file.name)
    assert tab.texts() == []
    tab.composed("a cat")


def test_a_broken_upload_is_named_and_what_was_written_stays(tab, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no")
    assert_named_and_left_in_the_composer(tab, broken)


def test_a_picture_of_too_many_pixels_is_named_and_what_was_written_stays(tab, tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    vast = tmp_path / "vast.png"
    vast.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert_named_and_left_in_the_composer(tab, vast)


def test_a_page_loaded_anew_in_the_middle_keeps_what_was_made_and_frees_the_model(tab, model, desk):
    model.steps = LONG
    tab.write("a cat")
    tab.click("#continue")
    tab.page.locator("#growing progress").wait_for()
    tab.page.reload()
    tab.until(lambda: tab.texts() == ["a cat"] and not desk.busy.locked())
    model.steps = 1
    tab.click("#continue")
    tab.finished()


def test_an_upload_onto_a_full_disk_is_told_and_the_document_stays(tab, picture, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tab.write("a cat")
    tab.click("#add")
    tab.until(lambda: tab.texts() == ["a cat"])
    monkeypatch.setattr("gradio.route_utils.NamedTemporaryFile", full)
    tab.upload(picture)
    expect(tab.page.locator("body")).to_contain_text("No space left", timeout=1000 * SECONDS)
    monkeypatch.undo()
    assert tab.texts() == ["a cat"]


def test_a_huge_upload_is_refused_with_a_message_and_the_page_goes_on(tab, tmp_path):
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    tab.write("a cat")
    tab.upload(huge)
    expect(tab.page.locator("body")).to_contain_text("exceed the maximum", timeout=1000 * SECONDS)
    tab.click("#add")
    tab.until(lambda: tab.texts() == ["a cat"])


def test_only_one_tab_is_continued_and_a_browser_that_goes_away_frees_the_model(open_tab, model, desk):
    first, other = open_tab(), open_tab()
    model.steps = LONG
    first.write("a cat")
    first.click("#continue")
    first.page.locator("#growing progress").wait_for()
    other.write("a dog")
    other.click("#continue")
    other.told("another tab")
    other.composed("a dog")
    assert other.texts() == []

    first.page.close()  # in the middle of a picture
    other.until(lambda: desk.drafts() and not desk.busy.locked())
    assert Document.load(desk.drafts()[0]).texts[0].text == "a cat"
    model.steps = 1
    other.click("#continue")
    other.finished()
    other.until(other.pictures)
    assert Document.load(desk.drafts()[0]).texts[0].text == "a dog"


def test_a_full_disk_is_told_and_the_document_stays(tab, desk, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    tab.write("a cat")
    tab.click("#continue")
    tab.told("No space left")
    tab.until(lambda: len(tab.pictures()) >= 1)
    before = tab.version()
    tab.click("#save")
    tab.told("No space left", after=before)
    assert tab.texts()[0] == "a cat"
    monkeypatch.undo()
    tab.click("#save")
    tab.told("Saved as")
    assert len(Document.load(next(desk.folder.glob("page-*.json"))).images) >= 1


def test_the_page_speaks_chinese_and_starts_from_demonstrations_and_drafts(tab):
    tab.write("a cat")
    tab.click("#add")
    tab.until(lambda: tab.texts() == ["a cat"])
    tab.page.locator("#tongue label", has_text="中文").click()
    expect(tab.page.locator("#continue")).to_have_text("续写", timeout=1000 * SECONDS)
    tab.click("#start input")
    first = tab.page.locator("[role=option]").nth(1).inner_text()
    assert any("\u4e00" <= character <= "\u9fff" for character in first)
    tab.page.locator("[role=option]", has_text="3D camel travels").click()
    tab.until(lambda: "3D camel" in tab.texts()[0])
    assert "从这里续写" in tab.page.locator(".tools").first.inner_text()
    tab.page.reload()
    tab.until(lambda: "3D camel" in tab.texts()[0])  # what stood here still stands here
    tab.page.locator("#start input").click()
    tab.page.locator("[role=option]", has_text="where you left off").last.click()
    tab.until(lambda: tab.texts() == ["a cat"])


def test_a_language_that_is_chosen_before_the_page_has_loaded_counts(open_tab, monkeypatch):
    plain = page_module._starts

    def slow(*given):
        time.sleep(2)
        return plain(*given)

    monkeypatch.setattr(page_module, "_starts", slow)
    tab = open_tab()
    tab.page.locator("#tongue label", has_text="中文").click()
    expect(tab.page.locator("#continue")).to_have_text("续写", timeout=1000 * SECONDS)


@pytest.mark.parametrize("desk_of_its_own", [False, True], ids=["the connection was lost", "the server was started anew"])
def test_a_lost_server_is_told_and_the_page_goes_on_when_it_is_back(desk_of_its_own, tab, served, desk, model):
    tab.write("a cat")
    tab.click("#add")
    tab.until(lambda: tab.texts() == ["a cat"])
    served.end()
    tab.told("server does not answer")
    tab.page.locator(".segment textarea").first.fill("a red cat")
    tab.write("a dog")
    tab.click("#add")
    tab.composed("a dog")  # refused, and not lost
    assert tab.texts() == ["a red cat"]

    served.anew(Desk(model, desk.folder) if desk_of_its_own else desk)
    tab.until(lambda: "does not answer" not in tab.page.locator("#told").inner_text())
    if desk_of_its_own:  # it knows what was kept; what it was never told is in the composer
        tab.until(lambda: tab.texts() == ["a cat"])
        tab.composed("a red cat\n\na dog")
    else:
        tab.until(lambda: [text.text for text in next(iter(desk.sessions.values())).document.texts] == ["a red cat"])
    tab.click("#continue")
    tab.finished()
    tab.until(lambda: len(tab.pictures(".made img")) >= 1)
    tab.page.locator("#tongue label", has_text="中文").click()
    expect(tab.page.locator("#continue")).to_have_text("续写", timeout=1000 * SECONDS)


def test_a_picture_of_ones_own_becomes_the_hero(tab, picture):
    tab.page.locator("#hero button").first.click()
    tab.page.locator("#hero-name input, #hero-name textarea").fill("Momo")
    tab.click("#hero-story")
    tab.told("a picture and a name")
    tab.paste(picture)
    tab.click("#hero-story")
    tab.finished()
    tab.until(lambda: tab.texts()[:2] == ["this is Momo.", "tell a story about Momo."] and len(tab.pictures()) >= 2)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_on_a_phone_nothing_is_wider_than_the_screen(language, open_tab, picture):
    tab = open_tab(viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    if language == "zh":
        tab.page.locator("#tongue label", has_text="中文").click()
        expect(tab.page.locator("#continue")).to_have_text("续写", timeout=1000 * SECONDS)
    tab.write("a cat " * 30)
    tab.paste(picture)
    tab.click("#continue")
    tab.until(lambda: len(tab.pictures(".made img")) >= 1)
    tab.finished() if language == "en" else None
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
