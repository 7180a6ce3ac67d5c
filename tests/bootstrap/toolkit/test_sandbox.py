"""Programs in Python within WebAssembly: the real interpreter, and whatever a hostile program may try."""

import sys

import pytest
from injections import DOCUMENTS

from ratchet.bootstrap.toolkit import sandbox as sandboxes
from ratchet.bootstrap.toolkit.sandbox import Sandbox
from ratchet.bootstrap.toolkit.source import Asked


@pytest.fixture(scope="module")
def sandbox():
    """Made in half a minute, if the last `make test` on this machine has not."""
    made = Sandbox()
    made.ready(lambda line: None)
    return made


def printed(sandbox, *programs, seconds: float = 60.0) -> list[str]:
    return [a.text for a in sandbox.answers([Asked("python", {"code": code}, seconds) for code in programs])]


@pytest.mark.parametrize(
    ("program", "prints"),
    [
        ("print(1 + 1)", "2"),
        ("import statistics as s\nprint(s.median([3, 1, 2]))", "2"),
        ("from datetime import date\nprint((date(2024, 3, 1) - date(2024, 2, 1)).days)", "29"),
        ("import json, re\nprint(json.dumps(re.findall('a.', 'abac')))", '["ab", "ac"]'),
        ("x = 1", "nothing is printed"),
        ("from __future__ import annotations\nprint(1)", "1"),
        ("from datetime import datetime as d\nprint(d.strptime('3 May 2024', '%d %B %Y').date())", "2024-05-03"),
        ("print('é', end='')", "é"),
        ("def f(n): return n * f(n - 1) if n else 1\nprint(f(20))", "2432902008176640000"),
        ("import sys\nprint(sys.version_info[:1])", "(3,)"),
        ("raise SystemExit('so')", "so"),
        ("print(1)\n1 / 0", "1\nZeroDivisionError in line 2: division by zero"),
        ("def", "SyntaxError in line 1: invalid syntax"),
        ("import numpy", "ModuleNotFoundError in line 1: No module named 'numpy'"),
        ("print(__name__)", "__main__"),
        ("print('\\ud800')", "?"),
    ],
)
def test_what_programs_print(sandbox, program, prints):
    assert printed(sandbox, program) == [prints]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("open('/etc/passwd').read()", "there are no files"),
        ("import io; io.open('x', 'w')", "there are no files"),
        ("import os; os.listdir('/')", "there are no files"),
        ("import os; os.remove('/etc/passwd')", "there are no files"),
        ("import posix; posix.open('/etc/passwd', 0)", "stopped: it asks for files"),
        ("import _io; _io.FileIO('/etc/passwd')", "stopped: it asks for files"),
        ("import os; print(dict(os.environ))", "{}"),
        ("import socket", "No module named 'socket'"),
        ("import _socket; _socket.socket()", "stopped: it asks for files, a network"),
        ("import urllib.request", "No module named 'urllib'"),
        ("import subprocess", "No module named 'subprocess'"),
        ("import os; os.fork()", "has no attribute 'fork'"),
        ("import os; os.system('ls')", "has no attribute 'system'"),
        ("import _thread; _thread.start_new_thread(print, ())", "can't start new thread"),
        ("import ctypes", "No module named 'ctypes'"),
        ("import time; time.sleep(1000)", "there is no clock"),
        ("import datetime; datetime.datetime.now()", "stopped: it asks for files, a network, a clock"),
        ("input()", "there is nobody to ask"),
        ("while True: pass", "stopped: it takes too long"),
        ("9 ** 9 ** 9", "stopped: it takes too long"),
        ("import re; re.match('(a+)+$', 'a' * 40 + 'b')", "stopped: it takes too long"),
        ("x = 'a' * 10 ** 10", "in line 1"),
        ("x = bytearray(2 ** 30)", "MemoryError in line 1"),
        ("x = []\nwhile True: x.append('a' * 10 ** 6)", "MemoryError in line 2"),
        ("def f(): f()\nf()", "RecursionError in line 1"),
        ("eval('(' * 5000 + ')' * 5000)", "too complex to parse"),
        ("import os; os._exit(0)", "there are no files and no other programs"),
        ("import os; os.abort()", "there are no files and no other programs"),
        ("class E(Exception):\n  def __str__(self): raise E\nraise E", "E in line 3"),
        ("import sys\nsys.stdout = None\nprint(1)", "nothing is printed"),
        ("import builtins\ndel builtins.exec\nprint(1)", "1"),
    ],
)
def test_what_hostile_programs_come_to_is_a_short_answer(sandbox, monkeypatch, program, says):
    monkeypatch.setattr(sandboxes, "FUEL", sandboxes.FUEL // 10)
    (said,) = printed(sandbox, program)
    assert says in said and len(said) < 200 and "\n" not in said


def test_whoever_lifts_pythons_own_limit_of_calls_is_stopped(sandbox):
    deep = "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()"
    assert printed(sandbox, deep) == ["stopped: its calls go too deep"]


@pytest.mark.parametrize(
    "program", ["while True: print('x' * 1000)", "print('x' * 10 ** 7)", "raise ValueError('x' * 10 ** 7)"]
)
def test_endless_output_is_cut(sandbox, program):
    (said,) = printed(sandbox, program)
    assert "xxxx" in said and len(said) < 5000


def test_nothing_is_left_of_a_program_for_the_next(sandbox):
    spoil = "import builtins, math, sys\nbuiltins.print = None\nmath.pi = 3\nsys.modules.clear()"
    assert printed(sandbox, spoil, "import math; print(math.pi)")[1] == "3.141592653589793"


def test_equal_programs_print_the_same(sandbox):
    dice = "import random; print(random.random(), random.SystemRandom)"
    one, same = printed(sandbox, dice, dice)
    assert one == same and one.startswith("0.8444218515250481")


def test_no_program_takes_longer_than_is_left_for_its_transcript(sandbox, monkeypatch):
    monkeypatch.setattr(sandboxes, "FUEL", 2**62)  # by which alone it would go on for years
    assert printed(sandbox, "while True: pass", seconds=0.05) == ["stopped: it takes too long"]
    assert printed(sandbox, "print(1)") == ["1"], "and the next has time of its own"


def test_a_component_that_is_made_late_costs_no_program_its_time(sandbox, monkeypatch):
    late, there, real = Sandbox(), [], sandboxes.timed
    monkeypatch.setattr(sandboxes, "timed", lambda answer: there.append("_component" in vars(late)) or real(answer))
    assert printed(late, "print(1)") == ["1"] and there == [True]


def test_what_it_prints_may_be_anything(sandbox):
    texts = [text for text in DOCUMENTS if len(text) < 500]
    assert printed(sandbox, *(f"print({ascii(text)})" for text in texts)) == [
        text.strip() or "nothing is printed" for text in texts
    ]


def test_a_component_that_is_torn_is_made_again(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torn = Sandbox()
    torn._file.parent.mkdir(parents=True)
    torn._file.write_bytes(b"torn")
    made = []
    monkeypatch.setattr(sandboxes, "_made", lambda: made.append(1) or b"(component)")
    assert torn._component and made == [1] and torn._file.read_bytes() != b"torn"
    assert Sandbox()._component and made == [1], "and found the next time"


@pytest.mark.parametrize(
    ("program", "seconds", "why"),
    [("import time; time.sleep(600)", 0.2, "it was not done after 0.2 seconds"), ("exit('no room')", 600.0, "no room"),
     ("exit(3)", 600.0, "exit code 3")],
)  # fmt: skip
def test_a_component_that_is_not_made_is_one_line(tmp_path, monkeypatch, program, seconds, why):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sandboxes, "_MAKE", program)
    monkeypatch.setattr(sandboxes, "MAKING", seconds)
    with pytest.raises(ValueError, match=rf"simulate.tools: .*python \({why}\); leave python out") as told:
        Sandbox().ready(lambda line: None)
    assert "\n" not in str(told.value)


def test_without_the_libraries_the_extra_is_named(monkeypatch):
    def missing(name):
        raise sandboxes.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sandboxes.metadata, "version", missing)
    with pytest.raises(ValueError, match=r"python needs the library wasmtime; `.*pip install 'ratchet\[tools\]'`"):
        Sandbox().ready(print)


def test_the_package_is_imported_without_them(monkeypatch):
    for name in ("wasmtime", "componentize_py", "mcp", "httpx2"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [n for n in sys.modules if n.startswith("ratchet.bootstrap.toolkit")]:
        monkeypatch.delitem(sys.modules, name)
    from ratchet.bootstrap.toolkit.offered import toolbox  # noqa: F401
