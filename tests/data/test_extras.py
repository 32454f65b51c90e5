"""Props, figures and photographs of the pack: what they hold and what they refuse."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from mm_interleaved.data.playground import build_extras
from mm_interleaved.data.playground.extras import ARCHIVES, EXTRAS_VERSION, Extras
from mm_interleaved.data.playground.pack import DEFAULT_FOLDER, Pack
from mm_interleaved.errors import DataError


@pytest.fixture(scope="module")
def extras() -> Extras:
    return Extras(DEFAULT_FOLDER)


def test_extras_take_at_most_three_and_a_half_megabytes(extras: Extras) -> None:
    assert sum((DEFAULT_FOLDER / f"{name}.zip").stat().st_size for name in ARCHIVES) < 3_500_000


def test_every_prop_figure_and_photograph_can_be_read(extras: Extras) -> None:
    for prop in extras.props.values():
        for style in prop.styles:
            drawing = extras.prop(prop.id, style)
            assert max(drawing.shape[:2]) == 96 and (drawing[..., 3] > 127).mean() > 0.02, (prop.id, style)
    for figure in extras.figures.values():
        for pose in figure.poses:
            faces = [extras.figure(figure.id, pose, emotion) for emotion in figure.emotions]
            assert len({face.tobytes() for face in faces}) == len(faces), (figure.id, pose)
    for name in extras.photos:
        assert extras.photo(name).shape == (224, 224, 3)


def test_props_have_other_ids_than_things_and_names_in_both_languages(extras: Extras) -> None:
    things = {thing.id for thing in Pack.load().things}
    assert not things & set(extras.props)
    assert all(prop.phrase_en.split()[0] in ("a", "an", "some", "two") for prop in extras.props.values())
    assert all(any("\u4e00" <= character <= "\u9fff" for character in prop.phrase_zh) for prop in extras.props.values())


def test_the_tables_are_those_in_the_pack(extras: Extras) -> None:
    drawn = yaml.safe_load((build_extras.TABLES / "drawn.yaml").read_text(encoding="utf-8"))
    figures = yaml.safe_load((build_extras.TABLES / "figures.yaml").read_text(encoding="utf-8"))["figures"]
    assert set(drawn) <= set(extras.props) and set(figures) == set(extras.figures)


def test_ten_figures_have_names_and_four_have_none(extras: Extras) -> None:
    assert [bool(figure.name_en) for figure in extras.figures.values()].count(True) == 10
    assert [bool(figure.name_zh) for figure in extras.figures.values()].count(False) == 4


def test_unknown_props_are_named(extras: Extras) -> None:
    with pytest.raises(DataError, match="no prop in the pack is called 'spaceship'"):
        extras.prop("spaceship", "3d")


def test_a_missing_archive_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no props\.zip; make it again with `mmi data build`"):
        Extras(tmp_path)


def test_archives_of_another_version_are_refused(tmp_path: Path) -> None:
    shutil.copytree(DEFAULT_FOLDER, tmp_path / "pack")
    with zipfile.ZipFile(tmp_path / "pack" / "props.zip", "w") as archive:
        archive.writestr("index.json", json.dumps({"version": EXTRAS_VERSION + 1, "members": []}))
    with pytest.raises(DataError, match=f"has version {EXTRAS_VERSION + 1}"):
        Extras(tmp_path / "pack")


def test_a_changed_photograph_is_named(tmp_path: Path) -> None:
    shutil.copytree(DEFAULT_FOLDER, tmp_path / "pack")
    path = tmp_path / "pack" / "photos.zip"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        name = archive.namelist()[1]
        content[archive.getinfo(name).header_offset + 200] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"photos\.zip: .* cannot be read"):
        Extras(tmp_path / "pack").photo(name.removesuffix(".webp"))


def test_a_missing_photo_package_is_named_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get download endless-sky-data"):
        build_extras._photos(tmp_path)


def test_an_unreadable_photo_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "endless-sky-data_1_all.deb").write_bytes(
        b"!<arch>\nnothing that ar would write, but long enough to hold one header of sixty bytes"
    )
    with pytest.raises(DataError, match="is not a whole Debian package"):
        build_extras._photos(tmp_path)


def test_a_missing_comic_file_is_named() -> None:
    with pytest.raises(DataError, match=r"npm pack comicgen@1\.9\.9"):
        build_extras._figures(lambda path: None)


def test_feelings_lie_on_the_figure(extras: Extras) -> None:
    happy, angry = (extras.figure("bean", "stand", emotion) for emotion in ("happy", "angry"))
    assert 0.001 < (happy != angry).any(2).mean() < 0.2
