"""Shapes and types in signatures are checked in every call while the tests run, and only then."""

import importlib.util
from pathlib import Path

from jaxtyping import install_import_hook

import tests.shape_checking  # noqa: F401  (the hook looks it up by name)

PACKAGE = Path(importlib.util.find_spec("mm_interleaved").origin).parent
CHECKED_ROOMS = ("batch", "data", "generation", "model", "ops", "processing")
# They refuse wrong arguments themselves, with errors that the tests read.
SELF_CHECKING = {
    "mm_interleaved.data.playground.world",
    "mm_interleaved.generation.options",
    "mm_interleaved.generation.published",
    "mm_interleaved.generation.published_options",
    "mm_interleaved.model.configuration",
    "mm_interleaved.ops.deformable.__init__",
}


def checked_modules() -> list[str]:
    names = {".".join(("mm_interleaved", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in PACKAGE.rglob("*.py")}
    return sorted(name for name in names - SELF_CHECKING if name.split(".")[1] in CHECKED_ROOMS and not name.endswith(".__init__"))


# Before any test imports the package.
install_import_hook(checked_modules(), "tests.shape_checking.checked")
