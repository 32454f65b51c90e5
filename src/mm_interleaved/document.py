"""Document: the one type that everything reads, continues, compares and writes — an ordered list of texts and pictures.

People write a document as Markdown (`export/markdown.py`), programs as JSON (the chat-API form, `export/json_form.py`), and
read it as a page (`export/html.py`). Reading back what was written gives an equal document, to the byte of every picture.

Documents, texts and pictures are immutable: what is appended to a document is in a new one, so a document can be shared
between threads and kept as the state before a step. A picture is checked completely when it is read: after that, nothing
about it can fail. Floor 0: no torch.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image as pillow

from mm_interleaved.errors import DocumentError
from mm_interleaved.picture_file import READABLE, Pixels, check_pixel_count, decode, read_file

Origin: TypeAlias = Literal["given", "generated"]

ORIGINS: tuple[Origin, ...] = ("given", "generated")
KEPT_PIXELS = 2**20
"""A decoded picture up to this size stays in memory beside its file (3 MiB); a larger one is decoded again when asked for."""


@dataclass(frozen=True, slots=True)
class Text:
    """A stretch of words. An empty one is allowed."""

    text: str
    """The words, exactly; any Unicode without lone surrogates."""
    origin: Origin = "given"
    """Who wrote it: the user or the model."""
    token_ids: tuple[int, ...] | None = None
    """What the model wrote, token by token: decoding and encoding again is not the identity. None: the text was never tokens."""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DocumentError(f"text: expected a string, got {type(self.text).__name__}.")
        try:
            self.text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DocumentError(
                f"text: character {error.start} is half of a surrogate pair and stands for no character; remove it."
            ) from error
        _check_origin(self.origin)
        if self.token_ids is not None:
            ids = tuple(self.token_ids)
            if not all(type(token) is int and 0 <= token < 2**63 for token in ids):
                raise DocumentError("text: token_ids must be whole numbers from 0.")
            object.__setattr__(self, "token_ids", ids)


@dataclass(frozen=True, slots=True)
class Generation:
    """How a picture was made: the same model, document, seed, steps, guidance and sampler give the same picture again."""

    seed: int
    """Seed of the noise, from 0 to 2**63 - 1."""
    model_hash: str
    """Fingerprint of the weights that drew it."""
    steps: int
    """Denoising steps."""
    guidance: float
    """Scale of classifier-free guidance; 1 is none."""
    sampler: str | None = None
    """How the steps were taken (`generation.options.SAMPLERS`); None: not recorded, as in documents of earlier versions."""

    def __post_init__(self) -> None:
        for name, value in (("seed", self.seed), ("steps", self.steps)):
            if type(value) is not int or not 0 <= value < 2**63:
                raise DocumentError(f"{name}: expected a whole number from 0 to 2**63 - 1, got {value!r:.60}.")
        for name, word in (("model_hash", self.model_hash), ("sampler", "" if self.sampler is None else self.sampler)):
            if not isinstance(word, str) or not word.isprintable():
                raise DocumentError(f"{name}: expected printable text, got {word!r:.60}.")
        # A whole number is stored as the float it means, so that 3 and 3.0 are written alike; the bound keeps float() from overflowing.
        if type(self.guidance) not in (int, float) or not abs(self.guidance) < 1e6:
            raise DocumentError(f"guidance: expected a number, got {self.guidance!r:.60}.")
        object.__setattr__(self, "guidance", float(self.guidance))


class Image:
    """A picture with its origin: an encoded file kept to the byte, or an array that is encoded (PNG) when bytes are asked for.

    Made by `open`, `from_bytes` or `from_array`. Two pictures are equal if file, alt text and origin are.
    """

    __slots__ = ("_alt", "_bytes", "_generation", "_media_type", "_origin", "_pixels", "_sha256", "_size")

    def __init__(
        self,
        *,
        encoded: bytes | None,
        media_type: str,
        pixels: Pixels | None,
        size: tuple[int, int],
        alt: str,
        origin: Origin,
        generation: Generation | None,
    ) -> None:
        """Stores what the named constructors have checked; call those."""
        _check_origin(origin)
        if generation is not None and origin != "generated":
            raise DocumentError(
                "picture: seed, model_hash, steps, guidance and sampler describe a generated picture; set origin to 'generated'."
            )
        self._alt = Text(alt).text  # the same rule for characters
        self._origin: Origin = origin
        self._generation = generation
        self._bytes = encoded
        self._media_type = media_type
        self._pixels = pixels
        self._size = size
        self._sha256: str | None = None

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, alt: str = "", origin: Origin = "given", generation: Generation | None = None
    ) -> "Image":
        """Reads a picture file.

        Raises:
            DocumentError: there is no such file, it is a folder, or it is not a picture we can read.
        """
        return cls.from_bytes(
            read_file(Path(path), expected=READABLE), alt=alt, origin=origin, generation=generation, where=f"picture {str(path)!r}"
        )

    @classmethod
    def from_bytes(
        cls, encoded: bytes, alt: str = "", origin: Origin = "given", *, generation: Generation | None = None, where: str = "picture"
    ) -> "Image":
        """Takes an encoded picture (PNG, JPEG, WebP, GIF or BMP), decodes it once to be sure of it, and keeps the bytes as they are.

        Args:
            where: how errors name the picture: its path and its place in the document.

        Raises:
            DocumentError: not a picture, cut short, or larger than `MAX_PIXELS`.
        """
        encoded = bytes(encoded)
        pixels, media_type = decode(encoded, where)
        height, width = pixels.shape[:2]
        kept = pixels if width * height <= KEPT_PIXELS else None
        return cls(encoded=encoded, media_type=media_type, pixels=kept, size=(width, height), alt=alt, origin=origin, generation=generation)

    @classmethod
    def from_array(cls, pixels: Pixels, alt: str = "", origin: Origin = "given", *, generation: Generation | None = None) -> "Image":
        """Takes pixels of shape (height, width, 3), RGB, 8 bits; they are copied.

        Raises:
            DocumentError: another shape or type, no pixels, or more than `MAX_PIXELS`.
        """
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            came = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise DocumentError(f"picture: expected a uint8 array of shape (height, width, 3), got {came}.")
        height, width = pixels.shape[:2]
        check_pixel_count(width, height, "picture")
        return cls(
            encoded=None,
            media_type="image/png",
            pixels=np.array(pixels, order="C"),
            size=(width, height),
            alt=alt,
            origin=origin,
            generation=generation,
        )

    @property
    def alt(self) -> str:
        """What the picture shows, for those who cannot see it; may be empty."""
        return self._alt

    @property
    def origin(self) -> Origin:
        """Who made it: the user or the model."""
        return self._origin

    @property
    def generation(self) -> Generation | None:
        """How the model made it; None for given pictures, or where it was not recorded."""
        return self._generation

    @property
    def data(self) -> bytes:
        """The encoded file: exactly as given, or a PNG of the array."""
        if self._bytes is None:
            stream = io.BytesIO()
            pillow.fromarray(self.array()).save(stream, format="PNG")
            self._bytes = stream.getvalue()
        return self._bytes

    @property
    def media_type(self) -> str:
        """Media type of `data`, found from its content: "image/png", …"""
        return self._media_type

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        return self._size

    @property
    def sha256(self) -> str:
        """SHA-256 of `data`, hexadecimal."""
        if self._sha256 is None:
            self._sha256 = hashlib.sha256(self.data).hexdigest()
        return self._sha256

    def array(self) -> Pixels:
        """A fresh array (height, width, 3), RGB, 8 bits: upright by its EXIF orientation, transparency on white, the first frame."""
        if self._pixels is not None:
            return self._pixels.copy()
        return decode(self.data, "picture")[0]

    def described(self, *, alt: str, origin: Origin, generation: Generation | None = None) -> "Image":
        """The same picture under another description; the file is shared, not decoded again."""
        return Image(
            encoded=self._bytes,
            media_type=self._media_type,
            pixels=self._pixels,
            size=self._size,
            alt=alt,
            origin=origin,
            generation=generation,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return self is other or (
            (self.alt, self.origin, self.generation, self.size) == (other.alt, other.origin, other.generation, other.size)
            and self.data == other.data
        )

    def __hash__(self) -> int:
        return hash((self.alt, self.origin, self.generation, self.sha256))

    def __repr__(self) -> str:
        width, height = self.size
        seed = "" if self.generation is None else f", seed {self.generation.seed}"
        return f"Image({width}×{height} {self.media_type}, {self.origin}{seed}, alt={self.alt!r})"


Segment: TypeAlias = Text | Image


class Document:
    """An immutable, ordered list of segments.

    `a + b` joins documents, texts and pictures; `len`, iteration and indices are the segments'.
    """

    __slots__ = ("_segments",)

    def __init__(self, segments: Iterable[Segment | str] = ()) -> None:
        """Keeps the segments as they come: a plain string is a given text, neighbouring texts are not merged.

        Raises:
            DocumentError: a member is neither text nor picture.
        """
        if isinstance(segments, str):
            segments = (segments,)  # one text, not its letters
        self._segments = tuple(_segment(segment) for segment in segments)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Document":
        """Reads a document file: Markdown (.md, .markdown, .txt) or JSON (.json).

        Raises:
            DocumentError: another suffix, no such file, or something in it that cannot be read.
        """
        suffix = Path(path).suffix.lower()
        if suffix in (".md", ".markdown", ".txt"):
            return cls.from_markdown(Path(path))
        if suffix == ".json":
            return cls.from_json(Path(path))
        raise DocumentError(
            f"{path}: expected a document as .md or .json, got {suffix or 'no suffix'!r}; "
            "pages (.html) are for reading only, keep the .json."
        )

    @classmethod
    def from_markdown(cls, source: str | os.PathLike[str], *, folder: str | os.PathLike[str] | None = None) -> "Document":
        """Reads Markdown: `![alt](path)` is a picture, everything else is text, kept verbatim (see `export/markdown.py`).

        Args:
            source: a path object, a string that ends in .md, .markdown or .txt (without a line break), or the Markdown itself.
            folder: where relative picture paths start; absent: the folder of the file, or the current one for Markdown itself.

        Raises:
            DocumentError: a file or picture that cannot be read; says which, where and what to do.
        """
        from mm_interleaved.export import markdown

        return cls(markdown.read(source, folder=folder))

    @classmethod
    def from_json(
        cls,
        source: "str | os.PathLike[str] | list[object] | dict[str, object]",
        *,
        folder: str | os.PathLike[str] | None = None,
        allow_files: bool = True,
    ) -> "Document":
        """Reads the JSON form: a list of segments, or an object with `segments` (see `export/json_form.py`).

        Args:
            source: a path object, a string that ends in .json (without a line break), JSON text, or what JSON text stands for.
            folder: where relative picture paths start; absent: the folder of the file, or the current one otherwise.
            allow_files: False refuses every path, for documents that strangers send: only pictures inside the document are read.

        Raises:
            DocumentError: not JSON, an unknown key, or a picture that cannot be read; says which, where and what to do.
        """
        from mm_interleaved.export import json_form

        return cls(json_form.read(source, folder=folder, allow_files=allow_files))

    def to_markdown(self) -> str:
        """The document as Markdown with its pictures inside (data URIs); `save` puts them into a folder beside the file instead."""
        from mm_interleaved.export import markdown

        return markdown.write(self)

    def to_json(self) -> dict[str, object]:
        """The document as JSON-ready objects with its pictures inside (data URIs)."""
        from mm_interleaved.export import json_form

        return json_form.write(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the document, by suffix: .md (pictures in NAME_images/ beside it), .json (pictures inside) or .html (a page).

        The file appears complete or not at all; an existing one is replaced only by a complete one.

        Raises:
            DocumentError: another suffix.
            StorageError: the file cannot be written.
        """
        from mm_interleaved.export import files, html, json_form, markdown

        target = Path(path)
        suffix = target.suffix.lower()
        if suffix in (".md", ".markdown"):
            markdown.save(self, target)
        elif suffix == ".json":
            files.write_atomically(target, json_form.dumps(self).encode("utf-8"))
        elif suffix in (".html", ".htm"):
            files.write_atomically(target, html.to_html(self).encode("utf-8"))
        else:
            raise DocumentError(f"{target}: documents are written as .md, .json or .html, not as {suffix or 'a file without suffix'!r}.")
        return target

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Texts and pictures in reading order."""
        return self._segments

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures in reading order."""
        return tuple(segment for segment in self._segments if isinstance(segment, Image))

    @property
    def texts(self) -> tuple[Text, ...]:
        """The texts in reading order."""
        return tuple(segment for segment in self._segments if isinstance(segment, Text))

    def append(self, segment: Segment | str) -> "Document":
        """A new document with one more segment at its end."""
        return Document((*self._segments, segment))

    def __add__(self, other: "Document | Segment | str") -> "Document":
        if isinstance(other, Document):
            return Document((*self._segments, *other.segments))
        if isinstance(other, Text | Image | str):
            return self.append(other)
        return NotImplemented

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def __getitem__(self, index: int) -> Segment:
        return self._segments[index]

    def __eq__(self, other: object) -> bool:
        return self._segments == other.segments if isinstance(other, Document) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._segments)

    def __repr__(self) -> str:
        return f"Document({len(self.texts)} texts, {len(self.images)} pictures)"


def _segment(segment: Segment | str) -> Segment:
    if isinstance(segment, str):
        return Text(segment)
    if isinstance(segment, Text | Image):
        return segment
    raise DocumentError(f"document: expected Text, Image or str as a segment, got {type(segment).__name__}.")


def _check_origin(origin: object) -> None:
    if origin not in ORIGINS:
        raise DocumentError(f"origin: expected 'given' or 'generated', got {origin!r:.60}.")
