"""What tests of who holds a run share."""

import time
from types import SimpleNamespace

import pytest

from ratchet.train import holder, turns


@pytest.fixture
def patience(monkeypatch):
    """Time that passes only when it is slept away; `during` is called meanwhile."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        sleep.during()

    sleep.slept, sleep.during = slept, lambda: None
    for module in (holder, turns):  # theirs alone: the libraries of stores sleep as well
        monkeypatch.setattr(module, "time", SimpleNamespace(**vars(time) | {"sleep": sleep}))
    return sleep
