"""A gateway and its upstream, for the tests of this room."""

import pytest


@pytest.fixture
def world():
    from tests.serving.world import World

    with World() as made:
        yield made
