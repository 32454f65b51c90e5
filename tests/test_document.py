"""A document is read back as it was written, and whatever is wrong with its input is one clear error."""

import base64
import io
import json
import random
import resource
import signal
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from mm_interleaved import picture_file
from mm_interleaved.document import ORIGINS, Document, Generation, Image, Pixels, Segment, Text
from mm_interleaved.errors import DocumentError, StorageError
from mm_interleaved.picture_file import MAX_PIXELS

MADE = Generation(seed=7, model_hash="1a2b", steps=24, guidance=3.0)


def pixels(seed: int = 0, height: int = 6, width: int = 9) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(picture: pillow.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def random_document(draw: random.Random) -> Document:
    """A document made of everything that Markdown could stumble over."""
    pieces = [
        "a",
        "b ",
        "\n",
        "\n\n",
        "`",
        "``",
        "```",
        "~~~",
        "![",
        "](",
        ")",
        "x.png",
        "<!-- ",
        "-->",
        "mmi text generated",
        "\\",
        "\r",
        "&amp;",
        "&",
        "[",
        "]",
        "\ufeff",
        "é",
        "中",
        "\t",
        "!",
        "\n```\n",
        "    ",
        '"',
        "'",
        "\u2028",
        "\x0b",
        "\x00",
    ]

    def words() -> str:
        return "".join(draw.choice(pieces) for _ in range(draw.randrange(12)))

    def segment() -> Segment:
        origin = draw.choice(ORIGINS)
        if draw.random() < 0.5:
            return Text(words(), origin, draw.choice([None, None, (), (1, 2)]))
        made = Generation(
            draw.randrange(2**63),
            draw.choice(["1a", "", ' a -->"y--z', "é\\"]),
            draw.randrange(99),
            draw.choice([3, 0.1, 1e-7]),
            draw.choice([None, "plain", "dpm++", "--> x"]),
        )
        return Image.from_array(
            pixels(draw.randrange(9)), words(), origin, generation=made if origin == "generated" and draw.random() < 0.7 else None
        )

    return Document(segment() for _ in range(draw.randrange(5)))


def test_markdown_round_trip_is_exact() -> None:
    draw = random.Random(1)
    for _ in range(1500):
        page = random_document(draw)
        written = page.to_markdown()
        again = Document.from_markdown(written + ("\n" if not written else ""))
        assert again == page
        assert again.to_markdown() == written


@pytest.mark.parametrize("stem", ["story", "a b", "c%20d", "it's (1)", "<x>", "q:z", "猫", "#h?"])
def test_saved_markdown_and_its_pictures_are_read_back_exactly(stem: str, tmp_path: Path) -> None:
    draw = random.Random(stem)
    for _ in range(8):
        page = random_document(draw)
        page.save(tmp_path / f"{stem}.md")
        assert Document.load(tmp_path / f"{stem}.md") == page


def test_json_round_trip_is_exact(tmp_path: Path) -> None:
    draw = random.Random(2)
    for _ in range(200):
        page = random_document(draw)
        assert Document.from_json(page.to_json()) == page
        assert Document.from_json(json.dumps(page.to_json())) == page
        page.save(tmp_path / "page.json")
        assert Document.load(tmp_path / "page.json") == page
        assert json.loads((tmp_path / "page.json").read_text()) == page.to_json()


def test_documents_from_before_the_sampler_was_recorded_are_read_and_written_as_they_were() -> None:
    page = Document([Image.from_array(pixels(), "", "generated", generation=MADE)])
    assert page.images[0].generation.sampler is None
    assert "sampler" not in page.to_markdown() and "sampler" not in json.dumps(page.to_json())
    assert Document.from_markdown(page.to_markdown()) == Document.from_json(page.to_json()) == page


def test_written_markdown_is_what_a_person_would_write(tmp_path: Path) -> None:
    given = Image.from_array(pixels(), "cat")
    page = Document(["A cat.", given, Text("It sat.", "generated"), Image.from_array(pixels(1), "a mat", "generated", generation=MADE)])
    page.save(tmp_path / "story.md")
    first, second = (f"story_images/{i:02d}-{page.images[i - 1].sha256[:12]}.png" for i in (1, 2))
    assert (tmp_path / "story.md").read_text() == (
        f"A cat.\n\n![cat]({first})\n\n<!-- mmi text generated -->\nIt sat.\n\n![a mat]({second})\n"
        "<!-- mmi picture generated seed=7 model_hash=1a2b steps=24 guidance=3.0 -->\n"
    )


def test_markdown_of_people_is_understood(tmp_path: Path) -> None:
    png = Image.from_array(pixels()).data
    for name in ("dog.png", "my dog.png", "a(1).png"):
        (tmp_path / name).write_bytes(png)
    (tmp_path / "page.md").write_bytes(
        b'\xef\xbb\xbf# Head\r\n\r\nsee ![dog](dog.png) there\n![](<my dog.png> "title")\n'
        b"![x](my%20dog.png)   ![y](my dog.png)\n\n![](a(1).png)\n"
        b"```\n![no](no.png)\n```\n`![no](no.png)` \\![no](no.png) <!-- ![no](no.png) -->\n"
    )
    page = Document.load(tmp_path / "page.md")
    assert [image.alt for image in page.images] == ["dog", "title", "x", "y", ""]
    assert [text.text for text in page.texts] == [
        "# Head\n\nsee ",
        " there",
        "```\n![no](no.png)\n```\n`![no](no.png)` \\![no](no.png) <!-- ![no](no.png) -->",
    ]
    assert all(image.data == png for image in page.images)
    assert Document.from_markdown(page.to_markdown()) == page


def test_one_blank_line_around_a_picture_is_not_text() -> None:
    uri = "data:image/png;base64," + base64.b64encode(Image.from_array(pixels()).data).decode()
    page = Document.from_markdown(f"a\n\n![]({uri})\n\n\nb\n\n\n![]({uri})\n\n![]({uri})\n")
    assert [segment.text if isinstance(segment, Text) else "picture" for segment in page] == ["a", "picture", "\nb\n", "picture", "picture"]


def test_json_accepts_the_chat_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.from_array(pixels())
    (tmp_path / "dog.png").write_bytes(picture.data)
    monkeypatch.chdir(tmp_path)
    uri = "data:image/png;base64," + base64.b64encode(picture.data).decode()
    parts = [
        "hello",
        {"type": "text", "text": "x"},
        {"type": "image", "image": uri},
        {"type": "image", "path": "dog.png"},
        {"type": "image", "image": (tmp_path / "dog.png").as_uri()},
        {"type": "image_url", "image_url": {"url": uri, "detail": "low"}},
    ]
    expected = Document(["hello", "x", picture, picture, picture, picture])
    assert Document.from_json(parts) == expected
    assert Document.from_json(json.dumps(parts)) == expected
    assert Document.from_json({"version": 1, "segments": parts}) == expected


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"type": "image", "path": "x.png", "sead": 3}], "segments\\[0\\]: unknown key 'sead' .did you mean 'seed'"),
        ([{"type": "txt", "text": "a"}], "did you mean 'text'"),
        ([{"type": "text"}], "expected a string, got NoneType"),
        (["a", {"type": "image"}], "segments\\[1\\]: expected one of"),
        ([{"type": "image", "image": "https://x.org/y.png"}], "never fetched from the web; download it first"),
        ([{"type": "image", "path": "missing.png"}], "no such file"),
        ([{"type": "image", "path": "/dev/zero"}], "a device or a pipe"),
        ([{"type": "image", "path": "a\x00b"}], "no such file|cannot be read"),
        ([{"type": "image", "image": "data:image/png;base64,$$$"}], "base64 in the data URI is broken"),
        ([{"type": "text", "text": "a", "origin": "model"}], "expected 'given' or 'generated'"),
        ([{"type": "text", "text": "a", "token_ids": [1, -2]}], "token_ids must be whole numbers"),
        ([{"type": "text", "text": "\ud800"}], "surrogate"),
        ({"version": 2, "segments": []}, "expected version 1, got 2"),
        ({"segmnts": []}, "did you mean 'segments'"),
        ("[" * 200_000, "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
        ("[NaN]", "not valid JSON"),
        ("nowhere.json", "no such file"),
    ],
)
def test_wrong_json_says_what_and_where(parts: object, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        Document.from_json(parts)  # type: ignore[arg-type]


def test_documents_of_strangers_read_no_files() -> None:
    for part in ({"path": "/etc/hostname"}, {"image": "file:///etc/hostname"}, {"image_url": {"url": "x.png"}}):
        with pytest.raises(DocumentError, match="files are not read here"):
            Document.from_json([{"type": "image", **part}], allow_files=False)


def test_seed_without_the_rest_is_an_error() -> None:
    part = Document([Image.from_array(pixels())]).to_json()["segments"][0]  # type: ignore[index]
    with pytest.raises(DocumentError, match="seed without model_hash, steps, guidance"):
        Document.from_json([part | {"origin": "generated", "seed": 3}])
    with pytest.raises(DocumentError, match="set origin to 'generated'"):
        Document.from_json([part | {"seed": 3, "model_hash": "a", "steps": 1, "guidance": 1}])


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("<!-- mmi picture generated sead=7 -->", "did you mean 'seed'"),
        ("<!-- mmi picture generated seed=7 -->", "lacks model_hash, steps, guidance"),
        ("<!-- mmi picture painted -->", "expected the comment"),
        ("<!-- mmi picture generated seed=x model_hash=a steps=2 guidance=1 -->", "invalid literal"),
        ("\n\n<!-- mmi picture generated -->", "stands right behind its picture"),
        ("\n\n<!-- mmi text generated token_ids=[a] -->", "line 5: the comment before the text is wrong"),
    ],
)
def test_wrong_comments_say_what_and_where(comment: str, message: str) -> None:
    uri = "data:image/png;base64," + base64.b64encode(Image.from_array(pixels()).data).decode()
    with pytest.raises(DocumentError, match=message):
        Document.from_markdown(f"\n![]({uri})\n{comment}\n")


