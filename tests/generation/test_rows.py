"""Documents that write together: fixed shapes, and what torch.compile accepts."""

import subprocess
import sys

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from mm_interleaved.document import Document
from mm_interleaved.errors import BackendError
from mm_interleaved.generation.rows import TextRows
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.generation.token_cache import ROOM, GrowingCache
from mm_interleaved.testing import tiny_model
from tests.generation.conftest import picture

DOCUMENTS = (Document(["draw"]), Document([picture(1), "a cat. "]), Document([picture(2), "a ", picture(3), "tree and a dog."]))


def read(model, processor, document):
    state = DocumentState(model)
    state.read(processor.open_layout(document))
    return state


def assert_read_as_alone(rows, model, processor, company):
    """Documents that come and go, by their numbers per step, leave what each leaves that is read by itself."""
    states = [read(model, processor, document) for document in DOCUMENTS]
    alone = [read(model, processor, document) for document in DOCUMENTS]
    for step, present in enumerate(company):
        rows.gather([states[number] for number in present])
        rows.read([states[number] for number in present], [10 + step + number for number in present])
        for number in present:
            alone[number].append_token(10 + step + number)
            torch.testing.assert_close(states[number].next_logits(), alone[number].next_logits(), rtol=0, atol=1e-9)
    rows.gather([])
    for one, other in zip(states, alone, strict=True):
        torch.testing.assert_close(one.hidden(), other.hidden(), rtol=0, atol=1e-9)
        one.append_token(7)
        other.append_token(7)
        torch.testing.assert_close(one.next_logits(), other.next_logits(), rtol=0, atol=1e-9)


def test_documents_that_come_and_go_are_read_as_alone(exact_model, processor):
    assert_read_as_alone(TextRows(exact_model, 3), exact_model, processor, [[0, 1, 2], [2, 0], [2], [1, 2], [0, 1, 2]])


def test_more_places_are_made_when_a_document_needs_them(processor):
    model = tiny_model(context=ROOM + 64).double()
    long = Document(["draw a flat cat. " * 12])
    state, alone = (read(model, tiny, long) for tiny in (processor, processor))
    assert state.position < ROOM
    rows = TextRows(model, 2)
    rows.gather([state])
    for _ in range(ROOM - state.position + 3):
        rows.read([state], [9])
        alone.append_token(9)
    assert state.position > ROOM
    torch.testing.assert_close(state.next_logits(), alone.next_logits(), rtol=0, atol=1e-9)


@pytest.fixture
def recordings(monkeypatch):
    """Recording without a CUDA device: the operations of one pass on the tensors that it used, and nothing of Python, are repeated."""
    made = []

    def record(run, device):
        made.append(make_fx(run)())
        return lambda program=made[-1]: tuple(result.clone() for result in program())

    monkeypatch.setattr("mm_interleaved.generation.rows.record", record)
    monkeypatch.setattr("mm_interleaved.ops.deformable.compiled.unsupported", lambda values: "its loops leave no operation")
    return made


def test_a_recorded_pass_follows_tokens_places_and_company(exact_model, processor, recordings):
    rows = TextRows(exact_model, 3, recorded=True)
    assert_read_as_alone(rows, exact_model, processor, [[0, 1], [0, 1], [0, 1, 2], [2, 0], [2], [1, 2]])
    assert len(recordings) == 2  # the third document has more pictures than the first two


def test_a_pass_is_recorded_anew_when_more_places_are_made(processor, recordings):
    model = tiny_model(context=ROOM + 64).double()
    state, alone = (read(model, tiny, Document(["draw a flat cat. " * 12])) for tiny in (processor, processor))
    rows = TextRows(model, 2, recorded=True)
    rows.gather([state])
    for _ in range(ROOM - state.position + 3):
        rows.read([state], [9])
        alone.append_token(9)
    assert state.position > ROOM
    assert len(recordings) == 2
    torch.testing.assert_close(state.next_logits(), alone.next_logits(), rtol=0, atol=1e-9)


def test_recording_without_a_cuda_device_says_so(exact_model, processor):
    rows = TextRows(exact_model, 1, recorded=True)
    state = read(exact_model, processor, DOCUMENTS[0])
    rows.gather([state])
    with pytest.raises(BackendError, match="leave `recorded` off"):
        rows.read([state], [9])


