"""What users type and read: one line for every mistake, exit code 2."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from etils import epath
from fsspec.registry import _registry
from support import start, tiny_config

from ratchet.bootstrap import loop
from ratchet.bootstrap.lineage import reviewed
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.stages import seed
from ratchet.launch import cli
from ratchet.train.commits import Commits
from ratchet.train.holder import holding
from ratchet.train.stopping import ASKING


def ratchet(capsys, *words):
    """(exit code, stdout, stderr)"""
    code = cli.main([str(w) for w in words])
    return code, *capsys.readouterr()


def mistake(capsys, *words):
    code, out, err = ratchet(capsys, *words)
    assert code == 2 and err.startswith("ratchet: ")
    assert len(err.strip().splitlines()) == 1, err
    return err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["rnu"], "unknown command 'rnu'; the nearest is run; there are run, preview, resume"),
        (["statsu"], "the nearest is status"),
        (["run", "tiny", "--train.stepz", "3"], "unknown setting --train.stepz; the nearest is --train.steps"),
        (["run", "tiny", "--generation=3"], "the nearest is --generations"),
        (["run", "tiny", "--simulate.new-token", "3"], "the nearest is --simulate.new-tokens"),
        (["run", "tiny", "--steps", "3"], "the nearest is --"),
        (["resume"], "resume: give DIR, the directory of a run, such as runs/lessons"),
        (["status"], "status: give DIR, the directory of a run"),
        (["status", "nowhere"], "nowhere holds no run: nowhere/config.json is missing; start one with"),
        (["resume", "nowhere"], "holds no run"),
        (["report", "nowhere"], "holds no run"),
        (["show", "nowhere", "x"], "holds no run"),
        (["evaluate", "nowhere", "--generation", "1"], "holds no run"),
        (["serve"], "serve: give DIR, the directory of a run, or --base MODEL, and not both"),
        (["serve", "nowhere", "--port", "0"], "holds no run"),
        (["show", "nowhere"], "holds no run"),
        (["serve", "--base", "nowhere", "--port", "0"], "nowhere: nothing is there; give a Hugging Face folder or a"),
        (["serve", "--base", "nowhere", "--generation", "1"], "--generation is of a run, and --base has none"),
        (["serve", "runs/x", "--weights-from", "w"], "--weights-from is for a model that is served with --base"),
        (["serve", "nowhere", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid:8000"),
        (["serve", "nowhere", "--port", "70000"], "give another --host or --port"),
        (["ui"], "ui: give DIR, the directory of a run"),
        (["ui", "nowhere", "--port", "70000"], "ui: cannot listen on 127.0.0.1:70000"),
        (["ui", "nowhere", "--host", "0.0.0.0"], "unknown setting --host; this command has --"),
        (["export", "nowhere", "--generation", "1", "--to", "x"], "holds no run"),
        (["import"], "import: give MODEL, a Hugging Face folder, a GGUF file"),
        (["import", "nowhere"], "nowhere: nothing is there; give a Hugging Face folder or a GGUF file that"),
        (["run", "tiny", "--base", "a/model"], "a/model: nothing is there; give a Hugging Face folder or a GGUF file"),
        (["run", "tiny", "--outt", "x"], "the nearest is --out"),
        (["recipes", "--all"], "unknown setting --all; this command has --json"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(capsys, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    assert named in mistake(capsys, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--train.steps", "many"], "run: --train.steps is 'many'; give a whole number"),
        (["--targets.kind", "soft"], "--targets.kind is 'soft'; give one of 'one_hot', 'teacher'"),
        (["--train.steps"], "run: give --train.steps a value"),
        (["--simulate.passages", "0"], "simulate.passages is 0; it must be at least 1"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line(capsys, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    assert named in mistake(capsys, "run", "tiny", *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model.heads", "3"], "heads must divide width"),
        (["--mesh.data", "3"], "change --mesh"),
        (["--review.rubric", "no.yaml"], "no.yaml is missing; set --review.rubric"),
        (["--world", "documents", "--documents.path", "nothing"], "the recipe tiny brings no weights"),
        (["--lessons.slice", "100000"], "lower --generations"),
        (["--base", "x", "--model.mlp-width", "72"], "--model.mlp-width is for a model from scratch"),
        (["--teacher.url", "http://127.0.0.1:1/v1"], "1/v1 does not answer"),
        (["--evaluate.resolution", "0.3"], "--evaluate.resolution 0.3 it takes 7; have more, or a higher resolution"),
        (["--base", "smollm2", "--model.max-length", "9000", "--train.columns", "9000"], "smollm2 reads 8192, lower"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(capsys, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    assert named in mistake(capsys, "run", "tiny", "--out", "here", *words)
    assert not list(tmp_path.iterdir()), "a run that cannot start leaves nothing that must be removed first"


def test_a_directory_with_a_run_is_refused_naming_resume(capsys, tmp_path):
    directory = start(tmp_path / "run", tiny_config())
    assert f"go on with `ratchet resume {directory}`" in mistake(capsys, "run", "tiny", "--out", directory)


def test_resuming_with_another_config_names_the_field(capsys, tmp_path):
    directory = start(tmp_path / "run", tiny_config())
    line = mistake(capsys, "resume", directory, "--train.steps", "9")
    assert "train.steps: 8 → 9 differs from the run" in line


def test_what_a_run_with_rows_too_short_advises_can_be_done(capsys, tmp_path, monkeypatch):
    directory = epath.Path(tmp_path) / "run"
    with pytest.raises(ValueError, match="all 48 demonstrations are longer than train.columns, 49 tokens") as caught:
        loop.run(directory, tiny_config(model__max_length=96, train__columns=49), Silent())
    advised = re.search("`ratchet (.*)` goes on", str(caught.value))[1].split()

    def end(*_):
        raise loop.RunEnded("there is room to train")

    monkeypatch.setattr(loop, "write_forecast", lambda *_: None)
    monkeypatch.setattr(seed, "train_arm", end)
    assert ratchet(capsys, *advised)[0::2] == (1, "ratchet: there is room to train\n")


def test_a_run_that_has_ended_says_why(capsys, tmp_path):
    directory = start(tmp_path / "run", tiny_config())
    Commits(directory).write(directory / "ended.json", {"reason": "generation 1: no transcript passed"})
    assert "has ended: generation 1: no transcript passed" in mistake(capsys, "resume", directory)


@pytest.mark.parametrize(
    ("text", "named"),
    [("{", "cannot be read"), ('{"sead": 1}', "unknown setting sead; nearest is seed"),
     ('{"sead": 1}', "one that another revision of Ratchet began goes on with that revision"),
     ('{"seed": "x"}', "seed is 'x'"), ("[]", "config.json")],
)  # fmt: skip
def test_a_damaged_config_is_one_line(capsys, tmp_path, text, named):
    (tmp_path / "config.json").write_text(text)
    assert named in mistake(capsys, "resume", tmp_path)


@pytest.mark.parametrize("command", ["resume", "status", "report", "chat"])
def test_a_directory_in_the_place_of_a_config_is_one_line(capsys, tmp_path, command):
    (tmp_path / "config.json").mkdir()
    assert f"{tmp_path}/config.json cannot be read: Is a directory; put it" in mistake(capsys, command, tmp_path)


def test_recipes_say_what_they_do_how_long_and_what_they_reach(capsys):
    code, out, _ = ratchet(capsys, "recipes")
    assert code == 0
    for word in ("lessons", "tiny", "takes", "should reach"):
        assert word in out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(capsys, words):
    code, out, _ = ratchet(capsys, *words)
    assert code == 0
    assert all(f"ratchet {c}" in out for c in cli.COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


def test_what_is_asked_for_help_or_status_waits_for_no_model_to_be_imported():
    heavy = "{'ratchet.bootstrap.loop', 'ratchet.models.sampler', 'bm25s', 'matplotlib', 'tensorboardX'}"
    for words in (["--help"], ["--version"], ["status", "nowhere"], ["nonsense"]):
        code = f"import sys; from ratchet.launch import cli; cli.main({words}); print(*{heavy} & {{*sys.modules}})"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert said.splitlines()[-1] == "", words


def test_status_of_a_finished_run_as_a_table_and_as_json(capsys, tiny_run):
    code, out, _ = ratchet(capsys, "status", tiny_run)
    assert code == 0 and "imitation" in out and "promoted" in out and "simulate" in out
    code, out, _ = ratchet(capsys, "status", tiny_run, "--json")
    found = json.loads(out)
    assert code == 0 and [g["generation"] for g in found["generations"]] == [0, 1, 2]


def test_show_prints_a_transcripts_lineage(capsys, tiny_run):
    sample = json.loads((tiny_run / "gen-001" / "samples.json").read_text())["transcripts"][0]
    code, out, _ = ratchet(capsys, "show", tiny_run, sample["id"])
    assert code == 0 and sample["id"] in out and "passes from" in out and sample["question"] in " ".join(out.split())
    code, out, _ = ratchet(capsys, "show", tiny_run, sample["id"], "--json")
    found = json.loads(out)
    assert code == 0 and found["transcript"] == sample["id"]
    assert {"documents", "verdicts", "branches", "targets", "trained"} <= found.keys()
    some = json.loads((tiny_run / "gen-002" / "samples.json").read_text())["transcripts"][0]["id"]
    assert f"has no transcript zzz; there is {some} or " in mistake(capsys, "show", tiny_run, "zzz")
    for words in ((), ("",)):
        assert f"show: give ID, a transcript's id or its beginning, such as {some} or " in mistake(
            capsys, "show", tiny_run, *words
        )


def test_show_wants_one_transcript(capsys, tiny_run):
    by_letter = {}
    for generation in ("gen-001", "gen-002"):
        for one in reviewed(tiny_run / generation)[0]:
            by_letter.setdefault(one[0], []).append(one)
    letter, several = max(by_letter.items(), key=lambda item: len(item[1]))
    line = mistake(capsys, "show", tiny_run, letter)
    assert f"{len(several)} transcripts begin with {letter}, such as {several[0]}" in line and "give more" in line


@pytest.mark.parametrize("words", [
    ["run", "tiny", "--out=gs://bucket/run"], ["resume", "gs://bucket/run"], ["status", "gs://bucket/run"],
    ["show", "gs://bucket/run", "a"], ["report", "gs://bucket/run"], ["chat", "gs://bucket/run"],
    ["evaluate", "gs://bucket/run", "--generation", "1"], ["import", "gs://bucket/model"],
    ["export", "gs://bucket/run", "--generation", "1", "--to", "x"],
    ["compare", "gs://bucket/run", "--vary", "train.steps", "1"],
    ["preview", "gs://bucket/run"], ["label", "gs://bucket/run"], ["calibrate", "gs://bucket/run"],
    ["serve", "gs://bucket/run", "--port", "0"],
])  # fmt: skip
def test_an_object_store_without_its_library_is_one_line(capsys, monkeypatch, words):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for known in ("gs", "gcs"):  # another test may have had fsspec import it
        monkeypatch.delitem(_registry, known, raising=False)
    line = mistake(capsys, *words)
    assert "gs://bucket/" in line and "gcsfs" in line and "pip install 'ratchet[buckets]'" in line


def test_a_terminal_without_our_letters_gets_others(tiny_run, monkeypatch):
    for words in (["status", tiny_run], ["run", "tiny", "--help"], ["recipes"], ["--help"]):
        shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", shown)
        assert cli.main([str(word) for word in words]) == 0
        print("– λ \udce9 ü", flush=True)
        assert shown.buffer.getvalue().decode("ascii").endswith("- l ? ?\n")


def test_evaluating_a_generation_that_is_not_there_is_one_line(capsys, tiny_run):
    assert "has no finished generation 9" in mistake(capsys, "evaluate", tiny_run, "--generation", "9")


def test_a_misspelt_option_of_status_names_its_own(capsys, tiny_run):
    assert "unknown setting --jsom; the nearest is --json" in mistake(capsys, "status", tiny_run, "--jsom")
    assert "unknown setting --foo" in mistake(capsys, "report", tiny_run, "--foo")


def test_evaluating_again_prints_the_metrics_with_their_intervals(capsys, tiny_run):
    code, out, _ = ratchet(capsys, "evaluate", tiny_run, "--generation", "1")
    saved = json.loads((tiny_run / "gen-001" / "evaluation.json").read_text())
    m = saved["metrics"]["harmful"]
    assert code == 0
    assert f"{m['value']:.4f}" in out and f"{m['low']:.4f} – {m['high']:.4f}" in out
    code, out, _ = ratchet(capsys, "evaluate", tiny_run, "--generation", "1", "--json")
    assert code == 0 and json.loads(out)["metrics"] == saved["metrics"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 42), (signal.SIGHUP, 129)])
def test_a_signal_in_any_stage_is_two_lines_that_say_how_to_go_on(capfd, tiny_run, monkeypatch, number, status):
    monkeypatch.setattr(loop, "run", lambda *_, **__: signal.raise_signal(number))
    code = cli.main(["resume", str(tiny_run)])
    out, err = capfd.readouterr()
    assert code == status and "promoted" in out
    assert err.splitlines() == [
        "ratchet: stopping after this step; another signal ends at once",
        f"ratchet: stopped by {number.name}; `ratchet resume {tiny_run}` goes on from what is committed",
    ]


def test_a_run_that_is_stopped_before_it_begins_is_told_to_begin_again(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "run", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert cli.main(["run", "tiny", "--out", str(tmp_path / "run")]) == 42
    assert capfd.readouterr().err.splitlines()[1:] == [
        "ratchet: stopped by SIGTERM; the same command may be given again"
    ]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_answers_every_signal_itself(command):
    """What others make of one, such as of Ctrl-C a KeyboardInterrupt, may be lost in a library."""
    before = [signal.getsignal(number) for number in ASKING]
    with cli._heeding_signals(command):
        assert not set(before) & {signal.getsignal(number) for number in ASKING}
    assert [signal.getsignal(number) for number in ASKING] == before


def test_a_terminal_is_left_as_it_was_found():
    """Whoever waits for single keys has it give no lines and no echo; bars hide its cursor."""
    code = """
