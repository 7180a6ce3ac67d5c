"""Pages about a finished run with more transcripts, and about one without."""

import shutil

import pytest
from etils import epath
from evil_run import add, shown

from ratchet.launch.ui import following as followed


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where indices are written."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(followed, "cached", lambda directory: place / f"{directory.name}.sqlite")
        yield place


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A finished run with more transcripts."""
    place = epath.Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("ui") / "evil run"))
    add(place)
    return place


@pytest.fixture(scope="module")
def pages(run, tiny_run, cache):
    with shown(run, tiny_run) as pages:
        yield pages
