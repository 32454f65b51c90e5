"""The larger tasks: pure, true to their words, balanced, and never showing in training what is held out."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from mm_interleaved.data.playground.canvas import Picture, box, class_map, paint
from mm_interleaved.data.playground.filters import SETTINGS, apply_filter, filters
from mm_interleaved.data.playground.judges.contrast import redraw
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.stuff import CLASSES, LABEL_COLOURS, PLACES, Landscape, classes_in, draw_landscape
from mm_interleaved.data.playground.tasks import building, known_words, processes, sample, silhouettes, staging, tales, texts
from mm_interleaved.data.playground.tasks.episodes import episodes
from mm_interleaved.data.playground.tasks.larger import TASKS
from mm_interleaved.data.playground.tasks.layouts import layout_classes
from mm_interleaved.data.playground.tasks.roles import STYLE_FIRST, SUBJECT_FIRST
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.errors import ConfigError

MANY = 150


def _shown(world: World, document) -> set[tuple[int, int]]:
    """(thing, style) of everything shown in its own colours."""
    styles = {style.id: number for number, style in enumerate(world.pack.styles)}
    kinds = ("thing", "halves", "slices", "pile")
    pieces = [piece for scene in document.truth["scenes"] for piece in scene.get("pieces", ()) if piece["kind"] in kinds]
    return {(world.numbers[piece["name"]], styles[piece["look"]]) for piece in pieces}


@pytest.mark.parametrize("task", TASKS)
def test_training_never_shows_a_held_out_pair_nor_an_unnamed_thing(train: World, task: str) -> None:
    held_out = set(train.test_pairs)
    for index in range(MANY):
        shown = _shown(train, sample(task, train, 3, index, 1))
        assert not shown & held_out, index
        assert all(thing < train.config.things for thing, _ in shown)


COMBINATIONS = {
    "blocks": lambda truth: (truth["goal"], truth["size"], truth["material"]),
    "silhouette": lambda truth: (truth["thing"], truth["scenes"][0]["silhouette"]["background"]),
    "tale": lambda truth: (truth["plot"], truth["hero"]),
    "process": lambda truth: (truth["process"], truth["made_of"], truth["style"]),
    "episode": lambda truth: tuple(sorted((truth["left"], truth["right"]))),
}


@pytest.mark.parametrize("task", COMBINATIONS)
def test_what_the_test_split_combines_training_never_combines(train: World, test: World, task: str) -> None:
    seen = [{COMBINATIONS[task](sample(task, world, 4, index, 1).truth) for index in range(250)} for world in (train, test)]
    assert not seen[0] & seen[1]
    assert len(seen[0]) > 20 and len(seen[1]) > 4


def test_things_given_by_picture_were_never_shown_in_the_test_split(test: World) -> None:
    unseen = {test.pack.things[thing].id for thing in test.unseen_things}
    for index in range(60):
        roles = sample("two_roles", test, 5, index, 1).truth
        assert {roles["subject"], roles["example"]} <= unseen
        assert set(sample("joined_scene", test, 5, index, 1).truth["things"]) <= unseen
        hero = sample("own_hero", test, 5, index, 1).truth
        assert hero["kind"] == "figure" or hero["hero"] in unseen


def test_named_things_of_the_test_split_are_held_out_pairs(test: World) -> None:
    held_out = {(test.pack.things[thing].id, test.pack.styles[style].id) for thing, style in test.test_pairs}
    for index in range(60):
        truth = sample("style_named", test, 6, index, 1).truth
        assert (truth["thing"], truth["style"]) in held_out
        truth = sample("layout_map", test, 6, index, 1).truth
        assert truth["unseen"] or all((name, truth["style"]) in held_out for name in truth["things"])
        truth = sample("surroundings", test, 6, index, 1).truth
        if truth["surroundings"] != "field":
            piece = truth["scenes"][1]["pieces"][0]
            assert (piece["name"], piece["look"]) in held_out


def test_roles_decide_the_picture_and_both_orders_come_equally_often(train: World) -> None:
    first = 0
    for index in range(MANY):
        document = sample("two_roles", train, 7, index, 1)
        truth = document.truth
        subject, example = truth["scenes"][0:2] if truth["subject_first"] else truth["scenes"][1::-1]
        wanted = truth["scenes"][2]["pieces"][0]
        assert (wanted["name"], wanted["look"]) == (subject["pieces"][0]["name"], example["pieces"][0]["look"])
        assert subject["pieces"][0]["look"] != wanted["look"] and subject["pieces"][0]["name"] != example["pieces"][0]["name"]
        first += truth["subject_first"]
    assert abs(first / MANY - 0.5) < 0.17  # four standard deviations


def test_swapping_the_two_pictures_swaps_the_result(train: World) -> None:
    for language in ("en", "zh"):
        betweens = [{words[:2] for words in table[language]} for table in (SUBJECT_FIRST, STYLE_FIRST)]
        assert not betweens[0] & betweens[1]  # the words alone say which picture is the subject
    truth = sample("two_roles", train, 7, 0, 1).truth
    swapped = dict(truth["scenes"][2]["pieces"][0], name=truth["example"], look=truth["own_style"])
    assert swapped != truth["scenes"][2]["pieces"][0]


def test_new_things_leave_their_surroundings_as_they_were(train: World) -> None:
    kinds = Counter()
    for index in range(40):
        document = sample("surroundings", train, 8, index, 96)
        kinds[document.truth["surroundings"]] += 1
        before, after = document.segments[0], document.segments[2]
        assert (before != after).any()
        if document.truth["surroundings"] != "field":
            piece = Picture.from_json(document.truth["scenes"][1]).pieces[0]
            left, top, right, bottom = box(piece, train.pack, 96)
            outside = np.ones((96, 96), bool)
            outside[max(top, 0) : bottom, max(left, 0) : right] = False
            assert (before[outside] == after[outside]).all()
    assert set(kinds) == {"field", "place", "photo"}


def test_a_third_of_the_contexts_is_contradicted_and_unseen_filters_come_in_the_test_split_only(train: World, test: World) -> None:
    known, unseen = filters(held_out=False), filters(held_out=True)
    assert not set(known) & set(unseen) and 0.2 < len(unseen) / (len(known) + len(unseen)) < 0.5
    contradicted = filtered = 0
    for index in range(MANY):
        shown = sample("context_style", train, 9, index, 1).truth
        assert shown["filter"] is None or tuple(shown["filter"]) in known
        asked = sample("context_style", test, 9, index, 1).truth
        assert asked["filter"] is None or tuple(asked["filter"]) in unseen
        contradicted += shown["contradicted"]
        filtered += asked["filter"] is not None
    assert abs(contradicted / MANY - 1 / 3) < 0.16 and abs(filtered / MANY - 1 / 3) < 0.16


def test_every_filter_changes_a_picture_and_keeps_its_shape(pack: Pack) -> None:
    picture = paint(Picture(landscape=Landscape(place="beach", style="3d", shape=1), pieces=()), pack, 64)
    made = {}
    for name, settings in SETTINGS.items():
        for setting in settings:
            made[name, setting] = apply_filter(picture, (name, setting))
            assert made[name, setting].shape == picture.shape and made[name, setting].dtype == np.uint8
            assert (made[name, setting] != picture).any(), (name, setting)
    with pytest.raises(ConfigError, match="no filter is called"):
        apply_filter(picture, ("blur", 3))


def test_every_pixel_of_a_map_has_one_of_23_classes_and_exact_maps_are_the_picture(train: World) -> None:
    assert len(CLASSES) == len(LABEL_COLOURS) == 23 and len({tuple(colour) for colour in LABEL_COLOURS}) == 23
    by_hand = 0
    for index in range(40):
        document = sample("layout_map", train, 10, index, 96)
        classes = classes_in(document.segments[0])
        assert (LABEL_COLOURS[classes] == document.segments[0]).all()
        wanted = class_map(Picture.from_json(document.truth["scenes"][1]), train.pack, 96)
        if document.truth["drawn_by_hand"]:
            by_hand += 1
            assert 0.75 < (classes == wanted).mean() < 1
        else:
            assert (classes == wanted).all()
        assert (classes == layout_classes(document.truth["scenes"][0], train.pack, 96)).all()
    assert 3 <= by_hand <= 20


def test_places_are_pure_and_their_shape_number_bends_them(pack: Pack) -> None:
    for place in PLACES:
        one = draw_landscape(Landscape(place=place.id, style="cartoon", shape=5), 64)
        draw_landscape.cache_clear()
        assert (one == draw_landscape(Landscape(place=place.id, style="cartoon", shape=5), 64)).all()
        assert any((one != draw_landscape(Landscape(place=place.id, style="cartoon", shape=shape), 64)).any() for shape in (6, 7, 8))


def test_descriptions_of_silhouettes_have_25_to_40_words(train: World) -> None:
    world = World(train.pack, WorldConfig(chinese=0.0))
    for name in silhouettes.OBJECTS:
        for background in silhouettes.BACKGROUNDS:
            for form in range(len(silhouettes.TEXTS["en"])):
                for palette in ("ice", "dusk", "spring"):
                    drawn = silhouettes.Silhouette(object=name, ink="navy", palette=palette, place="left", background=background)
                    count = len(silhouettes._describe(world, drawn, form, "en").split())
                    assert 25 <= count <= 40, (name, background, form, count)


def test_all_four_aspects_of_a_silhouette_show(pack: Pack) -> None:
    mine = silhouettes.Silhouette(object="cactus", ink="navy", palette="dawn", place="left", background="disc")
    drawn = silhouettes.draw(mine, pack, 96)
    for others in silhouettes.rivals(mine, silhouettes.OBJECTS).values():
        for other in others:
            assert (silhouettes.draw(other, pack, 96) != drawn).any(), other


@pytest.mark.parametrize("goal", building.GOALS)
def test_every_step_adds_blocks_that_show(goal: str) -> None:
    for size in building.GOALS[goal][1]:
        steps = building.steps_of(goal, size, "oak")
        assert 2 <= len(steps) <= 6 and all(step.blocks for step in steps)
        pictures = [
            building.draw_blocks({"goal": goal, "size": size, "material": "oak", "done": done}, 112) for done in range(len(steps) + 1)
        ]
        for before, after in pairwise(pictures):
            assert (before != after).any(2).mean() > 0.0003, (goal, size)


def test_sizes_and_materials_of_a_goal_are_held_out(train: World) -> None:
    for goal, (_, sizes, *_) in building.GOALS.items():
        shown, kept = (building.variants(goal, held_out=side) for side in (False, True))
        assert len(shown) + len(kept) == len(sizes) * len(building.MATERIALS)
        assert len({size for size, _ in shown}) == len(sizes) - 1
        assert len({material for _, material in shown}) == len(building.MATERIALS) - 2


def test_blocks_ask_for_the_step_after_those_given(train: World) -> None:
    for index in range(40):
        document = sample("blocks", train, 11, index, 1)
        assert document.prompt == len(document.segments) - 2 == 1 + 2 * (document.truth["step"] - 1)
        assert [scene["blocks"]["done"] for scene in document.truth["scenes"]] == list(range(1, document.truth["step"] + 1))


def test_there_are_twenty_plots_whose_panels_name_what_they_show(train: World) -> None:
    assert len(tales.plots()) >= 20 and {plot.kind for plot in tales.plots().values()} == {"tale", "journal"}
    for plot in tales.plots().values():
        assert len(plot.panels) == len(plot.places) == 4 and plot.heroes and plot.casts
        for language, number in (("en", 0), ("zh", 1)):
            for cast in plot.casts:
                names = dict(zip(tales.ROLES, cast, strict=True))
                assert all(staging.is_known(train, name) for name in (*cast, *plot.heroes)), plot.id
                blanks = tales._blanks(train, plot.heroes[0], names, 0, language)
                texts = [panel[number].format(**blanks) for panel in plot.panels]
                truth = {"language": language, "plot": plot.id, "hero": plot.heroes[0]}
                assert all(tales.answers(train, truth, texts).values()), (plot.id, cast, language, tales.answers(train, truth, texts))


def test_questions_on_a_story_fail_for_another_story(train: World) -> None:
    documents = [sample("tale", train, 12, index, 1) for index in range(60)]
    right = []
    for one, other in pairwise(documents):
        if one.truth["plot"] != other.truth["plot"] and one.truth["language"] == other.truth["language"]:
            right += list(tales.answers(train, one.truth, other.truth["texts"]).values())
            assert not any(tales.answers(train, one.truth, []).values())
    assert len(right) > 60 and np.mean(right) < 0.2


def test_what_panel_one_shows_returns_and_the_hero_stays(train: World) -> None:
    plots = Counter()
    for index in range(MANY):
        document = sample("tale", train, 13, index, 1)
        panels = [[piece["name"] for piece in scene["pieces"]] for scene in document.truth["scenes"]]
        assert panels[0] == panels[3] and panels == document.truth["panels"]
        looks = {piece["look"] for scene in document.truth["scenes"] for piece in scene["pieces"] if piece["kind"] == "thing"}
        assert len(looks) == 1 and {names[0] for names in panels} == {document.truth["hero"]}
        plots[document.truth["plot"]] += 1
    assert len(plots) >= 20


def test_there_are_forty_processes_with_real_stages(train: World) -> None:
    found = processes.processes()
    assert len(found) >= 40 and set(processes._doable(train)) == set(found)
    for each in found.values():
        assert 3 <= len(each.stages) <= 6
        assert len({stage.en for stage in each.stages}) == len(each.stages) == len({stage.zh for stage in each.stages})
        assert all(1 <= len(stage.show) <= 3 for stage in each.stages)


def test_apple_juice_is_washed_cut_pressed_poured_and_served(pack: Pack) -> None:
    stages = processes.processes()["juice"].stages
    assert [stage.en.split()[0] for stage in stages] == ["wash", "cut", "press", "pour", "add"]
    assert dict(processes.processes()["juice"].results)["apple"] == "glass_yellow"


def test_episodes_keep_their_two_figures_and_change_feelings(train: World) -> None:
    assert len(episodes()) >= 12
    for index in range(40):
        truth = sample("episode", train, 14, index, 1).truth
        for scene in truth["scenes"]:
            assert [piece["name"] for piece in scene["pieces"] if piece["kind"] == "figure"] == [truth["left"], truth["right"]]
        assert len({tuple(pair) for pair in truth["feelings"]}) > 1


def test_words_never_tell_what_the_own_hero_is(train: World, test: World) -> None:
    for world in (train, test):
        for index in range(60):
            document = sample("own_hero", world, 15, index, 1)
            if document.truth["kind"] == "thing":
                thing = world.pack.things[world.numbers[document.truth["hero"]]]
                text = " ".join(part for part in document.segments if isinstance(part, str)).lower()
                assert f" {thing.name_en} " not in f" {text.replace('.', ' ')} " or thing.name_en in document.truth.get("answer", "")
                # A name of one character may be part of another word: a mountain and "in the mountains".
                assert document.truth["language"] == "en" or len(thing.name_zh) == 1 or thing.name_zh not in text


def test_conversations_end_with_each_of_four_turns(train: World) -> None:
    turns = Counter(sample("conversation", train, 16, index, 1).truth["turn"] for index in range(MANY))
    assert set(turns) == {"what", "draw", "about", "change"} and min(turns.values()) > MANY / 4 - 4 * (MANY * 3 / 16) ** 0.5


@pytest.mark.parametrize("task", TASKS)
def test_known_words_hold_every_word_of_every_text(pack: Pack, task: str) -> None:
    known = known_words(pack, [task])
    for share in (0.0, 1.0):
        for text in texts(World(pack, WorldConfig(chinese=share)), 80, 1, tasks=[task]):
            words = "".join(c if (c.isalnum() and c.isascii()) or c == "-" else " " for c in text.lower()).split()
            assert not [word for word in words if word.strip("-") not in known], text
            assert not [c for c in text if "\u4e00" <= c <= "\u9fff" and c not in "".join(known)], text
            assert "{" not in text


@pytest.mark.parametrize("task", TASKS)
def test_pictures_can_be_drawn_again_from_the_truth(train: World, task: str) -> None:
    for index in range(3):
        document = sample(task, train, 17, index, 64)
        pictures = [part for part in document.segments if not isinstance(part, str)]
        assert len(pictures) == len(document.truth["scenes"])
        for picture, scene in zip(pictures, document.truth["scenes"], strict=True):
            assert (redraw(scene, train.pack, 64) == picture).all()


def test_worlds_too_small_for_a_table_are_named(pack: Pack) -> None:
    tiny = World(pack, WorldConfig(things=3, held_out_pairs=0.0))
    with pytest.raises(ConfigError, match=r"raise world\.things"):
        sample("tale", tiny, 0, 0, 1)