import sys, tty
from ratchet.launch.output import ends_as_found
end = ends_as_found()
tty.setraw(0)
sys.stdout.write("\x1b[?25l")
end(3)
"""
    own, others = os.openpty()
    before = termios.tcgetattr(others)
    with subprocess.Popen([sys.executable, "-c", code], stdin=others, stdout=others) as ended:
        assert ended.wait() == 3
    assert termios.tcgetattr(others) == before
    said = os.read(own, 1000)
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")
    os.close(own), os.close(others)


def test_a_signal_that_comes_when_all_is_done_changes_no_exit_status():
    code = """
import atexit, signal
from ratchet.launch.__main__ import end
atexit.register(lambda: signal.raise_signal(signal.SIGTERM))
end(7)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


@pytest.mark.skipif(sys.platform != "linux", reason="the C library there has no on_exit")
def test_a_signal_that_comes_when_python_has_ended_changes_no_exit_status():
    """The C library calls raise(status) when it ends the process, which sends the signal of that number."""
    code = """
import ctypes
from ratchet.launch.__main__ import end
library = ctypes.CDLL(None)
library.on_exit(getattr(library, "raise"), None)
end(15)
"""
    assert signal.SIGTERM == 15
    assert subprocess.run([sys.executable, "-c", code]).returncode == 15


