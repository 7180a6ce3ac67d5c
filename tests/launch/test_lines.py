"""What users are told stays in its line, whatever the names in it hold."""

import errno
import io
import logging
import os
import queue
import re
import shlex
import sys
import threading

import pytest
from rich.console import Console
from support import start, tiny_config

from ratchet.launch import cli, lines, options
from ratchet.launch.__main__ import join_others
from ratchet.launch.console import Terminal
from ratchet.launch.lines import one_line, waiting
from ratchet.train.buckets import StoreError
from ratchet.train.commits import Commits

BREAKS = ("\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\x1b[2J", "\x00", "\b\x7f\x9b")


@pytest.mark.parametrize("letters", BREAKS)
def test_what_breaks_a_line_or_steers_a_terminal_is_spelled_out(letters):
    said = one_line(f"a{letters}b é\u00a0☂\u200d\ue000 \\")
    assert said == f"a{letters.encode('unicode_escape').decode()}b é\u00a0☂\u200d\ue000 \\"
    assert said.splitlines() == [said]


def test_in_a_terminal_a_long_line_ends_between_words_and_within_no_command(capsys, monkeypatch):
    command = "`ratchet resume /a/directory --train.steps 3`"
    said = f"stopped by SIGTERM, after a while and in the middle of it; {command} goes on from what is committed"
    lines.say(said, "  one below, which stays as long as it is, since it may be a table of some kind")
    assert capsys.readouterr().err.splitlines()[0] == f"ratchet: {said}"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda of: os.terminal_size((60, 20)))
    lines.say(said, below := "  one below, which stays as long as it is, since it may be a table of some kind")
    *wrapped, last = capsys.readouterr().err.splitlines()
    assert max(map(len, wrapped)) <= 60 and " ".join(wrapped) == f"ratchet: {said}" and last == below
    assert any(command in line for line in wrapped) and len(wrapped) > 2
    monkeypatch.setattr(os, "get_terminal_size", lambda of: os.terminal_size((0, 0)))  # as of one without a size
    lines.say(said)
    assert capsys.readouterr().err.splitlines() == [f"ratchet: {said}"]


def test_what_nobody_can_hear_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as of a process that was begun without one
    lines.say("a line")


@pytest.mark.parametrize("odd", ["no\nwhere", "no\r\nwhere\x1b[1A", "no\u2028where\x85"])
@pytest.mark.parametrize(
    "words",
    [
        ["ODD"], ["--ODD"], ["status", "ODD"], ["status", "--ODD"], ["resume", "ODD"], ["report", "ODD"],
        ["chat", "ODD"], ["show", "ODD", "x"], ["import", "ODD"], ["serve", "--base", "ODD", "--port", "0"],
        ["serve", "ODD", "--port", "0"], ["ui", "ODD", "--port", "70000"],
        ["run", "tiny", "ODD"], ["run", "tiny", "--ODD"], ["run", "tiny", "--out", "gopher://ODD"],
        ["run", "tiny", "--review.rubric", "ODD.yaml"], ["run", "tiny", "--config", "ODD"],
        ["run", "tiny", "--targets.kind", "ODD"], ["run", "tiny", "--train.steps", "ODD"],
        ["run", "tiny", "--world", "ODD"], ["run", "documents", "ODD", "--base", "ODD"],
        ["run", "tiny", "--teacher.url", "http://ODD"],
        ["submit", "tiny", "--to", "ODD"], ["submit", "tiny", "--to", "gke", "--image", "ODD"],
        ["compare", "ODD", "--vary", "train.steps", "1"], ["export", "ODD", "--generation", "1", "--to", "x"],
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_whatever_it_names(capsys, tmp_path, monkeypatch, words, odd):
    monkeypatch.chdir(tmp_path)
    assert cli.main([word.replace("ODD", odd) for word in words]) == 2
    said = capsys.readouterr().err.removesuffix("\n")
    assert said.startswith("ratchet: ") and said.splitlines() == [said] and "\x1b" not in said


@pytest.mark.parametrize("address", ["https://huggingface.co/a/b", "hf://a/b", "file:///tmp/x", "az://a/b"])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "tiny", "--out"], ["run", "tiny", "--config"], ["run", "tiny", "--review.rubric"],
        ["run", "documents", "docs", "--base"],
        ["run", "tiny", "--simulate.calls", "1", "--simulate.mcp"], ["import"], ["status"], ["serve", "--base"],
    ],
)  # fmt: skip
def test_an_address_that_is_no_path_is_told_from_one(capsys, tmp_path, monkeypatch, words, address):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, address, *(["--port", "0"] if words[0] == "serve" else [])]) == 2
    said = capsys.readouterr().err
    assert f"{address} is no path; give one on a disk, or in a bucket (gs:// or s3://)" in said


