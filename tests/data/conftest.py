"""The pack and the two sides of its default world."""

import pytest

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.world import World, WorldConfig


@pytest.fixture(scope="session")
def train_world() -> World:
    return World(Pack.load(), WorldConfig())


@pytest.fixture(scope="session")
def test_world() -> World:
    return World(Pack.load(), WorldConfig(split="test"))