def test_a_run_at_work_is_refused_to_a_second_process_and_open_to_those_who_look(capsys, tiny_run):
    with holding(tiny_run):
        before = (tiny_run / "report" / "index.html").exists()
        assert f"process {os.getpid()} on" in mistake(capsys, "resume", tiny_run)
        assert (tiny_run / "report" / "index.html").exists() == before, "who is refused writes no page either"
        code, out, _ = ratchet(capsys, "status", tiny_run)
        assert code == 0 and f"process {os.getpid()} on" in out
        assert json.loads(ratchet(capsys, "status", tiny_run, "--json")[1])["holder"]["pid"] == os.getpid()
    assert ratchet(capsys, "status", tiny_run)[1].splitlines()[0] == "finished"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["status", "FILE"], "FILE is a file; give a directory"),
        (["watch", "FILE"], "FILE is a file; give a directory"),
        (["run", "tiny", "--out", "FILE"], "FILE is a file; give a directory"),
        (["export", "RUN", "--generation", "1", "--to", "FILE"], "export: FILE exists already; give another --to"),
        (["calibrate", "RUN", "--labels", "FOLDER"], "FOLDER is a directory; give the file that `ratchet label` wrote"),
        (["preview", "RUN", "--tasks", "0"], "preview: --tasks is 0; it must be at least 1"),
        (["preview", "RUN", "--simulate.samples", "9"], "has settings of its own; leave out --simulate.samples"),
    ],
)
def test_what_lies_where_another_kind_of_thing_should_is_one_line(capsys, tiny_run, tmp_path, words, line):
    (tmp_path / "file").write_text("x")
    places = {"FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path), "RUN": str(tiny_run)}
    for name, place in places.items():
        line = line.replace(name, place)
    assert line in mistake(capsys, *(places.get(word, word) for word in words))


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (OSError(errno.EACCES, "Permission denied", "runs/x/lock"), "runs/x/lock: Permission denied; give this", 2),
        (OSError(errno.EROFS, "Read-only file system", Path("runs/x")), "runs/x: Read-only file system; give this", 2),
        (OSError(errno.ENOSPC, "No space left on device", "page"), "page: No space left on device; free some", 1),
        (OSError(errno.ENOENT, "No such file or directory", "page"), "page: No such file or directory\n", 2),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some space\n", 1),
        (OSError(errno.EISDIR, "Is a directory", "x/lock"), "x/lock: Is a directory; a directory lies where", 2),
        (OSError(errno.ENOTDIR, "Not a directory", "x/a"), "x/a: Not a directory; a file lies where a", 2),
        (OSError("what it is about; what helps"), "what it is about; what helps\n", 2),
    ],
)
def test_what_the_system_refuses_is_one_line_that_names_the_file(capsys, monkeypatch, error, line, status):
    def refused(words):
        raise error

    monkeypatch.setattr(cli, "_function", lambda name: refused)
    assert cli.main(["report", "runs/x"]) == status
    said = capsys.readouterr().err
    assert said.startswith(f"ratchet: {line}") and said.count("\n") == 1


def test_the_report_is_rebuilt(capsys, tiny_run):
    code, out, _ = ratchet(capsys, "report", tiny_run)
    assert code == 0 and Path(out.strip()).read_text().startswith("<!")
    assert json.loads(ratchet(capsys, "report", tiny_run, "--json")[1]) == {"page": out.strip()}
