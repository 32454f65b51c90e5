"""The page in a real browser: type, paste, generate, stop, edit, draw again, save; and what goes wrong."""

import shutil
import threading
import time

import pytest

pytest.importorskip("gradio", reason="the page needs Gradio (pip install 'mm-interleaved[page]')")
pytest.importorskip("selenium", reason="the browser is driven by selenium")
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mm_interleaved.cli.page import _bind
from mm_interleaved.document import Document
from mm_interleaved.serving.labels import LABELS
from mm_interleaved.serving.page import app
from tests.serving.conftest import Eager

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium or chromedriver on the path"),
]
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
FLAGS += ("disable-component-update", "disable-sync", "disable-dev-shm-usage")
ENDINGS = tuple(LABELS[reason]["en"] for reason in ("end", "max_images", "max_tokens", "context_full"))
PASTE = """
const bytes = Uint8Array.from(atob(arguments[1]), (c) => c.charCodeAt(0)), data = new DataTransfer();
data.items.add(new File([bytes], "cat.png", {type: "image/png"}));
arguments[0].dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}));
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def address(model, folder):
    taken = _bind(0)
    server = uvicorn.Server(uvicorn.Config(app(model, folder), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{taken.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


class Browser:
    """Chromium with the words of these tests."""

    def __init__(self, driver, address):
        self.driver = driver
        self.driver.get(address)
        self.find("#composer textarea")

    def until(self, claim, seconds=60):
        return WebDriverWait(self.driver, seconds, 0.1, ignored_exceptions=(Exception,)).until(lambda _: claim())

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def find(self, css):
        return self.until(lambda: self.all(css)[0])

    def click(self, css):
        self.until(lambda: self.all(css)[0].click() or True)

    def press(self, text):
        self.until(lambda: next(button for button in self.all(".tools button") if button.text == text).click() or True)

    def write(self, text):
        self.find("#composer textarea").send_keys(text)

    def texts(self):
        return [box.get_property("value") for box in self.all(".segment textarea")]

    def pictures(self):
        return [picture.get_property("src") for picture in self.all(".segment img")]

    def told(self, words):
        self.until(lambda: words in self.find("#status").text)

    def finished(self):
        self.until(lambda: self.find("#status").text.startswith(ENDINGS))


@pytest.fixture
def driver(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path / 'profile'}", "window-size=1200,1000"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver, address):
    return Browser(driver, address)


def test_a_document_is_written_made_changed_and_saved(browser, model: Eager, picture, folder):
    import base64

    browser.write("draw a cat.")
    browser.click("#add")
    browser.until(lambda: browser.texts() == ["draw a cat."])
    browser.driver.execute_script(PASTE, browser.find("#composer textarea"), base64.b64encode(picture.read_bytes()).decode())
    browser.find("#composer img")
    browser.click("#add")
    browser.until(lambda: len(browser.pictures()) == 1)

    browser.click("#continue")
    browser.until(lambda: len(browser.all(".segment.made img")) >= 1)
    browser.finished()
    drawn = browser.find(".segment.made img").get_property("src")
    browser.press("Draw again")
    browser.until(lambda: browser.find(".segment.made img").get_property("src") != drawn)
    browser.finished()

    box = browser.find(".segment textarea")
    box.clear()
    box.send_keys("draw a dog.")
    time.sleep(1)  # what is typed goes to the server a moment later
    model.steps = 100_000
    before = len(browser.pictures())
    browser.click("#continue")
    browser.find(".live progress")
    browser.click("#stop")
    browser.told("Stopped")
    assert len(browser.pictures()) == before

    browser.click("#save")
    browser.told("Saved in")
    (written,) = folder.glob("page-*.json")
    document = Document.load(written)
    assert document[0].text == "draw a dog."
    assert document[1].data == picture.read_bytes()
    assert document.images[1].generation.seed == 1
    assert {path.suffix for path in folder.glob("page-*.*")} == {".html", ".md", ".json"}
    assert len(browser.driver.print_page()) > 1000
    resources = browser.driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert resources
    assert not [name for name in resources if not name.startswith((browser.driver.current_url, "data:", "blob:"))]


def test_what_goes_wrong_is_told_on_the_page_and_the_document_stays(browser, model, tmp_path, address, folder):
    browser.click("#continue")
    browser.told("empty prompt")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no")
    browser.write("a cat")
    browser.find("#composer input[type=file]").send_keys(str(broken))
    browser.find("#composer .thumbnail-item, #composer img")
    browser.click("#add")
    browser.told("broken.png")
    assert browser.texts() == []
    browser.click("#composer button[aria-label*=emove], #composer .delete-button")
    browser.click("#add")
    browser.until(lambda: browser.texts() == ["a cat"])

    model.steps = 100_000
    browser.click("#continue")
    browser.find(".live progress")
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    other = Browser(browser.driver, address)
    other.write("a dog")
    other.click("#continue")
    other.told("another tab")
    assert other.texts() == ["a dog"]

    browser.driver.switch_to.window(first)
    browser.driver.close()  # in the middle of a picture
    browser.driver.switch_to.window(browser.driver.window_handles[0])
    other.until(lambda: (folder / "latest.json").is_file())
    assert Document.load(folder / "latest.json").texts[0].text == "a cat"
    model.steps = 1
    deadline = time.monotonic() + 60
    while not other.pictures() and time.monotonic() < deadline:
        other.click("#continue")
        time.sleep(1)
    assert other.pictures()


def test_the_page_speaks_chinese_and_starts_from_demonstrations(browser):
    browser.until(lambda: next(label for label in browser.all("#tongue label") if "中文" in label.text).click() or True)
    browser.until(lambda: browser.find("#continue").text == "续写")
    browser.click("#start input")
    browser.until(lambda: next(option for option in browser.all("[role=option]") if "3D camel" in option.text).click() or True)
    browser.until(lambda: "3D camel" in browser.texts()[0])
    browser.until(lambda: "从这里续写" in [button.text for button in browser.all(".tools button")])
