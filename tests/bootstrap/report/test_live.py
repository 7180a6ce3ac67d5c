"""A run that is looked at again and again, before it begins, while it goes on, and when it is over or damaged."""

import io
import json

import pytest
from etils import epath
from rich.console import Console
from written_run import put, write_run

from ratchet.bootstrap.report import live
from ratchet.bootstrap.report.live import Watched
from ratchet.bootstrap.report.screen import Screens
from ratchet.train.commits import Commits
from ratchet.train.files import write_unit

WIDTHS = (40, 60, 80, 120)


@pytest.fixture
def run(tmp_path) -> epath.Path:
    return write_run(epath.Path(tmp_path) / "run")


def committed(run) -> None:
    """Commits what lies there, so that nothing counts as altered."""
    Commits(run).adopt(run, [run / "plan.json"])


def review(run, unit: int, *passed: bool, number: int = 3) -> epath.Path:
    """Commits a unit of reviews by one criterion that passes so, and one that always does."""
    place = run / f"gen-{number:03d}" / "review"
    place.mkdir(parents=True, exist_ok=True)
    verdict = lambda ok: {"score": 1.0 * ok, "passed": ok, "reason": ""}
    made = [
        {"transcript_id": str(n), "verdicts": {"grounded": verdict(ok), "short": verdict(True)}, "accepted": ok}
        for n, ok in enumerate(passed)
    ]
    path = place / f"unit-{unit:05d}.array_record"
    digest = write_unit(path, [json.dumps(one).encode() for one in made])
    put(path.with_suffix(".json"), {"sha256": digest, "inputs": ""})
    return path


def printed(*found, width: int, height: int = 0) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(Screens(found, height))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def at_work(monkeypatch, **changes):
    """Has every look find a process at work, as these records have it, one after the other."""
    holder = {"host": "node7", "pid": 42, "since": 0.0, "heard": 100.0, "doing": None, "sampled": None}
    records = [holder | dict(zip(changes, values, strict=True)) for values in zip(*changes.values(), strict=True)]
    monkeypatch.setattr("ratchet.bootstrap.report.status.holder_of", lambda _: records.pop(0))


def test_a_run_is_waited_for_until_it_begins(tmp_path):
    for directory in (epath.Path(tmp_path) / "none", epath.Path(tmp_path)):
        found = Watched(directory).look()
        assert found["state"] == "not begun" and found["standing"] == [f"{directory} holds no run yet"]
        assert json.loads(json.dumps(found)) == found
        assert all(len(line) <= 40 for line in printed(found, width=40))


def test_a_run_without_its_settings_is_damaged(run):
    committed(run)
    (run / "config.json").unlink()
    found = Watched(run).look()
    assert found["state"] == "damaged" and "config.json: it is not what the run was made with" in found["standing"][0]


def test_a_file_that_is_another_is_named(run):
    committed(run)
    (run / "plan.json").write_text("{}")
    found = Watched(run).look()
    assert found["state"] == "damaged" and f"{run / 'plan.json'}: it is not what was committed" in found["standing"][0]
    assert any("plan.json" in line for line in printed(found, width=120))


def test_a_run_is_waiting_finished_or_ended(run):
    committed(run)
    watched = Watched(run)
    assert watched.look()["state"] == "finished"
    (run / "gen-003" / "DONE.json").unlink()
    found = watched.look()
    assert found["state"] == "waiting" and f"resume with `ratchet resume {run}`" in found["standing"][-1]
    put(run / "ended.json", {"reason": "nothing passed"})
    assert watched.look()["state"] == "ended" and watched.look()["standing"] == ["ended: nothing passed"]


def test_what_a_process_does_has_a_rate_from_the_time_that_is_left(run, monkeypatch):
    committed(run)
    monkeypatch.setattr(live.time, "time", lambda: 1200.0)
    doing = {"title": "gen 3 train (loop)", "since": 1000.0, "done": 100, "total": 400, "left": 60.0}
    at_work(monkeypatch, doing=[doing | {"about": ["loss 1.2", "gradient 0.1"]}, None])
    found = Watched(run).look()
    assert found["state"] == "at work"
    assert found["doing"] == {
        "title": "gen 3 train (loop)", "done": 100, "total": 400, "about": ["loss 1.2", "gradient 0.1"],
        "seconds": 200.0, "seconds_left": 60.0, "rate": 5.0,
    }  # fmt: skip
    lines = printed(found, width=80)
    assert "5.0/s, 1 min 00 s left of this stage" in lines and "loss 1.2, gradient 0.1" in lines
    assert any(line.endswith("25 %") for line in lines)
    assert Watched(run).look()["doing"] is None, "between stages"