# Pictures ----------------------------------------------------------------------------------------------------------------------------


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises `width` × `height` pixels and which holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(MAX_PIXELS + 1, 1), (10_000, 10_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_before_decoding(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoding(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(picture_file, "_to_rgb", decoding)
    with pytest.raises(DocumentError, match="the limit is 50,000,000 pixels; make the picture smaller"):
        Image.from_bytes(png_of_size(width, height))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "zero bytes"),
        (b"<!DOCTYPE html><html><body>404", "a web page under a picture's name"),
        (b"  <svg xmlns='x'/>", "a vector drawing"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"II*\0" + b"\0" * 50, "TIFF"),
        (b"hello", "5 bytes that are none"),
        (encode(pillow.fromarray(pixels(0, 40, 40)), "PNG")[:2000], "broken or incomplete"),
        (encode(pillow.fromarray(pixels(0, 40, 40)), "JPEG")[:900], "broken or incomplete"),
    ],
    ids=["empty", "web_page", "svg", "git_lfs", "tiff", "text", "png_cut_short", "jpeg_cut_short"],
)
def test_a_bad_picture_is_named_with_its_place_in_the_document(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    (tmp_path / "page.md").write_text("text\n\n![](bad.png)\n")
    with pytest.raises(DocumentError, match=f"page.md, line 3: picture 'bad.png': .*{message}"):
        Document.load(tmp_path / "page.md")


def test_missing_files_and_folders_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="got a folder; name a file in it"):
        Image.open(tmp_path)
    with pytest.raises(DocumentError, match="no such file"):
        Image.open(tmp_path / "none.png")
    with pytest.raises(DocumentError, match="no such file"):
        Document.from_markdown("nowhere.md")
    with pytest.raises(DocumentError, match=r"expected a document as \.md or \.json"):
        Document.load(tmp_path / "page.html")
    (tmp_path / "latin.md").write_bytes(b"caf\xe9")
    with pytest.raises(DocumentError, match="expected UTF-8 text, got byte 0xe9 in line 1"):
        Document.load(tmp_path / "latin.md")