READING = """
import torch
from mm_interleaved.document import Document, Image
from mm_interleaved.generation.rows import TextRows
from mm_interleaved.generation.state import DocumentState
from mm_interleaved.testing import tiny_model, tiny_processor
import numpy as np

torch.set_num_threads(1)
model, processor = tiny_model(), tiny_processor()
picture = Image.from_array(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
documents = [Document(["draw"]), Document([picture, "a cat. "]), Document([picture, "a ", picture, "tree and a dog."])]

def read():
    states = [DocumentState(model) for _ in documents]
    for state, document in zip(states, documents):
        state.read(processor.open_layout(document))
    return states

graphs = []
def count(graph, inputs):
    graphs.append(graph)
    return graph.forward

"""

COMPILED = """
compiled, plain = TextRows(model, 3, compiled=True), TextRows(model, 3)
compiled._pass = torch.compile(compiled._read, backend=count, dynamic=False, fullgraph=True)
states, others = read(), read()
for rows, members in ((compiled, states), (plain, others)):
    rows.gather(members)
    for token in (10, 11, 12):
        rows.read(members, [token] * 3)
for one, other in zip(states, others):
    torch.testing.assert_close(one.next_logits(), other.next_logits(), rtol=0, atol=1e-5)  # float32
compiled.gather(states[:2])  # fewer documents, the same shapes
compiled.read(states[:2], [13, 13])
assert len(graphs) == 1, len(graphs)
"""

GROUPED = """
from mm_interleaved.generation.groups import _through
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.testing import tiny_config

config = tiny_config()
config.text_config.num_hidden_layers = 4
torch.manual_seed(0)
model = MMInterleavedForConditionalGeneration(config).eval()
with torch.no_grad():
    for layer in model.language_model.mmfs_layers:
        model.language_model.layers[layer].synchronizer.gate.fill_(1)
grouped, plain = TextRows(model, 3, grouped=True), TextRows(model, 3)
assert [len(layers) for layers in grouped._groups._groups] == [2, 2]
grouped._groups._program = torch.compile(_through, backend=count, fullgraph=True)
states, others = read(), read()
for rows, members in ((grouped, states), (plain, others)):
    for present in ([0], [0, 1, 2], [1, 2]):
        rows.gather([members[number] for number in present])
        rows.read([members[number] for number in present], [10 + number for number in present])
    rows.gather([])
for one, other in zip(states, others):
    torch.testing.assert_close(one.next_logits(), other.next_logits(), rtol=0, atol=1e-5)  # float32
    torch.testing.assert_close(one.hidden(), other.hidden(), rtol=0, atol=1e-5)
assert len(graphs) == 2, len(graphs)  # without pictures and with them
"""


def test_torch_compile_accepts_the_pass_as_one_graph_that_is_never_made_again():
    # In a process of its own: the shape checks of the tests and torch.compile do not mix.
    run = subprocess.run([sys.executable, "-c", READING + COMPILED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


def test_groups_of_layers_that_are_alike_share_one_program_and_read_as_rows_do():
    run = subprocess.run([sys.executable, "-c", READING + GROUPED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


def test_a_growing_cache_copies_nothing_per_token_and_branches_without_copying():
    cache = GrowingCache()
    token = torch.randn(1, 2, 1, 4)
    cache.update(torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4), 0)
    place = cache.growing[0].keys.data_ptr()
    cache.update(token, token, 0)
    branch = cache.branch()
    assert branch.growing[0].keys.data_ptr() == cache.growing[0].keys.data_ptr() == place
    branch.update(2 * token, 2 * token, 0)
    cache.update(3 * token, 3 * token, 0)
    assert torch.equal(branch.growing[0].keys[..., -1:, :], 2 * token)
    assert torch.equal(cache.growing[0].keys[..., -1:, :], 3 * token)
    assert torch.equal(branch.growing[0].keys[..., :6, :], cache.growing[0].keys[..., :6, :])


@pytest.mark.parametrize("count", [1, 3])
def test_a_shorter_cache_is_written_over(count):
    cache = GrowingCache()
    keys = torch.randn(1, 2, 6, 4)
    cache.update(keys, keys, 0)
    cache.crop(-count)
    cache.update(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4), 0)
    assert torch.equal(cache.growing[0].keys[..., : 6 - count, :], keys[..., : 6 - count, :])
    assert bool((cache.growing[0].keys[..., 6 - count :, :] == 1).all())
