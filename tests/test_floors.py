"""The house: files import only lower floors or their own folder; only the command line prints; files stay readable."""

import ast
from pathlib import Path

import pytest

import mm_interleaved

PACKAGE = Path(mm_interleaved.__file__).parent
GROUND = ("errors", "name_patterns", "picture_file", "document", "export", "batch")
"""The ground floor, in order: a room on it may import those before it."""
ONE_ROOM = {"document", "export"}
"""A document and its written forms: one room with two doors."""
FLOORS = {
    **dict.fromkeys(GROUND, 0),
    "ops": 1,
    "model": 2,
    "processing": 2,
    "data": 3,
    "checkpoint": 3,
    "training": 4,
    "generation": 4,
    "evaluation": 5,
    "serving": 6,
    "testing": 6,
    "cli": 7,
    "__init__": 8,
}
LONGEST_FILE = 500
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "mm_interleaved" else [f"mm_interleaved.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("mm_interleaved.")}
    return rooms - {"__version__"}  # a number, no room


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_lower_floors_or_its_own_folder(path):
    room = room_of(path)
    assert room in FLOORS, f"{room} has no floor; add it to FLOORS and to docs/architecture.md"
    for other in imported_rooms(path) - {room}:
        assert other in FLOORS, f"{path.name} imports {other}, which has no floor"
        if {room, other} == ONE_ROOM:
            continue
        lower = GROUND.index(other) < GROUND.index(room) if room in GROUND and other in GROUND else FLOORS[other] < FLOORS[room]
        assert lower, f"{path.name} ({room}, floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path):
    if room_of(path) == "cli":
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_holds_one_readable_subject(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    assert len(path.relative_to(PACKAGE).parts) <= 4, "at most two folders below the package, and the playground's tasks"
