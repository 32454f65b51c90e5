from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mm_interleaved.checkpoint.published import config_from_published
from mm_interleaved.data.kinds import make_source
from mm_interleaved.data.playground.pack import DEFAULT_FOLDER
from mm_interleaved.data.playground.tasks import TASKS
from mm_interleaved.errors import ConfigError, DataError
from mm_interleaved.generation.load import BOX
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.training.assembly import make_corpus
from mm_interleaved.training.optim import freeze
from mm_interleaved.training.recipe import changed_keys, read_model_config, read_recipe, read_saved_recipe

ROOT = Path(__file__).parents[2]
PUBLISHED_SIZE = ("pretrain-13b",)
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "models")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_describes_a_model_a_corpus_and_trainable_parts(path):
    import torch

    # A recipe that goes on from what another one made is read with a model that is there.
    made_before = yaml.safe_load(path.read_text()).get("model", "").startswith(("models/", "runs/"))
    recipe = read_recipe(path, ["model=recipes/models/nano.yaml"] if made_before else [])
    config = read_model_config(recipe) if path.stem not in PUBLISHED_SIZE else config_from_published({"model": {}})
    if not Path(recipe.model).is_dir():  # a trained model brings its tokenizer along
        assert config.text_config.vocab_size >= recipe.tokenizer.vocabulary  # rows that no token uses are left out of the box
    packs = {recipe.data.pack, recipe.data.wide and recipe.data.wide.pack} - {None}
    if not all(pack.is_dir() for pack in packs):  # built from packages when it is wanted
        with pytest.raises(DataError, match="mmi data build"):
            make_corpus(recipe, side=8)
    else:
        corpus = make_corpus(recipe, side=8)
        if not recipe.data.sources:
            corpus.sample(0)
    for source in recipe.data.sources:
        assert make_source(source.kind, source.values()).name == source.name
    with torch.device("meta"):
        model = MMInterleavedForConditionalGeneration(config)
    # An objective's heads are none of the model's.
    assert freeze(model, [pattern for pattern in recipe.trainable if pattern != "!heads.*"])


def test_training_on_own_pictures_rehearses_every_task_that_the_box_learnt():
    own = read_recipe(ROOT / "recipes" / "finetune-own.yaml").data.tasks
    assert own.keys() == TASKS.keys()
    learnt = read_saved_recipe(BOX / "recipe.yaml")["data"]["tasks"]
    often = {task for task, weight in learnt.items() if weight > 0.01 * sum(learnt.values())}
    assert often and all(own[task] > 0 for task in often)


def test_tasks_of_a_wide_world_are_drawn_from_it_and_all_others_are_not(recipe_file):
    wide = {"pack": str(DEFAULT_FOLDER), "world": {"things": 90, "often": 0}, "tasks": ["caption"]}
    corpus = make_corpus(read_recipe(recipe_file(data={"wide": wide})), side=8)
    shown = {task: set() for task in corpus.names}
    for index in range(150):
        scenes = corpus.sample(index).truth["scenes"]
        shown[corpus.task_of(index)] |= {item["thing"] for scene in scenes for item in scene["items"]}
    assert len(shown["caption"]) > 30
    assert max(shown["picture"] | shown["style"]) < 3


@pytest.mark.parametrize(
    ("wide", "message"),
    [
        ({"tasks": ["capton"]}, "data.wide.tasks: unknown key 'capton'; the nearest is 'caption'"),
        ({"world": {"thing": 9}}, "data.wide.world: unknown key 'thing'; the nearest is 'things'"),
        ({"pack": "nowhere"}, "mmi data build"),
    ],
)
def test_a_wrong_wide_world_is_named(recipe_file, wide, message):
    path = recipe_file(data={"wide": {"pack": str(DEFAULT_FOLDER)} | wide})
    with pytest.raises((ConfigError, DataError), match=message):
        make_corpus(read_recipe(path), side=8)


