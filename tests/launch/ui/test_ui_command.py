"""The command that shows runs in a browser."""

import importlib.util
import json

import jax
import pytest
import uvicorn
from etils import epath

from ratchet.launch import cli
from ratchet.launch.ui import following as followed
from ratchet.models.extras import installing


def test_without_its_libraries_it_names_the_extra_in_a_line(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *of: None if name == "starlette" else find(name, *of))
    assert cli.main(["ui", "runs/x"]) == 2
    assert capsys.readouterr().err == f"ratchet: ui: it needs starlette; {installing('serve')}\n"


def test_it_listens_on_this_machine_alone_and_says_where(capsys, monkeypatch, cache, tmp_path):
    found, platforms = [], jax.config.jax_platforms
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: found.append(sockets[0].getsockname()))
    jax.config.update("jax_platforms", None)
    assert cli.main(["ui", str(tmp_path / "later"), "--port", "0"]) == 0
    ((host, port),) = found
    assert jax.config.jax_platforms == "cpu", "an accelerator is for a run"
    jax.config.update("jax_platforms", platforms)
    assert host == "127.0.0.1" and f"http://127.0.0.1:{port} shows 1 run; Ctrl-C ends it" in capsys.readouterr().err
    assert cli.main(["ui", str(tmp_path / "later"), "--port", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"url": f"http://127.0.0.1:{found[1][1]}", "runs": 1}
    jax.config.update("jax_platforms", platforms)


@pytest.mark.parametrize("names", [("a/run", "b/run", "c/other")])
def test_runs_of_one_name_are_told_apart_by_their_paths(names):
    assert followed._names([epath.Path(name) for name in names]) == ["a/run", "b/run", "other"]


def test_a_cache_that_cannot_be_written_is_one_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(followed, "cached", lambda directory: tmp_path / "file" / "index.sqlite")
    assert cli.main(["ui", str(tmp_path / "run"), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert f"ui: cannot write {tmp_path}/file/index.sqlite" in error and error.count("\n") == 1
