"""The run in terminals of every width."""

import io
import time

import pytest
from etils import epath
from rich.console import Console
from written_run import METRICS, evaluation, put, write_run

from ratchet.bootstrap.report.status import status
from ratchet.bootstrap.report.terminal import Fitted, figures, shown, standing, units

WIDTHS = (40, 60, 80, 100, 120, 160)


def printed(shown, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(shown)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def run(tmp_path):
    return write_run(epath.Path(tmp_path) / "run")


def words(lines):
    """What stands in the tables, without their rules and the caption."""
    return {word for line in lines[: lines.index("rates in %")] for word in line.split() if word.strip("─")}


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_readable_on_every_width(run, width):
    found = status(run)
    lines, whole = printed(figures(found), width), printed(figures(found), 400)
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
    assert words(lines) == words(whole)


def test_every_column_is_explained(run):
    """Also one in which no row has a figure yet: people ask what is missing there."""
    (run / "gen-001" / "audit.json").unlink()
    lines = printed(figures(status(run)), 132)
    told = {line.split(":")[0] for line in lines[lines.index("rates in %") :]}
    assert told >= {*lines[1].split()[1:]}


def test_a_wide_terminal_has_a_row_a_generation_and_a_narrow_one_a_row_a_figure(run):
    wide = printed(figures(status(run)), 132)
    assert wide[1].split() == [
        *"gen made accepted cover prec recall junk fooled".split(),
        *"rhyme open tilt most steady surp promoted".split(),
    ]
    assert [line.split()[0] for line in wide[3:8]] == ["0", "1", "2", "3", "imitation"]
    narrow = printed(figures(status(run)), 60)
    assert narrow[1].split() == ["gen", "0", "1", "2", "3", "imitation"]
    assert next(line for line in narrow if line.startswith(" rhyme")).split() == ["rhyme", "10", "85", "80", "93", "90"]


def test_columns_that_do_not_fit_even_so_stand_below():
    heads = ["gen", *(f"figure {n}" for n in range(5))]
    shown = Fitted(heads, [[str(n), *["100,000"] * 5] for n in range(10, 40)])
    lines = printed(shown, 40)
    below = [line.split()[1:] for line in lines if line.startswith(" gen")]
    assert len(below) > 1 and sum(below, []) == [str(n) for n in range(10, 40)]


def test_no_name_is_markup_or_too_wide_and_no_word_moves_the_cursor():
    table = printed(Fitted(["criterion", "[b]"], [["[tone]", "1"], ["[/x]", "2"], ["灯笼" * 8, "3"]]), 40)
    assert all(any(name in line for line in table) for name in ("[tone]", "[/x]", "[b]", "灯笼" * 8))
    (line,) = printed(shown("a\x1b[2K\tb\r\x9bc"), 40)
    assert line.split() == [r"a\x1b[2K", r"b\x0d\x9bc"]


def test_a_run_without_figures_has_no_table(tmp_path):
    assert not printed(figures(status(epath.Path(tmp_path))), 80)


def test_absent_figures_are_dashes(run):
    put(run / "gen-004" / "plan.json", {"units": {"simulate": 2}})
    row = next(line for line in printed(figures(status(run)), 132) if line.startswith(" 4"))
    assert row.count("–") == 14, "all but the number of a generation that has only begun"


def test_the_caption_says_what_the_columns_mean_and_in_which_form_an_arm_was_asked(run):
    caption = figures(status(run)).caption
    assert "open: fresh tasks done with the book open" in caption
    assert "surp: surprise at verses, in nats; less is better" in caption
    assert caption[-1] == "imitation is asked in document form; in a chat: rhyme 12.3, tilt 12.3"
    (run / "imitation" / "evaluation.json").unlink()
    assert "form" not in " ".join(figures(status(run)).caption)


def test_the_metrics_of_the_newest_evaluation_are_the_columns(run):
    put(run / "gen-003" / "evaluation.json", evaluation(3, "loop", [METRICS[4]._replace(column="calm"), METRICS[1]]))
    (run / "imitation" / "evaluation.json").unlink()
    assert figures(status(run)).heads[8:] == ["calm", "open", "promoted"]


@pytest.mark.parametrize("width", WIDTHS)
def test_units_are_shown_by_generation_and_stage(run, width):
    put(run / "gen-001" / "plan.json", {"units": {"simulate": 12}})
    lines = printed(units(status(run)), width)
    assert max(map(len, lines)) <= width and any("0/12" in line for line in lines)


HOLDER = {"host": "node7", "pid": 42, "since": 0.0, "doing": None}
AHEAD = {"stage": 5, "of": 16, "place": "gen-001", "name": "train", "seconds_left": [840.0, 840.0], "not_measured": []}


def standing_of(**changes):
    found = {"directory": "runs/x", "altered": [], "missing": [], "ended": None, "finished": False, "holder": None}
    found["outlook"] = AHEAD
    return standing(found | changes)


def test_where_a_run_stands_names_the_stage_and_the_process_or_how_to_go_on(monkeypatch):
    monkeypatch.setattr("ratchet.bootstrap.report.terminal.time.time", lambda: 1200.0)
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(0.0))
    who = f"process 42 on node7 is at work since {since}"
    doing = {"title": "gen 1 train (loop)", "since": 1000.0, "done": 1200, "total": 3600, "left": 1.0}
    assert standing_of(holder=HOLDER | {"doing": doing}) == [
        "gen 1 train (loop): 1,200 of 3,600, for 3 min", "stage 5 of 16, about 14 min left in all", who
    ]
    between = "stage 5 of 16, gen-001 train, about 14 min left in all"
    assert standing_of(holder=HOLDER) == [between, who]
    assert standing_of(holder=HOLDER, outlook=None) == ["beginning", who]
    resume = "no process is at work; resume with `ratchet resume runs/x`"
    assert standing_of() == ["stage 5 of 16: gen-001 train", resume]
    assert standing_of(outlook=None) == ["not begun", resume]
    assert standing_of(finished=True) == ["finished"]
    assert standing_of(finished=True, altered=["plan.json: mend it"]) == ["plan.json: mend it"]
    assert standing_of(finished=True, ended="nothing passed") == ["ended: nothing passed"]
