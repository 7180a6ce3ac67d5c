"""How people are told to install what a feature needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.models.extras import installer, installing


@pytest.fixture
def python(tmp_path, monkeypatch) -> Path:
    """A Python that runs this, with a pip beside it, in a folder that PATH does not name."""
    place = tmp_path / "an environment" / "bin"
    place.mkdir(parents=True)
    for name in ("python", "pip"):
        (place / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    return place / "python"


def test_where_its_pip_is_the_first_on_the_path_that_is_named(python, monkeypatch):
    monkeypatch.setenv("PATH", f"{python.parent}:/usr/bin")
    assert installing("documents") == "`pip install 'ratchet[documents]'`"


def test_no_other_pythons_pip_is_named(python, tmp_path, monkeypatch):
    """That would fetch what others have published under this name."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").touch(mode=0o755)
    for path in ("/nowhere", str(tmp_path / "bin")):
        monkeypatch.setenv("PATH", path)
        assert installing("serve") == f"`'{python}' -m pip install 'ratchet[serve]'`"


def test_what_is_named_is_a_pip_that_finds_this_very_ratchet():
    command = f"{installer()} --dry-run --no-deps --no-index ratchet"
    found = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert found.returncode == 0 and "already satisfied: ratchet" in found.stdout
