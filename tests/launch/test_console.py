"""What people see while a run goes on, on terminals of every width and without one."""

import io
import json

import pytest
from etils import epath
from rich.console import Console

from ratchet.bootstrap.progress import Tally
from ratchet.bootstrap.report.outlook import Outlook, Stage
from ratchet.launch import console
from ratchet.launch.console import Shown, Terminal, clock, laid_out
from ratchet.launch.events import Events

RUN = Outlook((Stage("gen-000", "train", 10, 20.0), Stage("gen-001", "train", 360), Stage("gen-002", "train", 60)))
STEP = ("loss 1.2345", "gradient 0.512", "rate 0.03", "1,234 tokens/s", "mfu 41.2 %", "kl 0.2500")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No time passes since items were done."""
    monkeypatch.setattr(Tally, "waited", 0.0)


def shown(about=STEP, total=360) -> Shown:
    """Step 120 of 360, 200 seconds before the end of the stage."""
    tally = Tally(total)
    tally.add(120, found=False, left=200.0)
    tally.began += 1e9  # no time has passed
    return Shown("gen 1 train (loop)", tally, RUN, about)


def lines(width: int, what) -> list[str]:
    terminal = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    terminal.print(what)
    return [line.rstrip() for line in terminal.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
def test_stage_step_loss_and_time_left_are_there_on_every_width(width):
    said = lines(width, shown())
    assert max(map(len, said)) <= width and len(said) <= 3
    needed = ["gen 1 train (loop)", "120/360", "loss 1.2345", "3:20 left", "stage 2 of 3", "in all"]
    places = ["  ".join(said).find(part) for part in needed]
    assert -1 not in places and places == sorted(places)


def test_the_more_room_there_is_the_more_is_said_and_a_bar_fills_the_rest():
    assert laid_out(["one", "two"], ["three", "four"], 40) == ["one  two  three  four"]
    assert laid_out(["one", "two"], ["three", "four"], 16) == ["one  two  three"]
    assert laid_out(["one", "two"], ["three"], 6) == ["one", "two"]
    assert lines(120, shown())[-1].count("━") < lines(160, shown(STEP[:1]))[-1].count("━")
    assert "mfu 41.2 %" in " ".join(lines(160, shown()))


def test_a_stage_of_which_all_is_done_is_ending():
    tally = Tally(120)
    tally.add(120, found=False, left=None)
    needed, _ = Shown("gen 0 evaluate (loop)", tally, Outlook(())).parts()
    assert needed == ["gen 0 evaluate (loop)", "120/120", "ending"]


def test_time_left_runs_down_and_where_nothing_is_done_in_it_that_is_said(monkeypatch):
    for waited, said in ((80.0, "2:00 left"), (200.9, "0:00 left"), (209.0, "nothing new for 3:29")):
        monkeypatch.setattr(Tally, "waited", waited)
        text = " ".join(lines(80, shown()))
        assert said in text and (":00 left" in text) == ("left" in said)


def test_a_stage_of_unknown_length_is_counted():
    assert "  120  loss" in lines(80, shown(total=0))[0]


@pytest.fixture
def directory(tmp_path):
    """The directory of a run whose first stage is done."""
    stages = [{"place": s.place, "stage": s.name, "work": s.work} for s in RUN.stages]
    (tmp_path / "plan.json").write_text(json.dumps({"stages": stages}))
    (tmp_path / "gen-000").mkdir()
    (tmp_path / "gen-000" / "stages.json").write_text(json.dumps({"train": 20.0}))
    return epath.Path(tmp_path)


def told(directory, monkeypatch, every=console.EVERY, **where) -> list[str]:
    """What remains of a stage of three steps, the first of which an earlier process did."""
    monkeypatch.setattr(console, "EVERY", every)
    written = Console(width=80, file=io.StringIO(), **where)
    with Terminal(written, directory).stage("gen 1 train (loop)", 3) as advance:
        advance(1, found=True)
        advance(1, STEP, left=30.0)
        advance(1, STEP, left=0.0)
    return written.file.getvalue().splitlines()


def test_without_a_terminal_there_are_plain_lines_with_all_of_it(directory, monkeypatch):
    first, *steps, last = told(directory, monkeypatch, every=0.0)
    assert first.startswith("stage 2 of 3, about ") and len(steps) == 3
    assert steps[1].startswith("gen 1 train (loop)  2/3  loss 1.2345  0:30 left  stage 2 of 3  about ")
    assert steps[1].endswith("  ".join(STEP[1:]))
    assert last.startswith("gen 1 train (loop): 3 done, 1 of them before in ")
    monkeypatch.setattr("ratchet.launch.console.time.monotonic", lambda: 0.0)
    assert len(told(directory, monkeypatch)) == 2, "a line every 15 seconds at most"


def test_on_a_terminal_the_cursor_is_shown_again_however_a_stage_ends(directory, monkeypatch):
    assert "\x1b[?25h" in "".join(told(directory, monkeypatch, force_terminal=True)[-3:])
    written = Console(width=80, file=io.StringIO(), force_terminal=True)
    terminal = Terminal(written, directory)
    with pytest.raises(KeyboardInterrupt), terminal.stage("gen 1 train (loop)", 3), terminal.stage("within", 2):
        raise KeyboardInterrupt
    said = written.file.getvalue()
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l") and "done" not in said


def test_programs_are_told_the_same_in_lines_of_json(directory, monkeypatch, capsys):
    monkeypatch.setattr("ratchet.launch.events.EVERY", 0.0)
    monkeypatch.setattr("ratchet.bootstrap.progress.time.monotonic", lambda: 0.0)
    events = Events(directory)
    with events.stage("gen 1 train (loop)", 3) as advance:
        advance(1, found=True)
        advance(1, STEP, left=30.0)
    events.line("a line")
    events.result(None, "page.html", {"finished": True})
    first, _, last, ended, line, result = map(json.loads, capsys.readouterr().out.splitlines())
    assert all(e.pop("time") > 1e9 for e in (first, last, ended, line, result))
    whole = {"stage": 2, "of": 3, "seconds_left_in_all": [840.0, 840.0], "not_measured": []}
    about = {"event": "stage", "title": "gen 1 train (loop)", "total": 3} | whole
    assert first == about | {"done": 0, "seconds_left": None, "ended": False, "about": []}
    assert last["done"] == 2 and last["seconds_left"] == 30.0 and last["about"] == list(STEP) and not last["ended"]
    assert ended["done"] == 2 and ended["ended"]
    assert line == {"event": "line", "text": "a line"}
    assert result == {"event": "result", "error": None, "page": "page.html", "status": {"finished": True}}


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(directory, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    said = told(directory, monkeypatch, every=0.0, force_terminal=True)
    assert len(said) == 5 and not any("\x1b" in line for line in said)


def test_times_are_clocks():
    assert [clock(s) for s in (0.4, 59.6, 200, 3900)] == ["0:00", "1:00", "3:20", "1:05:00"]
