"""The tiny trainer as a fixture."""

from __future__ import annotations

import pytest

from tests.training.tiny import build_trainer


@pytest.fixture
def make_trainer(tmp_path):
    """A function that builds a trainer on the embedded model; see `build_trainer`."""
    return lambda directory="run", **options: build_trainer(tmp_path / directory, **options)