@pytest.mark.parametrize("address", ["http://a b", "http://[::1", "http://a\nb", "http://\u2028", "localhost:80", "ftp://a"])
def test_a_teacher_without_a_webs_address_is_refused_by_its_setting(capsys, tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "tiny", "--teacher.url", address]) == 2
    assert "give it as http://HOST:PORT/v1" in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    ["run", "tiny", "--out", "PLACE"], ["resume", "PLACE"], ["status", "PLACE"], ["watch", "PLACE"],
    ["report", "PLACE"],
    ["show", "PLACE", "x"], ["chat", "PLACE"], ["evaluate", "PLACE", "--generation", "1"], ["preview", "PLACE"],
    ["label", "PLACE"], ["calibrate", "PLACE"], ["export", "PLACE", "--generation", "1", "--to", "x"],
    ["compare", "PLACE", "--vary", "seed", "1"], ["ui", "PLACE"], ["serve", "PLACE"],
])  # fmt: skip
def test_what_the_library_of_a_bucket_logs_is_not_said_beside_the_line(capsys, monkeypatch, words):
    """It logs every error that it raises as well, with a page of where that was."""
    library = logging.getLogger("gcsfs")
    monkeypatch.setattr(library, "level", logging.NOTSET)
    library.setLevel(logging.NOTSET)  # which also forgets what it knew of it
    heard = []
    monkeypatch.setattr(library, "handlers", [said := logging.Handler()])
    said.emit = heard.append

    def reach(path):
        library.error("Traceback (most recent call last)")
        raise StoreError(f"{path}: the bucket does not do it")

    monkeypatch.setattr("ratchet.launch.options.reach", reach)
    assert cli.main(["gs://nothing/x" if word == "PLACE" else word for word in words]) == 2
    assert capsys.readouterr().err == "ratchet: gs://nothing/x: the bucket does not do it\n" and not heard


def test_what_is_listed_below_a_mistake_stays_below_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no\nwhere").mkdir()
    assert cli.main(["run", "no\nwhere"]) == 2
    first, *listed = capsys.readouterr().err.splitlines()
    assert r"(`ratchet run documents 'no\nwhere'` reads what is there); there are" in first
    assert listed and all(line.startswith("  ") for line in listed)


@pytest.mark.parametrize("name", ["my runs", "it's", "a$b;c", "plain-1.2"])
def test_a_command_that_a_message_advises_is_typed_as_it_stands(capsys, tmp_path, name):
    directory = start(tmp_path / name, tiny_config())
    assert cli.main(["run", "tiny", "--out", str(directory)]) == 2
    advised = re.search("`ratchet (.*?)` or give", capsys.readouterr().err)[1]
    assert shlex.split(advised) == ["resume", str(directory)]
    assert cli.main(["status", str(directory)]) == 0
    advised = re.search("`ratchet (.*?)`", capsys.readouterr().out)[1]
    assert shlex.split(advised) == ["resume", str(directory)]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_place_that_may_not_be_written_is_named_with_what_to_do(capsys, tmp_path, monkeypatch, number):
    directory = start(tmp_path / "run", tiny_config())

    def refused(*_):
        raise OSError(number, os.strerror(number), f"{directory}/lock")

    monkeypatch.setattr("ratchet.train.holder.os.open", refused)
    assert cli.main(["resume", str(directory)]) == 2
    what = "give this user the right to read and write there, or name another place"
    said = f"{directory}/lock: {os.strerror(number)}; {what}"
    assert said in capsys.readouterr().err


def test_a_process_that_cannot_join_says_so_in_one_line(capsys):
    assert join_others(["run", "--join", "no\nwhere"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_a_run_says_and_status_repeats_is_one_line(capsys, tmp_path):
    shown = Terminal(Console(file=io.StringIO(), width=80))
    shown.line("documents: a\nb.txt cannot be read")
    assert shown.console.file.getvalue() == "documents: a\\nb.txt cannot be read\n"
    directory = start(tmp_path / "run", tiny_config())
    Commits(directory).write(directory / "ended.json", {"reason": "a\nb.txt is gone\x1b[2J"})
    assert cli.main(["status", str(directory)]) == 0
    assert r"a\nb.txt is gone\x1b[2J" in capsys.readouterr().out


def test_a_command_that_hears_nothing_from_a_store_says_what_it_waits_for(monkeypatch):
    told = queue.Queue()
    monkeypatch.setattr(lines, "say", told.put)
    monkeypatch.setattr(lines, "PATIENCE", 0.0)
    heard = []
    monkeypatch.setattr(options, "reach", lambda path: heard.append(told.get(timeout=600)))
    options.located("gs://far/runs/x", may_be_file=True)
    assert heard == ["waiting for the store that gs://far/runs/x lies in"]


def test_what_answers_in_time_is_not_waited_for_aloud(monkeypatch):
    monkeypatch.setattr(lines, "PATIENCE", 600.0)
    monkeypatch.setattr(lines, "say", lambda line: pytest.fail(line))
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="lost"), waiting("that"):
        raise RuntimeError("lost")
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(600.0)
    assert threading.active_count() <= before