def test_the_sampler_is_told_by_what_it_did_between_two_records(run, monkeypatch):
    committed(run)
    counts = [(0, 0), (60, 80), (60, 80), (150, 180), (150, 180), (9, 10)]
    sampled = [{"steps": slots // 8, "working": working, "slots": slots} for working, slots in counts]
    at_work(monkeypatch, sampled=[*sampled, None], heard=[100.0, 105.0, 105.0, 110.0, 115.0, 200.0, 205.0])
    watched = Watched(run)
    looks = [watched.look()["sampling"] for _ in range(7)]
    assert looks == [
        None, {"busy": 0.75, "tokens_per_second": 12.0}, {"busy": 0.75, "tokens_per_second": 12.0},
        {"busy": 0.9, "tokens_per_second": 18.0}, None, {"busy": 0.9, "tokens_per_second": None}, None,
    ]  # fmt: skip


def test_acceptance_is_that_of_the_newest_generation_and_every_unit_is_read_once(run, monkeypatch):
    committed(run)
    watched, read = Watched(run), []
    real = live.units
    monkeypatch.setattr(live, "units", lambda place: [_Counting(unit, read) for unit in real(place)])
    review(run, 0, True, True, number=2)
    assert watched.look()["acceptance"]["generation"] == 2
    review(run, 0, True, False)
    found = watched.look()["acceptance"]
    assert found == {"generation": 3, "reviewed": 2, "accepted": 0.5, "criteria": {"grounded": 0.5, "short": 1.0}}
    review(run, 1, False, False)
    assert watched.look()["acceptance"]["criteria"] == {"grounded": 0.25, "short": 1.0}
    assert watched.look(reviews=False)["acceptance"] is None
    assert read == ["unit-00000"] * 2 + ["unit-00001"]


class _Counting:
    """A unit that notes when it is read."""

    def __init__(self, unit, read):
        self._unit, self._noted = unit, read
        self.path, self.sha256 = unit

    def __iter__(self):
        return iter(self._unit)

    def records(self):
        self._noted.append(self.path.stem)
        return self._unit.records()


def test_reviews_that_were_made_anew_are_counted_anew_and_damaged_ones_not(run):
    committed(run)
    watched, path = Watched(run), review(run, 0, True, False)
    assert watched.look()["acceptance"]["accepted"] == 0.5
    review(run, 0, True, True, True)
    assert watched.look()["acceptance"]["reviewed"] == 3 and watched.look()["acceptance"]["accepted"] == 1.0
    path.write_bytes(b"torn")
    assert Watched(run).look()["acceptance"]["reviewed"] == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_has_room_for_it(run, width, monkeypatch):
    committed(run)
    review(run, 0, *[True, False] * 6)
    title = "gen 3 train (with quite a long name that goes on and on)"
    doing = {"title": title, "since": 0.0, "done": 1, "total": 3, "left": 9.0, "about": ["loss 1.2345"] * 9}
    at_work(monkeypatch, doing=[doing], sampled=[{"steps": 9, "working": 70_000, "slots": 72_000}])
    lines = printed(Watched(run).look(), width=width)
    assert max(map(len, lines)) <= width and title.split()[-1] in " ".join(lines)
    shown = " ".join(" ".join(lines).split())
    assert "generation 3, 12 reviewed: 50 % accepted" in shown and "slots 97.2 % busy" in shown
    assert any(line.split()[:1] == ["grounded"] and line.endswith("50 %") for line in lines)


def test_a_real_run_is_watched_to_its_end(tiny_run):
    found = Watched(tiny_run).look()
    assert found["state"] == "finished" and found["acceptance"]["reviewed"] > 0
    assert found["acceptance"]["accepted"] == pytest.approx(
        json.loads((tiny_run / "gen-002" / "funnel.json").read_text())["passed"] / found["acceptance"]["reviewed"]
    )
    assert found["goodput"]["share"] and json.loads(json.dumps(found)) == found


def test_what_a_window_has_no_room_for_is_left_out_and_what_is_done_now_is_not():
    """Twenty generations of eight stages, twelve criteria and eight parts of the time, in one run or in two."""
    stages = [{"generation": g, "stage": f"s{n}", "done": 1, "total": 2} for g in range(20) for n in range(8)]
    taken = {"share": 0.9, "goodput_time": 90.0, "total_elapsed_time": 100.0, "useful": {"train": 90.0}}
    taken |= {"badput_time": {f"PART {n}": 1.0 for n in range(8)}}
    accepted = {"generation": 19, "reviewed": 100, "accepted": 0.5, "criteria": {f"c{n}": 0.5 for n in range(12)}}
    one = {
        "recipe": "verses", "directory": "runs/x", "state": "at work", "standing": ["gen 19 review: 5 of 9"],
        "doing": None, "sampling": None, "stages": stages, "acceptance": accepted, "goodput": taken,
    }  # fmt: skip
    for runs in ([one], [one, one]):
        whole, rows, bars = printed(*runs, width=80), [], set()
        assert any("PART 0" in line for line in whole)
        for height in range(len(whole), 5 * len(runs), -2):
            lines = printed(*runs, width=80, height=height)
            assert len(lines) <= height and (height < len(whole) or lines == whole)
            for said in ("gen 19 review: 5 of 9", "50 % accepted", "goodput 90 %"):
                assert sum(said in line for line in lines) == len(runs)
            rows.append([line.split()[0] for line in lines if line.strip() and line.split()[0].isdigit()])
            bars.add((len(rows[-1]) // len(runs), sum("PART" in line for line in lines) // len(runs)))
        assert rows == sorted(rows, key=len, reverse=True) and {len(one) // len(runs) for one in rows} == {20, 2, 1, 0}
        assert all(one[-1] == "19" for one in rows if one)
        assert {(2, 7), (1, 3), (1, 1), (0, 1), (0, 0)} <= bars, "of the eight that are shown one is useful time"