def test_any_bytes_are_a_picture_or_a_document_error() -> None:
    draw = random.Random(3)
    drawing = pillow.fromarray(pixels(0, 24, 31))
    files = [encode(drawing, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]
    files += [
        encode(drawing.convert("P"), "PNG"),
        encode(drawing.convert("CMYK"), "JPEG"),
        encode(drawing.convert("RGBA"), "WEBP", lossless=True),
    ]
    outcomes = set()
    for _ in range(3000):
        content = bytearray(draw.choice(files))
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        else:
            for _ in range(draw.choice([1, 2, 30])):
                content[draw.randrange(draw.choice([60, len(content)]))] = draw.choice([0, 255, draw.randrange(256)])
        try:
            image = Image.from_bytes(bytes(content))
            assert image.array().shape == (image.size[1], image.size[0], 3)
            outcomes.add("picture")
        except DocumentError:
            outcomes.add("error")
    assert outcomes == {"picture", "error"}


def test_any_text_is_a_document_or_a_document_error() -> None:
    draw = random.Random(4)
    drawn = Image.from_array(pixels(0, 2, 2), "a", "generated", generation=MADE)
    page = Document(["# t", drawn, Text("he`lo `x` ![b](c)", "generated", (1, 2)), "```\n![b](c)\n```"])
    for source, read in ((page.to_markdown(), Document.from_markdown), (json.dumps(page.to_json()), Document.from_json)):
        for _ in range(2000):
            text = source
            for _ in range(draw.choice([1, 2, 5])):
                at = draw.randrange(len(text) + 1)
                text = (
                    text[:at]
                    + draw.choice(["", draw.choice("\"'[]{}()<>!`~\\\n ,:-=&;\x00\ud800é0e9")])
                    + text[at + draw.choice([0, 1, 3, 20]) :]
                )
            try:
                again = read(text)
            except DocumentError:
                continue
            assert Document.from_json(again.to_json()) == again


@pytest.mark.parametrize("piece", ["![a", "`", "` a", "<!-- ", "![a](b ", "![[a]", "```\n", "![a](x '", "\\", "![](<", "![a]( "])
def test_hostile_markdown_is_read_in_linear_time(piece: str) -> None:
    text = piece * 50_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mm_interleaved.export.markdown.read_reference", lambda *_, **__: Image.from_array(pixels()))
        # Quadratic time would be minutes; linear was below 0.3 s (2 shared cores).
        previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("took more than 5 s"))
        signal.alarm(5)
        try:
            Document.from_markdown(text)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)


