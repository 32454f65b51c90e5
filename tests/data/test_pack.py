"""The pack: what it holds, what it refuses, and that it can be built again."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mm_interleaved.data.playground import build, build_wide
from mm_interleaved.data.playground.pack import DEFAULT_FOLDER, PACK_VERSION, Pack
from mm_interleaved.errors import ConfigError, DataError

PACKAGES = Path(os.environ.get("MMI_PLAYGROUND_PACKAGES", "/nonexistent"))


def test_pack_has_at_least_200_things_in_five_styles_below_twelve_megabytes(pack: Pack) -> None:
    assert len(pack.things) >= 200
    assert [style.id for style in pack.styles] == ["3d", "flat", "ink", "cartoon", "sticker"]
    assert sum(path.stat().st_size for path in DEFAULT_FOLDER.iterdir()) < 12_000_000


def test_names_are_unique_and_complete(pack: Pack) -> None:
    for field in ("id", "code_point", "name_en", "plural_en", "name_zh"):
        values = [getattr(thing, field) for thing in pack.things]
        assert all(values)
        assert len(set(values)) == len(values), field
    assert all(thing.article_en in ("a", "an") and len(thing.measure_zh) == 1 for thing in pack.things)
    assert all(thing.name_en == thing.name_en.lower() for thing in pack.things)


def test_every_drawing_fills_its_frame_and_is_visible(pack: Pack) -> None:
    for thing in range(0, len(pack.things), 5):
        for style in range(len(pack.styles)):
            drawing = pack.drawing(thing, style)
            assert drawing.dtype == np.uint8 and max(drawing.shape[:2]) == 128 and drawing.shape[2] == 4
            assert (drawing[..., 3] > 128).mean() > 0.05, (pack.things[thing].id, style)


def test_the_table_of_things_is_the_one_in_the_pack(pack: Pack) -> None:
    assert build.read_things() == pack.things


def test_ink_is_black(pack: Pack) -> None:
    drawing = pack.drawing(0, 2)
    assert drawing[drawing[..., 3] == 255][:, :3].max() < 40


def test_missing_pack_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mmi data build"):
        Pack.load(tmp_path)


def test_pack_of_another_version_is_refused(tmp_path: Path) -> None:
    manifest = json.loads((DEFAULT_FOLDER / "manifest.json").read_text(encoding="utf-8"))
    manifest["version"] = PACK_VERSION + 1
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match=f"version {PACK_VERSION + 1}"):
        Pack.load(tmp_path)


def test_changed_archive_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(DEFAULT_FOLDER, folder)
    archive = folder / "flat.zip"
    content = bytearray(archive.read_bytes())
    content[1000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"flat\.zip was changed"):
        Pack.load(folder)


def test_missing_package_is_named_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"npm pack @lobehub/fluent-emoji-3d@1\.1\.0"):
        build.build_pack(tmp_path, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_package_of_an_untested_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "node_modules" / "@lobehub" / "fluent-emoji-3d"
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"version": "2.0.0"}')
    with pytest.raises(DataError, match=r"has version 2\.0\.0"):
        build.build_pack(tmp_path, tmp_path / "pack")


def test_unreadable_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "lobehub-fluent-emoji-3d-1.1.0.tgz").write_bytes(b"not a tar file")
    with pytest.raises(DataError, match="is not a whole npm package"):
        build.build_pack(tmp_path, tmp_path / "pack")


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGES.is_dir(), reason="set MMI_PLAYGROUND_PACKAGES to a folder with the npm packages of build.SOURCES")
def test_building_the_pack_twice_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = build.read_things()[:12]
    monkeypatch.setattr(build, "read_things", lambda: few)
    first = build.build_pack(PACKAGES, tmp_path / "first")
    second = build.build_pack(PACKAGES, tmp_path / "second")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir()) and len(names) == 9
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".pack-")]


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGES.is_dir(), reason="set MMI_PLAYGROUND_PACKAGES to a folder with the npm packages of build.SOURCES")
def test_interrupted_build_leaves_the_older_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = build.read_things()[:2]
    monkeypatch.setattr(build, "read_things", lambda: few)
    folder = build.build_pack(PACKAGES, tmp_path / "pack")
    before = (folder / "manifest.json").read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "_write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build.build_pack(PACKAGES, folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


class Names(build.Package):
    """Stands for the package of names: characters with a name, and their keywords."""

    def __init__(self, **named: list[str]) -> None:
        self._entries = {character: {"tts": [name], "default": keywords} for character, (name, *keywords) in named.items()}

    def json(self, _: str) -> dict:
        return {"annotations": {"annotations": self._entries}}


def test_the_wide_pack_adds_what_is_no_person_has_no_letters_and_shares_no_word_with_ours() -> None:
    names = Names(
        **{
            "\N{ABACUS}": ["abacus", "calculation"],
            "\N{DOG}": ["dog", "animal"],  # ours is the dog's face
            "\N{PRINCESS}": ["princess", "crown"],
            "\N{FLEXED BICEPS}": ["flexed biceps", "arm"],
            "\N{SQUARED NEW}": ["NEW button", "sign"],
            "\N{OX}": ["ox", "bull"],
            "fi": ["flag: Finland"],
        }
    )
    others = list(build_wide._others(build.read_things(), names))
    assert [(thing.id, thing.article_en, thing.code_point) for thing in others] == [("abacus", "an", "1f9ee"), ("ox", "an", "1f402")]


def test_the_wide_pack_never_replaces_the_one_in_the_box(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--output"):
        build_wide.build_wide_pack(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGES.is_dir(), reason="set MMI_PLAYGROUND_PACKAGES to a folder with the npm packages of build.SOURCES")
def test_the_wide_pack_begins_with_things_of_ours_and_shows_none_that_only_tests_show(tmp_path: Path) -> None:
    wide = Pack.load(build_wide.build_wide_pack(PACKAGES, tmp_path / "wide"))
    ours = build.read_things()
    assert wide.things[: build_wide.SHOWN] == ours[: build_wide.SHOWN] and len(wide.things) > 3 * len(ours)
    assert not {thing.code_point for thing in ours[build_wide.SHOWN :]} & {thing.code_point for thing in wide.things}
    assert (wide.drawing(0, 0) == Pack.load().drawing(0, 0)).all()
    assert all(wide.drawing(len(wide.things) - 1, style).any() for style in range(len(wide.styles)))
