"""The page and the picture of an explanation."""

import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image as pillow

from mm_interleaved.document import Document, Image
from mm_interleaved.errors import ConfigError
from mm_interleaved.export.explain_page import to_html, to_png
from mm_interleaved.export.explanation import Explanation, Layer, Look, PaintedPicture, Reading, Word


def look(image, x, y, share):
    return Look(image, np.array([[x, y], [2.0, 0.5]]), np.array([share, 0.0]))


@pytest.fixture
def explanation():
    grey = Image.from_array(np.full((20, 40, 3), 200, dtype=np.uint8), alt='a "grey" <field>')
    words = (Word("</script>", 0, 0, 9, (1,)), Word("cat", 2, 1, 4, (9,)))
    seen = Reading((look(0, 0.9, 0.1, 0.75),), 0.25, (0.25,))
    regions = ((seen,) * 4,)
    return Explanation(
        document=Document(["</script>", grey, " cat", grey]),
        texts={0: "</script>", 2: " cat"},
        words=words,
        readings=(Reading((), 1.0, (1.0,)), seen),
        moment="read",
        layers=(Layer("layer 0", 0.5),),
        pictures=(PaintedPicture(1, 2, (0.5,), regions),),
        picture_layers=(Layer("middle", None),),
        seed=0,
        model_hash="abc",
    )


def test_heat_holds_the_weight_inside_the_picture_and_the_hottest_place_is_where_it_is(explanation):
    seen = explanation.readings[1].looks[0]
    assert seen.heat().sum() == pytest.approx(0.75)
    assert seen.hottest() == pytest.approx((0.9, 0.1), abs=1 / 32)
    assert look(0, -1.0, 0.5, 1.0).hottest() is None


def test_the_page_is_one_file_whose_only_script_is_its_own(explanation):
    page = to_html(explanation)
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)
    assert page.count("<script>") == 1
    assert "script-src 'sha256-" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert set(data) == {"w0", "w1", "p1-0", "p1-1", "p1-2", "p1-3"}
    assert data["w0"] == {"looks": {}, "told": "“</script>” has no earlier picture to look at."}
    assert "75 %, most in the upper right" in data["w1"]["told"]
    assert re.findall("<li>(.*?) looked", page) == ["“cat”", "Picture 2"]  # the same without the script


def test_every_word_is_a_button_and_every_element_is_closed(explanation):
    open_elements, buttons = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img", "br"):
                open_elements.append(tag)
            if tag == "button":
                buttons.append(dict(attributes)["data-key"])

        def handle_startendtag(self, tag, attributes): ...

        def handle_endtag(self, tag):
            assert open_elements.pop() == tag

    Reader().feed(to_html(explanation))
    assert open_elements == []
    assert buttons == ["w0", "w1"]


def test_a_png_shows_the_picture_with_its_points(explanation):
    with pillow.open(io.BytesIO(to_png(explanation, explanation.readings[1], "cat"))) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    hot = pixels[:, :, 0] - pixels[:, :, 2] > 60
    assert hot.any()
    assert np.argwhere(hot)[:, 1].mean() > 300  # right of the middle of a picture 384 wide


def test_a_long_caption_stays_inside_the_png(explanation):
    seen = explanation.readings[1]
    with pillow.open(io.BytesIO(to_png(explanation, seen, "cat"))) as short:
        low = short.size
    with pillow.open(io.BytesIO(to_png(explanation, seen, "a very long name of a word " * 12))) as picture:
        margin = np.asarray(picture.convert("L"))[:, -12:]
        assert picture.width == low[0] and picture.height > low[1] + 60
    assert (margin == 255).all()


def test_words_and_regions_are_found_or_refused_by_name(explanation):
    assert explanation.find("1") == explanation.find("CAT") == 1
    assert explanation.region(1, 1, 0).looks[0].share == pytest.approx(0.75)
    with pytest.raises(ConfigError, match="dog"):
        explanation.find("dog")
    with pytest.raises(ConfigError, match="painted picture"):
        explanation.region(0, 0, 0)


def test_json_is_complete_and_plain(explanation):
    found = json.loads(json.dumps(explanation.to_json()))
    assert found["words"][1]["pictures"][0]["points"][0] == [0.9, 0.1, 0.75]
    assert found["painted"][0]["levels"][0]["noise"] == 0.5


def test_words_and_regions_light_up_what_they_looked_at(explanation, tmp_path):
    sync = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright (pip install playwright)")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium on the path")
    page_file = tmp_path / "page.html"
    page_file.write_text(to_html(explanation), encoding="utf-8")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        page = browser.new_page()
        page.goto(page_file.as_uri())
        told, points = page.locator("#told"), page.locator(".strip circle:not(.hottest)")
        page.locator(".w").nth(1).hover()
        assert told.inner_text().startswith("“cat” looked at picture 1: 75 %")
        assert points.count() == 2 and page.locator(".strip circle.hottest").count() == 1
        assert page.locator(".strip output").first.inner_text() == "75 %"
        assert page.locator(".strip figure.idle").count() == 1
        page.locator(".w").nth(0).focus()
        assert "no earlier picture" in told.inner_text() and points.count() == 0
        page.locator(".grid").focus()
        for key in ("ArrowRight", "ArrowDown", "ArrowDown"):  # the last one leaves the picture
            page.keyboard.press(key)
        assert told.inner_text().startswith("Picture 2, row 2, column 2 looked at picture 1")
        page.locator(".grid rect").nth(2).hover()
        assert told.inner_text().startswith("Picture 2, row 2, column 1")
        browser.close()
