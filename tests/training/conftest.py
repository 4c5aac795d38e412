"""The tiny trainer as a fixture."""

from __future__ import annotations

import pytest
import trl

from ibpo.training import config as refusals
from tests.training.tiny import build_trainer


@pytest.fixture(autouse=True)
def any_trl(monkeypatch):
    """These tests are how a new TRL is verified: they run with whichever is installed."""
    monkeypatch.setattr(refusals, "VERIFIED_TRL", ".".join(trl.__version__.split(".")[:2]))


@pytest.fixture
def make_trainer(tmp_path):
    """A function that builds a trainer on the embedded model; see `build_trainer`."""
    return lambda directory="run", **options: build_trainer(tmp_path / directory, **options)
