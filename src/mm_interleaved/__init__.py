"""mm_interleaved: read, write, train and serve interleaved image-text documents.

    import mm_interleaved as mmi

    model = mmi.load()                                           # the model in the box; or the folder of another
    page = mmi.Document.from_markdown("prompt.md")
    model.continue_document(page, max_images=3, seed=7).save("page.html")

Importing this does nothing and is fast: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mm_interleaved.document import Document, Image, Text
    from mm_interleaved.generation.load import load

__version__ = "0.1.0"
__all__ = ["Document", "Image", "Text", "load"]

_HOMES = {
    "Document": "mm_interleaved.document",
    "Image": "mm_interleaved.document",
    "Text": "mm_interleaved.document",
    "load": "mm_interleaved.generation.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
