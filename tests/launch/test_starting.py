"""What ends a run on devices is told apart, too little memory, a peer that is gone, errors of this process alone; and
who takes a device at all."""

import subprocess
import sys
from dataclasses import replace

import jax
import pytest
from etils import epath
from support import tiny_config

from ratchet.bootstrap import config_files
from ratchet.bootstrap.config import Config
from ratchet.launch import cli
from ratchet.launch.commands import start
from ratchet.launch.commands.start import OutOfMemory, _with_remedy
from ratchet.launch.lines import UserError
from ratchet.train.buckets import answering
from ratchet.train.together import ALONE, PeerGone, Together

HERE = epath.Path("runs/x")
TWO = Together(0, 2)


@pytest.mark.parametrize("together", [ALONE, TWO])
def test_too_little_memory_is_never_called_a_peer_that_is_gone(together):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")
    said = _with_remedy(error, HERE, together)
    assert isinstance(said, OutOfMemory) and "too little memory" in str(said) and "\n" not in str(said)


def test_a_failed_exchange_means_that_a_peer_is_gone_also_where_a_library_wrapped_it():
    gloo = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
    wrapped = ValueError("what lies here is no checkpoint")
    wrapped.__cause__ = gloo
    for error in (gloo, wrapped):
        said = _with_remedy(error, HERE, TWO)
        assert isinstance(said, PeerGone) and "Connection closed by peer" in str(said)
        assert _with_remedy(error, HERE, ALONE) is error


def test_other_errors_of_one_of_two_processes_are_its_own():
    error = ValueError("a mistake")
    assert _with_remedy(error, HERE, TWO) is error


@pytest.mark.parametrize(
    ("said", "kind", "status"),
    [
        ("503 Service Unavailable", Exception, 42), ('writing "gs://b/credentials/403/state"', Exception, 42),
        ("Forbidden: no", Exception, 2), ("Unable to locate credentials", Exception, 2),
        ("The request signature does not match", PermissionError, 2),
    ],
)  # fmt: skip
def test_a_bucket_that_may_answer_another_time_is_asked_again(capsys, monkeypatch, said, kind, status):
    """Before a run has begun too: a restart during the failure must not be the last one."""

    def ask(words):
        with answering("gs://b/x"):
            raise type("HttpError", (kind,), {"__module__": "gcsfs.retry"})(said)

    monkeypatch.setattr(cli, "_function", lambda name: ask)
    assert cli.main(["run", "tiny"]) == status
    assert "gs://b/x: the bucket does not do it (HttpError" in capsys.readouterr().err


def test_processes_that_could_not_save_together_do_not_begin(monkeypatch):
    monkeypatch.setattr(start, "current", lambda: TWO)
    with pytest.raises(ValueError, match="s3://b/x: several processes save to gs:// or a shared disk"):
        start._joined("auto", Config(), epath.Path("s3://b/x"))
    assert start._joined("auto", Config(), epath.Path("gs://b/x")).count == 2
    assert start._joined("", Config(), epath.Path("s3://b/x")) is ALONE


def test_whoever_starts_processes_again_may_change_what_a_resume_may(tmp_path, monkeypatch, capsys):
    """A pod knows no other words than those of `run`."""
    place, config, extended = epath.Path(tmp_path) / "run", tiny_config(), []
    config_files.save(place, config)
    monkeypatch.setattr(start.extending, "extend", lambda directory, new: extended.append(new) or "given")
    assert start._changed("run", place, config, ALONE) is None and extended == []
    more = replace(config, generations=5)
    assert (start._changed("run", place, more, ALONE), extended) == ("given", [more])
    assert "goes on with other settings: generations: 2 → 5" in capsys.readouterr().err
    with pytest.raises(UserError, match="run has 2 generations; --generations can be more, not fewer"):
        start._changed("run", place, replace(config, generations=1), ALONE)
    with pytest.raises(UserError, match="seed: 0 → 1 differs from the run; start a new run"):
        start._changed("run", place, replace(config, seed=1), ALONE)


def test_no_process_ends_before_the_report_is_made(tmp_path, monkeypatch):
    """JAX waits half a minute for the others of a process that has ended, and then kills all."""
    said = []

    def decided(self, what, decide):
        made = decide() if self.first else None
        said.append(f"{self.number} knows {what}")
        return made

    monkeypatch.setattr(Together, "decided", decided)
    monkeypatch.setattr(start.loop, "run", lambda *_, **__: said.append("ran"))
    monkeypatch.setattr(start.page, "build", lambda directory: said.append("report"))
    monkeypatch.setattr(start, "status", lambda directory: {})
    monkeypatch.setattr(start.Events, "result", lambda *_: None)
    for number in range(2):
        assert start._go(epath.Path(tmp_path), Config(), True, Together(number, 2)) == 0
    assert said == ["ran", "report", "0 knows the report", "ran", "1 knows the report"], "or that it failed"


@pytest.mark.parametrize(
    ("said", "mend", "status"),
    [
        ("'tpu': ALREADY_EXISTS: The TPU is already in use by process 7", "another process has it, or it comes", 42),
        ("'tpu': UNAVAILABLE: No TPU\nPlatform available.", "another process has it, or it comes back", 42),
        ("'cuda': no supported devices found for platform CUDA", "see to its driver, and to JAX_PLATFORMS", 2),
    ],
)
def test_a_device_that_is_not_there_is_one_line_and_one_that_may_come_back_is_asked_for_again(
    capsys, monkeypatch, said, mend, status
):
    def without_device(words):
        raise RuntimeError(f"Unable to initialize backend {said}")

    waited = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    monkeypatch.setattr(cli, "_function", lambda name: without_device)
    assert cli.main(["run", "tiny"]) == status and waited == [cli.PAUSE if status == 42 else 0]
    shown = capsys.readouterr().err
    assert shown.startswith("ratchet: run: there is no device to work with (Unable") and shown.count("\n") == 1
    assert mend in shown


def test_who_only_looks_or_starts_others_takes_no_device():
    """On a GPU, who does takes most of its memory; on a TPU, nobody else can have it."""
    code = (
        "import pkgutil; from ratchet.launch import commands\n"
        "places = [f'{commands.__name__}.{of}' for of, *_ in commands.COMMANDS.values()]\n"
        "assert len([pkgutil.resolve_name(place) for place in places]) > 10\n"
        "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]


def test_a_standard_output_that_a_shell_has_closed_is_no_fault():
    ran = subprocess.run(["sh", "-c", f"{sys.executable} -m ratchet.launch --version >&-"], capture_output=True)
    assert (ran.returncode, ran.stderr) == (0, b"")
