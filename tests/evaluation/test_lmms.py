"""The adapter for lmms-eval: on its real base class and registry where the package is installed, else on its documented interface."""

import abc
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image as pillow

from mm_interleaved.document import Image, Text
from mm_interleaved.errors import BackendError, ConfigError, DataError
from mm_interleaved.evaluation import lmms

PICTURE = pillow.fromarray(np.full((8, 8, 3), 90, np.uint8))
SETTINGS = {"max_new_tokens": 4, "until": ["\n"], "temperature": 0, "do_sample": False}


def described():
    """The base class as lmms-eval 0.7 documents it."""

    class Base(abc.ABC):
        def __init__(self):
            self._rank, self._world_size, self.task_dict = 0, 1, {}

        @abc.abstractmethod
        def loglikelihood(self, requests): ...

        @abc.abstractmethod
        def generate_until(self, requests): ...

        @abc.abstractmethod
        def generate_until_multi_round(self, requests): ...

    module = ModuleType("lmms_eval.api.model")
    module.lmms = Base
    return {"lmms_eval": ModuleType("lmms_eval"), "lmms_eval.api": ModuleType("lmms_eval.api"), "lmms_eval.api.model": module}


@pytest.fixture(params=["real", "described"])
def adapter(request, model, monkeypatch):
    if request.param == "real":
        pytest.importorskip("lmms_eval.api.model")
    else:
        for name, module in described().items():
            monkeypatch.setitem(sys.modules, name, module)
    lmms.adapter_class.cache_clear()
    made = lmms.MMInterleaved(model=model)
    made.task_dict = {"quiz": {"test": [{"shown": [PICTURE], "right": " red"}, {"shown": [], "right": " red"}]}}
    yield made
    lmms.adapter_class.cache_clear()


def shown(sample):
    return sample["shown"]


def asked(words, *between):
    return SimpleNamespace(args=(words, *between, 0, "quiz", "test"))


def test_answers_are_those_of_the_model_itself(adapter, model):
    (answer,) = adapter.generate_until([asked("a dog", SETTINGS, shown)])
    picture = Image.from_array(np.asarray(PICTURE))
    made = model.continue_document(adapter._document("a dog", [PICTURE]), max_images=0, max_tokens=4)
    assert made.images == (picture,) or made.images[0].array().tolist() == picture.array().tolist()
    assert answer == "".join(part.text for part in made.segments[2:] if isinstance(part, Text)).split("\n", 1)[0].strip()


def test_losses_are_the_models_and_say_whether_greedy_decoding_agrees(adapter, model, monkeypatch):
    ((value, greedy),) = adapter.loglikelihood([asked("a dog", lambda sample: sample["right"], shown)])
    # lmms-eval's evaluator takes the smallest value for the choice.
    assert value == -model.score(adapter._document("a dog", [PICTURE]), [" red"])[0].log_likelihood > 0
    assert isinstance(greedy, bool)
    monkeypatch.setattr(adapter, "_continued", lambda document, options: "red ")
    assert adapter.loglikelihood([asked("a dog", " red", shown)])[0][1] is True
    monkeypatch.setattr(adapter, "_continued", lambda document, options: "redder")
    assert adapter.loglikelihood([asked("a dog", " red", shown)])[0][1] is False


def test_every_round_is_asked_with_the_answers_before_it(adapter, monkeypatch):
    said = iter(["one", "two", "three"])
    monkeypatch.setattr(adapter, "_continued", lambda document, options: next(said))
    rounds = []

    def further(sample, *, previous_output, round_idx, previous_round_info):
        rounds.append((previous_output, round_idx, previous_round_info))
        return sample["shown"], f"again {round_idx}", round_idx == 3, previous_output, round_idx

    (answers,) = adapter.generate_until_multi_round([asked("a dog", SETTINGS, shown, further)])
    assert answers == ["one", "two", "three"]
    assert rounds == [(["one"], 1, None), (["one", "two"], 2, 1), (["one", "two", "three"], 3, 2)]


def test_pictures_stand_where_they_are_marked(adapter):
    document = adapter._document("<image> before <image> after", [PICTURE, PICTURE])
    assert [type(segment) for segment in document] == [Image, Text, Image, Text]
    assert [type(segment) for segment in adapter._document("no mark", [PICTURE])] == [Image, Text]


def test_answers_end_at_the_first_stop(adapter, monkeypatch):
    monkeypatch.setattr(adapter, "_continued", lambda document, options: " red. blue\nmore")
    assert adapter.generate_until([asked("a", {**SETTINGS, "until": ["\n", "."]}, shown)]) == ["red"]


def test_what_cannot_be_read_is_answered_by_nothing_and_what_is_no_picture_refused(adapter, monkeypatch):
    assert adapter.generate_until([asked("dog " * 400, SETTINGS, shown)]) == [""]
    assert adapter.loglikelihood([asked("dog " * 400, " red", shown)]) == [(float("inf"), False)]
    with pytest.raises(ConfigError, match="5 beams"):
        adapter.generate_until([asked("a", {"num_beams": 5}, shown)])
    with pytest.raises(DataError, match="expected pictures, got str"):
        adapter.generate_until([asked("a", SETTINGS, lambda sample: ["film.mp4"])])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        type(adapter)(model=adapter.model)


def test_without_the_package_its_absence_is_named(monkeypatch):
    for name in described():
        monkeypatch.setitem(sys.modules, name, None)
    lmms.adapter_class.cache_clear()
    with pytest.raises(BackendError, match="pip install lmms-eval"):
        lmms.adapter_class()


def test_the_registry_of_lmms_eval_finds_the_class():
    registry = pytest.importorskip("lmms_eval.models.registry_v2").ModelRegistryV2()
    pytest.importorskip("lmms_eval.api.model")
    lmms.adapter_class.cache_clear()
    registry.register_manifest(lmms.manifest())
    assert registry.get_model_class("mm_interleaved") is lmms.MMInterleaved