def test_things_of_a_wide_world_are_painted_from_documents_alone(recipe_file):
    wide = {"pack": str(DEFAULT_FOLDER), "world": {"things": 90}, "tasks": ["picture"]}
    corpus = make_corpus(read_recipe(recipe_file(data={"wide": wide})), side=8)
    pictures = [corpus.sample(index) for index in range(150) if corpus.task_of(index) == "picture"]
    assert len({sample.truth["scenes"][0]["items"][0]["thing"] for sample in pictures}) > 20
    with pytest.raises(ConfigError, match=r"objective 'concepts' numbers the things of data\.world, so 'picture'"):
        make_corpus(read_recipe(recipe_file(data={"wide": wide}, objective="concepts")), side=8)


def test_recipes_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(read_recipe(ROOT / "recipes" / "playground-nano.yaml").model).is_file()


@pytest.mark.parametrize(
    ("changes", "wrong", "nearest"),
    [
        ({"trainig": {}}, "trainig", "training"),
        ({"training": {"learning_rat": 1.0}}, "training.learning_rat", "learning_rate"),
        ({"training": {"groups": [{"macth": "*"}]}}, "training.groups.0.macth", "match"),
        ({"init": [{"form": "x", "parts": ["y"]}]}, "init.0.form", "from"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(recipe_file, changes, wrong, nearest):
    with pytest.raises(ConfigError, match=f"unknown key '{wrong}'; the nearest is '{nearest}'"):
        read_recipe(recipe_file(**changes))


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"model_changes": {"image_decoder": {"unet": {"block_out_chanels": [4]}}}}, "image_decoder.unet.block_out_chanels"),
        ({"model_changes": {"text_config": {"hiden_size": 4}}}, "text_config.hiden_size"),
        ({"model_changes": {"mmfs": {"evry": 4}}}, "mmfs.evry"),
    ],
)
def test_an_unknown_field_of_the_model_is_named(recipe, changes, wrong):
    with pytest.raises(ConfigError, match=f"unknown key '{wrong}'"):
        read_model_config(recipe(**changes))


def test_an_unknown_field_of_the_world_and_an_unknown_task_are_named(recipe):
    with pytest.raises(ConfigError, match=r"data\.world: unknown key 'thngs'; the nearest is 'things'"):
        make_corpus(recipe(data={"world": {"thngs": 3}}), side=8)
    with pytest.raises(ConfigError, match=r"data\.tasks: unknown key 'storry'; the nearest is 'story'"):
        make_corpus(recipe(data={"tasks": {"storry": 3}}), side=8)


def test_set_changes_single_values_and_reads_numbers_of_any_form(recipe_file):
    recipe = read_recipe(recipe_file(), ["training.learning_rate=1e-5", "training.steps=7", "output=elsewhere", "init=[]"])
    assert (recipe.training.learning_rate, recipe.training.steps, recipe.output) == (1e-5, 7, "elsewhere")


@pytest.mark.parametrize("change", ["training.steps", "=3", "training.steps=many", "name.first=x", "training.steps=-1"])
def test_a_wrong_set_is_refused(recipe_file, change):
    with pytest.raises(ConfigError):
        read_recipe(recipe_file(), [change])


def test_a_variant_is_its_base_with_its_differences(recipe_file, tmp_path):
    recipe_file("base")
    (tmp_path / "variant.yaml").write_text("base: base.yaml\nname: variant\ntraining: {steps: 9}\n")
    variant = read_recipe(tmp_path / "variant.yaml")
    assert (variant.name, variant.training.steps, variant.training.batch_size) == ("variant", 9, 2)


def test_a_base_that_leads_back_to_itself_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match="leads back to itself"):
        read_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize("content", [None, "- a list", "a: [", "name: x\nmodel: nowhere.yaml\n"])
def test_a_missing_or_broken_file_is_a_config_error(tmp_path, content):
    if content is not None:
        (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(ConfigError):
        read_recipe(tmp_path / "r.yaml")


def test_steps_and_output_may_change_between_runs_but_nothing_that_changes_results(recipe):
    before = recipe().model_dump(mode="json", by_alias=True)
    longer = recipe(training={"steps": 9, "save_every": 1}, output="elsewhere").model_dump(mode="json", by_alias=True)
    other = recipe(training={"seed": 9}, data={"tasks": {"caption": 2}}).model_dump(mode="json", by_alias=True)
    assert changed_keys(before, longer) == []
    assert changed_keys(before, other) == ["data.tasks.caption", "training.seed"]
