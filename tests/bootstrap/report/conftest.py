"""A finished run as files, and its page."""

import pytest
from etils import epath
from written_run import write_run

from ratchet.bootstrap.report.page import build


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> epath.Path:
    return write_run(epath.Path(tmp_path_factory.mktemp("report")) / "verses")


@pytest.fixture(scope="session")
def page(finished) -> str:
    return build(finished).read_text()
