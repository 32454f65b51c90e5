"""The pack and the two sides of its default world."""

import pytest

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.world import World, WorldConfig


@pytest.fixture(scope="session")
def pack() -> Pack:
    return Pack.load()


@pytest.fixture(scope="session")
def train(pack: Pack) -> World:
    return World(pack, WorldConfig())


@pytest.fixture(scope="session")
def test(pack: Pack) -> World:
    return World(pack, WorldConfig(split="test"))