def test_every_kind_of_picture_becomes_rgb() -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    sixteen = Image.from_bytes(encode(pillow.fromarray(grey * 257), "PNG")).array()
    assert (sixteen == grey.astype(np.uint8)[:, :, None]).all()
    transparent = np.zeros((1, 3, 4), dtype=np.uint8)
    transparent[0, :, 3] = (0, 255, 128)
    on_white = Image.from_bytes(encode(pillow.fromarray(transparent), "PNG")).array()
    assert on_white[0, :, 0].tolist() == [255, 0, 127]
    grey_alpha = Image.from_bytes(encode(pillow.fromarray(transparent[:, :, 2:]), "PNG")).array()
    assert (grey_alpha == on_white).all()
    palette = pillow.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert Image.from_bytes(encode(palette, "PNG")).array().tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert Image.from_bytes(encode(palette, "PNG", transparency=0)).array().tolist() == [[[255, 255, 255], [0, 0, 255]]]
    red = Image.from_bytes(encode(pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).array()
    assert np.abs(red.astype(int) - (255, 0, 0)).max() <= 6  # JPEG
    first = pillow.new("RGB", (4, 4), (255, 0, 0))
    film = Image.from_bytes(encode(first, "GIF", save_all=True, append_images=[pillow.new("RGB", (4, 4), (0, 0, 255))]))
    assert film.array()[0, 0].tolist() == [255, 0, 0]


def test_pictures_are_turned_upright() -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image = Image.from_bytes(encode(pillow.fromarray(pixels(0, 8, 16)), "JPEG", exif=exif))
    assert image.size == (8, 16)
    assert image.array().shape == (16, 8, 3)


def test_an_array_is_kept_and_encoded_only_when_asked() -> None:
    source = pixels()
    expected = source.copy()
    image = Image.from_array(source)
    source[:] = 0
    image.array()[:] = 1
    assert (image.array() == expected).all()
    assert image._bytes is None
    assert (Image.from_bytes(image.data).array() == expected).all()
    assert image == Image.from_bytes(image.data)
    assert hash(image) == hash(Image.from_bytes(image.data))


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), [1]])
def test_other_arrays_are_refused(wrong: object) -> None:
    with pytest.raises(DocumentError, match="expected a uint8 array of shape"):
        Image.from_array(wrong)  # type: ignore[arg-type]


def test_documents_are_immutable_values() -> None:
    page = Document("one text")
    longer = page + "more" + Image.from_array(pixels())
    assert len(page) == 1
    assert [type(segment) for segment in longer] == [Text, Text, Image]
    assert page + Document(["more"]) == Document(["one text", "more"])
    assert page.append("x") == page + "x"
    with pytest.raises(AttributeError):
        page.segments = ()  # type: ignore[misc]
    with pytest.raises(DocumentError, match="got int"):
        Document([3])  # type: ignore[list-item]


# Writing -----------------------------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "page.json"
    Document(["old"]).save(target)
    old = target.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .* unchanged"):
            Document(["new" * 5000]).save(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert target.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["page.json"]


def test_impossible_places_are_storage_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.md").mkdir()
    for place in (tmp_path / "file" / "page.md", tmp_path / "folder.md", tmp_path / "a\x00.html"):
        with pytest.raises(StorageError, match="cannot write"):
            Document(["text"]).save(place)
    with pytest.raises(DocumentError, match=r"written as \.md, \.json or \.html"):
        Document(["text"]).save(tmp_path / "page.docx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.md"]


def test_saving_makes_missing_folders(tmp_path: Path) -> None:
    for suffix in (".md", ".json", ".html"):
        assert Document(["text"]).save(tmp_path / "out" / "deep" / f"page{suffix}").exists()
