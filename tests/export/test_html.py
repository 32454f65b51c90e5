"""The page is safe, complete in one file, and says what the model made."""

import random
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mm_interleaved.document import Document, Generation, Image, Text
from mm_interleaved.export.html import to_html

VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Elements, attributes and visible words of a page; fails on elements that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open and "title" not in self._open:
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def picture(width: int = 64, height: int = 64, **description: object) -> Image:
    return Image.from_array(np.zeros((height, width, 3), np.uint8), **description)  # type: ignore[arg-type]


def test_html_contains_no_unescaped_user_text() -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;b&gt;"
    forms = [
        "{}",
        "# {}",
        "- {}",
        "1. {}",
        "> {}",
        "**{}**",
        "*{}*",
        "`{}`",
        "```\n{}\n```",
        "[{}](https://x.org/{})",
        "[a](javascript:alert(1)) {}",
    ]
    segments = [
        Text(form.format(evil, evil) if form.count("{}") == 2 else form.format(evil), origin)
        for form in forms
        for origin in ("given", "generated")
    ]
    made = Generation(seed=1, model_hash=evil, steps=1, guidance=1.0)
    page = Page(to_html(Document([*segments, picture(alt=evil, origin="generated", generation=made)]), title=evil, language='en"><script>'))
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "h1",
        "h2",
        "p",
        "ul",
        "ol",
        "li",
        "blockquote",
        "strong",
        "em",
        "code",
        "pre",
        "a",
        "mark",
        "div",
        "figure",
        "img",
        "figcaption",
        "span",
        "footer",
        "br",
    }
    assert {tag for tag, _ in page.elements} <= allowed
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all(str(link["href"]).startswith("https://") for link in page.all("a"))
    assert [image["alt"] for image in page.all("img")] == [evil]
    assert page.words.count("<script>alert(1)</script>") >= len(segments)


def test_any_text_gives_well_formed_html_with_all_its_words() -> None:
    draw = random.Random(5)
    pieces = ["a", "b c", "\n", "\n\n", "<", "&", '"', "[x](", "https://y.z", ")"]
    pieces += ["\x00", "\r", "中", "# ", "- ", "1. ", "> ", "**", "*", "_", "`", "```", "~~~", "---"]
    for _ in range(3000):
        words = ["".join(draw.choice(pieces) for _ in range(draw.randrange(14))) for _ in range(draw.randrange(1, 4))]
        texts = [Text(word, draw.choice(("given", "generated"))) for word in words]
        page = Page(to_html(Document(texts)))
        letters = "".join(text.text for text in texts).replace("https://y.z", "")
        for letter in "ac中":
            # A fence's own line is not shown, so its words may be missing; nothing else may.
            if "```" not in letters and "~~~" not in letters and "](" not in letters:
                assert page.words.replace("generated", "").count(letter) >= letters.count(letter)


def test_the_page_loads_nothing_from_outside() -> None:
    page = to_html(Document(["text", picture(), Text("more", "generated")]))
    parsed = Page(page)
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in parsed.all("img"))
    assert not parsed.all("script")
    assert not parsed.all("link")
    style = re.search(r"<style>(.*)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "prefers-color-scheme: dark" in style[1]
    assert "break-inside: avoid" in style[1]


def test_a_screen_reader_finds_language_landmark_and_descriptions() -> None:
    parsed = Page(to_html(Document(["# Title", picture(alt="a cat"), picture()]), language="de"))
    assert parsed.all("html") == [{"lang": "de"}]
    assert len(parsed.all("main")) == 1
    assert [image["alt"] for image in parsed.all("img")] == ["a cat", "Picture 2 (given)"]
    assert len(parsed.all("figure")) == len(parsed.all("figcaption")) == 2
    assert parsed.all("meta")[2]["content"] == "width=device-width, initial-scale=1"


def test_generated_pictures_say_how_they_were_made() -> None:
    made = Generation(seed=7, model_hash="1a2b", steps=24, guidance=3.0, sampler="dpm++")
    words = Page(to_html(Document([picture(origin="generated", generation=made), picture()]))).words
    assert "generated seed 7 24 steps guidance 3 dpm++ model 1a2b" in words
    assert "given" in words
    assert "生成 种子 7 24 步" in Page(to_html(Document([picture(origin="generated", generation=made)]), language="zh-CN")).words


def test_generated_words_are_told_from_given_ones() -> None:
    page = to_html(Document(["It began", Text(" and went on.\n\nA whole *new* paragraph.", "generated")]))
    assert '<p dir="auto">It began <mark>and went on.</mark></p>' in page
    assert '<div class="model" role="group" aria-label="generated">\n<p dir="auto">A whole <em>new</em> paragraph.</p>\n</div>' in page
    assert 'class="legend"' in page
    assert 'class="legend"' not in to_html(Document(["only given"]))


@pytest.mark.parametrize(("width", "height", "shown"), [(64, 64, 320), (32, 64, 160), (64, 32, 320), (320, 200, 320), (900, 600, 900)])
def test_small_pictures_are_enlarged_and_large_ones_are_not(width: int, height: int, shown: int) -> None:
    image = Page(to_html(Document([picture(width, height)]))).all("img")[0]
    assert image["style"] == f"width:min(100%,{shown}px)"
    assert (image["width"], image["height"]) == (str(width), str(height))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo\n\nthree", '<p dir="auto">one<br>\ntwo</p>\n<p dir="auto">three</p>'),
        ("## Head\ntext", '<h2 dir="auto">Head</h2>\n<p dir="auto">text</p>'),
        ("- a\n- b", '<ul dir="auto"><li>a</li><li>b</li></ul>'),
        ("3. a\n4. b", '<ol start="3" dir="auto"><li>a</li><li>b</li></ol>'),
        ("> a\n> b", '<blockquote dir="auto">a<br>\nb</blockquote>'),
        ("```py\na < b\n```", '<pre dir="ltr"><code>a &lt; b</code></pre>'),
        (
            "**b** *i* __b__ _i_ `c` snake_case_name 2*3*4",
            "<strong>b</strong> <em>i</em> <strong>b</strong> <em>i</em> <code>c</code> snake_case_name",
        ),
        ("[a](https://b.c/d_e_f)", '<a href="https://b.c/d_e_f" rel="noopener noreferrer">a</a>'),
        ("a\n\n---\n\nb", "<hr>"),
        ("\\*a\\*", '<p dir="auto">*a*</p>'),
    ],
)
def test_simple_markdown_is_shown(text: str, expected: str) -> None:
    assert expected in to_html(Document([text]))


def test_a_title_stands_above_the_headings_of_the_document() -> None:
    page = to_html(Document(["# Chapter"]), title="A & B")
    assert "<h1>A &amp; B</h1>" in page
    assert '<h2 dir="auto">Chapter</h2>' in page
    assert "<title>A &amp; B</title>" in page
    assert "<title>Chapter</title>" in to_html(Document(["# Chapter\n\ntext"]))
