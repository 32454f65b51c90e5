"""The judges of the larger tasks: right on real pictures, at chance on swapped labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mm_interleaved.data.playground.canvas import Picture, class_map
from mm_interleaved.data.playground.judges import networks
from mm_interleaved.data.playground.judges import scores as score_module
from mm_interleaved.data.playground.judges.contrast import judge, nearest, redraw, rivals
from mm_interleaved.data.playground.judges.scores import scores
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.tasks.larger import TASKS
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.errors import ConfigError, DataError, ShapeError

FEW = 24
TABLED = ("tale", "process", "episode", "surroundings", "own_hero", "silhouette")
"""Tasks whose tables need the whole world."""


@pytest.fixture(scope="module")
def world() -> World:
    return World(Pack.load(), WorldConfig(split="test"))


def _last(world: World, task: str, index: int) -> tuple[np.ndarray, dict]:
    """The last picture of a sample as the smallest model would draw it, and its scene."""
    document = sample(task, world, 21, index)
    picture = [part for part in document.segments if not isinstance(part, str)][-1]
    return np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BOX)), document.truth["scenes"][-1]


@pytest.mark.parametrize("task", ["blocks", "silhouette", "style_named", "two_roles", "context_style", "tale", "episode"])
def test_contrast_knows_real_pictures(world: World, task: str) -> None:
    # A few rivals differ by less than the shrinking from 224 to 64 pixels does (flat and 3D are the same drawings): 90 % are asked for.
    things = [world.pack.things[thing].id for thing in world.train_things[:12]]
    styles = [style.id for style in world.pack.styles]
    found = []
    for index in range(4):
        picture, scene = _last(world, task, index)
        found += list(judge(picture, scene, rivals(scene, world.pack, things, styles), world.pack).values())
    assert np.mean(found) >= 0.9, task


def test_contrast_falls_to_chance_on_swapped_labels(world: World) -> None:
    pictures, scenes = zip(*(_last(world, "silhouette", index) for index in range(FEW)), strict=True)
    right = [nearest(picture, scenes, world.pack) == (index + 1) % FEW for index, picture in enumerate(pictures)]
    assert np.mean(right) < 0.15


def test_scenes_of_another_kind_are_named(world: World) -> None:
    with pytest.raises(ConfigError, match="no picture can be drawn"):
        redraw({"items": []}, world.pack, 32)


def test_the_segmenter_reads_real_layouts_and_not_swapped_ones(world: World) -> None:
    pictures, maps = [], []
    for index in range(FEW):
        picture, scene = _last(world, "layout_map", index)
        pictures.append(picture)
        maps.append(class_map(Picture.from_json(scene), world.pack, 64))
    found = networks.segment(pictures)
    right = np.mean([networks.mean_overlap(one, other) for one, other in zip(found, maps, strict=True)])
    swapped = np.mean([networks.mean_overlap(one, other) for one, other in zip(found, maps[1:] + maps[:1], strict=True)])
    assert right > SEGMENTER_BAR and swapped < right / 2


def test_the_style_judge_knows_styles_and_filters(world: World) -> None:
    right = []
    for index in range(2 * FEW):
        picture, scene = _last(world, "context_style", index)
        style = scene["pieces"][0]["look"] if scene["pieces"] else scene["landscape"]["style"]
        wanted = style if scene["filter"] is None else scene["filter"][0]
        right.append(networks.name_styles([picture])[0] == wanted)
    assert np.mean(right) > STYLE_BAR


SEGMENTER_BAR, STYLE_BAR = 0.8, 0.9
"""Below what was measured (docs/data.md: 0.88, and 0.99 over four tasks), well above chance (swapped labels 0.10; one of 14 styles)."""


@pytest.mark.parametrize("task", TASKS)
def test_true_continuations_score_high_and_empty_ones_nothing(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_module, "JUDGED_THINGS", 12)
    world = World(Pack.load(), WorldConfig(things=30, held_out_pairs=0.15) if task not in TABLED else WorldConfig())
    found: dict[str, list[float]] = {}
    for index in range(2):
        asked = sample(task, world, 22, index)
        for name, value in scores(world, asked, asked.segments[asked.prompt :]).items():
            found.setdefault(name, []).append(value)
        assert not any(scores(world, asked, ()).values())
    assert found and all(np.mean(values) >= (0.8 if name == "layout" else 1.0) for name, values in found.items()), found


def test_scores_of_another_task_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="no scores for task 'caption'"):
        scores(world, sample("caption", world, 0, 0, 32), ())


def test_judges_weigh_less_than_one_megabyte() -> None:
    assert sum((networks.FOLDER / name).stat().st_size for name in (networks.SEGMENTER, networks.STYLE_JUDGE)) < 1_000_000


def test_overlap_is_one_for_equal_maps_and_counts_classes_of_both() -> None:
    one = np.zeros((4, 4), np.uint8)
    other = one.copy()
    other[:2] = 3
    assert networks.mean_overlap(one, one) == 1.0
    assert networks.mean_overlap(one, other) == 0.25  # class 0: 8 of 16, class 3: none


def test_missing_or_broken_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=r"scripts/train_judges\.py"):
        networks._load(networks.StyleJudge(), networks.STYLE_JUDGE)
    (tmp_path / networks.STYLE_JUDGE).write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"scripts/train_judges\.py"):
        networks._load(networks.StyleJudge(), networks.STYLE_JUDGE)


def test_judges_refuse_what_is_no_picture() -> None:
    with pytest.raises(ShapeError, match="H W 3 uint8"):
        networks.as_pixels([np.zeros((4, 4), np.uint8)])
