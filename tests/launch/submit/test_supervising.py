"""Several processes on this machine live, end and start again together. Scripts stand for the processes of a run."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ratchet.launch.lines import UserError
from ratchet.launch.recipes import RECIPES
from ratchet.launch.submit import local
from ratchet.launch.submit.local import Local, Patience, supervise

AT_ONCE = Patience(grace=0.5, pause=0.0)
TINY = RECIPES["tiny"].config
SCRIPT = """
import os, pathlib, signal, sys, time
here, number = pathlib.Path({here!r}), {number}
lives = here / f"lives-{{number}}"
life = len(lives.read_text()) if lives.exists() else 0
lives.open("a").write("x")
def end(code):
    print(f"{{number}} ends with {{code}}", flush=True)
    sys.exit(code)
def heed(code):
    signal.signal(signal.SIGTERM, lambda *_: end(code))
def wait_for(name):
    while not (here / name).exists():
        time.sleep(0.01)
{what}
"""

COUNT = """
import jax
from ratchet.launch.output import quiet
quiet()
print(jax.device_count("cpu"), jax.config.jax_compilation_cache_dir)
"""
CACHED = {"JAX_COMPILATION_CACHE_DIR": "/shared/cache"}
"""As manifests have it: compiled programs are shared by hosts and restarts."""


@pytest.fixture
def processes(tmp_path):
    """Commands of processes that do what is given; each life of one adds a letter to the file named for it."""

    def made(*what):
        fill = lambda number, text: SCRIPT.format(here=str(tmp_path), number=number, what=text)
        return lambda: [[sys.executable, "-S", "-c", fill(number, text)] for number, text in enumerate(what)]

    return made


def lives(tmp_path):
    return [len((tmp_path / f"lives-{number}").read_text()) for number in range(len(list(tmp_path.glob("lives-*"))))]


def test_the_traceback_of_a_process_that_is_not_shown_is_shown_when_it_fails(processes, capfd):
    fails = "print('at work', flush=True); int('x')"
    assert supervise(processes("heed(0); wait_for('never')", fails), {}, 0, AT_ONCE) == 1
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith("ratchet: submit: process 1 has ended with exit code 1: ValueError: invalid literal")
    assert said[1].startswith("Traceback") and said[-1].startswith("ValueError") and "at work" not in said


def test_all_that_end_well_are_over_and_the_first_is_shown(processes, tmp_path, capfd):
    assert supervise(processes("end(0)", "end(0)", "end(0)"), {}, 3, AT_ONCE) == 0
    out, err = capfd.readouterr()
    assert lives(tmp_path) == [1, 1, 1] and (out, err) == ("0 ends with 0\n", "")


@pytest.mark.parametrize("code", [1, 2, 127])
def test_one_that_fails_for_good_ends_all_at_once(processes, tmp_path, capfd, code):
    asked_to_end = "heed(0); (here / 'ready').touch(); wait_for('never')"
    assert supervise(processes(asked_to_end, f"wait_for('ready'); end({code})"), {}, 3, AT_ONCE) == code
    assert lives(tmp_path) == [1, 1]
    said = f"ratchet: submit: process 1 has ended with exit code {code}: 1 ends with {code}\n"
    assert capfd.readouterr().err == said


@pytest.mark.parametrize("ends", ["end(42)", "os.kill(os.getpid(), signal.SIGKILL)", "end(137)"])
def test_all_start_again_after_one_asks_for_it_or_is_killed(processes, tmp_path, ends):
    first = "heed(42)\nif life == 0: (here / 'ready').touch(); wait_for('never')"
    second = f"if life == 0: wait_for('ready'); {ends}"
    assert supervise(processes(first, second), {}, 1, AT_ONCE) == 0
    assert lives(tmp_path) == [2, 2]


def test_no_more_restarts_than_allowed(processes, tmp_path, capfd):
    assert supervise(processes("end(42)"), {}, 2, AT_ONCE) == 42
    assert lives(tmp_path) == [3] and "--restarts 2 are used up" in capfd.readouterr().err


def test_one_that_does_not_heed_is_killed(processes, tmp_path):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); (here / 'ready').touch(); wait_for('never')"
    assert supervise(processes(deaf, "wait_for('ready'); end(2)"), {}, 0, AT_ONCE) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_once_and_nothing_starts_again(processes, tmp_path, number):
    """A second one would end a run before it has saved: those that end later get none because a peer has ended."""
    code = """
def heard(*_):
    (here / f"heard-{number}").open("a").write("x")
    if number == 0: wait_for("heard-1"); end(42)
    time.sleep(0.3); end(42)
signal.signal(signal.SIGTERM, heard); signal.signal(signal.SIGINT, heard)
(here / f"ready-{number}").touch()
wait_for("never")
"""

    def ask():
        while not all((tmp_path / f"ready-{n}").exists() for n in range(2)):
            threading.Event().wait(0.01)
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    assert supervise(processes(code, code), {}, 5, Patience(grace=60.0, pause=0.0)) == 128 + number
    asking.join()
    assert lives(tmp_path) == [1, 1]
    assert [(tmp_path / f"heard-{n}").read_text() for n in range(2)] == ["x", "x"]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_supervisor_leaves_nobody_behind(processes, tmp_path):
    def commands():
        return [*processes("wait_for('never')")(), ["/no/such/program"]]

    with pytest.raises(FileNotFoundError):
        supervise(commands, {}, 0, AT_ONCE)
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    assert not any(str(tmp_path) in Path(f"/proc/{child}/cmdline").read_text() for child in children)


def test_processes_meet_at_one_port():
    words = [words[-4:] for words in local._commands(Local(TINY, "local", out="here", processes=3), 4242)]
    joins = [f"--join=127.0.0.1:4242/3/{number}" for number in range(3)]
    assert words == [["run", "tiny", "--out=here", join] for join in joins]


def test_processes_share_the_gpus_that_there_are(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_DEVICES", tmp_path)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert local._gpus_of(2) == ["", ""]
    for number in range(4):
        (tmp_path / f"nvidia{number}").touch()
    assert [local._gpus_of(count) for count in (1, 2, 3)] == [["0,1,2,3"], ["0,1", "2,3"], ["0", "1", "2,3"]]
    first, second = local._commands(Local(TINY, "local", out="here", processes=2), 4242)
    assert (first[:2], second[:2]) == (["env", "JAX_LOCAL_DEVICE_IDS=0,1"], ["env", "JAX_LOCAL_DEVICE_IDS=2,3"])
    with pytest.raises(UserError, match="5 processes do not share 4 GPUs; give --processes 4 or fewer"):
        local._gpus_of(5)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    assert local._gpus_of(2) == ["0", "1"], "of those that are seen"
    for hidden, seen in (("-1", 0), ("", 0), ("NoDevFiles", 0), ("1,-1,2", 1), ("GPU-8932f937, MIG-52", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert local._gpus_of(1) == [",".join(map(str, range(seen)))], "the first that is none ends them, as in CUDA"
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert local._gpus_of(5) == [""] * 5


def test_any_split_into_processes_computes_with_as_many_threads_and_devices(tmp_path):
    """XLA splits its work by them, and so the sums that rounding depends on."""
    splits = ((1, 64), (2, 32), (32, 2))
    given = [local._environment(Local(TINY, "local", processes=p, devices=d)) for p, d in splits]
    assert {environment["NPROC"] for environment in given} == {str(max(os.cpu_count(), 64))}
    environment = os.environ | given[2] | CACHED
    ran = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True)
    assert ran.stdout == "2 /shared/cache\n"
