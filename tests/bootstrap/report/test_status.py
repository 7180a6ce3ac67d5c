"""Where a run stands, read from directories in every state of completion."""

import json
import os
import socket
import time

import pytest
from etils import epath
from written_run import METRICS, audit, evaluation, put, write_run

from ratchet.bootstrap.ledger import Stage, check_units, units_of
from ratchet.bootstrap.report.numbers import chance, pace, percent
from ratchet.bootstrap.report.status import status
from ratchet.train.commits import Commits
from ratchet.train.files import RecordError
from ratchet.train.holder import LOCK, RECORD, holding


@pytest.fixture
def run(tmp_path) -> epath.Path:
    """A run of one generation, complete but for its DONE.json; its review is under way again."""
    run = epath.Path(tmp_path) / "run"
    put(run / "config.json", {"recipe": "verses", "world": "lamps", "generations": 1})
    put(run / "plan.json", {"generations": 1, "arms": ["imitation"]})
    put(run / "gen-000" / "evaluation.json", evaluation(0, "loop"))
    put(run / "gen-000" / "stages.json", {"train": 90.0, "evaluate": 10.0})
    gen = run / "gen-001"
    put(gen / "plan.json", {"units": {"simulate": 2, "review": 2, "targets": 2, "wrongthink": 0, "corrections": 3}})
    for stage, done in (("simulate", 2), ("review", 1), ("corrections", 1)):
        for unit in range(done):
            put(gen / stage / f"unit-{unit:05d}.json", {"count": 10})
    (gen / "review" / "unit-00001.array_record").write_text("torn")
    put(gen / "funnel.json", {"made": 1440, "passed": 700, "coverage": {"value": 0.92, "low": 0.9, "high": 0.94}})
    put(gen / "calibration.json", {"review": {"precision": 0.9, "recall": 0.8, "junk": 0.0}})
    oracle = {"precision": {"value": 0.99, "low": 0.97, "high": 1.0}, "attacked": {"tried": 100, "passed": 2}}
    put(gen / "audit.json", audit(1) | {"oracle": oracle})
    put(gen / "evaluation.json", evaluation(1, "loop"))
    put(gen / "decision.json", {"promoted": True})
    put(run / "imitation" / "evaluation.json", evaluation(1, "imitation"))
    return run


def test_rows_hold_plain_numbers(run):
    found = status(run)
    assert (found["recipe"], found["world"]) == ("verses", "lamps")
    row = found["generations"][1]
    assert (row["generation"], row["promoted"], row["simulated"], row["accepted"]) == (1, True, 1440, 700)
    assert row["coverage"] == 0.92 and row["unreviewed_mass"] == 0.0
    assert row["metrics"] == {m.name: m.values[1] for m in METRICS}
    assert row["intervals"]["rhymes"] == pytest.approx([0.81, 0.89]) and "surprise" not in row["intervals"]
    counted = ("raw_tokens", "raw_pieces", "rejected_tokens", "unaccounted_tokens", "untaught_tokens")
    assert row["audit"] == dict.fromkeys(counted, 0)
    assert found["baselines"]["imitation"]["metrics"]["tilted"] == 0.64
    assert json.loads(json.dumps(found)) == found


def test_a_share_of_nothing_is_no_figure(run):
    """Where nothing was asked, no attack tried or no transcript right, nothing is said to be 0 %."""
    nothing = {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    oracle = {"precision": nothing, "recall": nothing, "attacked": {"tried": 0, "passed": 0}}
    put(run / "gen-001" / "audit.json", audit(1) | {"oracle": oracle})
    measured = evaluation(1, "loop")
    measured["metrics"]["rhymes"] |= nothing
    put(run / "gen-001" / "evaluation.json", measured)
    row = status(run)["generations"][1]
    assert row["review"] == {"precision": None, "recall": None, "junk": 0.0, "attacked": None}
    assert row["metrics"]["rhymes"] is None
    assert not {"rhymes", "review.precision"} & row["intervals"].keys() and row["out_of"]["rhymes"] == 0


def test_units_that_no_plan_counted_are_all_there_once_their_stage_is_done(run):
    for number, done in ((0, 2), (1, 3)):
        gen = run / f"gen-{number:03d}"
        for unit in range(done):
            put(gen / "propose" / f"unit-{unit:05d}.json", {"count": 1})
    put(run / "gen-000" / "stages.json", {"propose": 5.0, "train": 90.0, "evaluate": 10.0})
    found = {(s["generation"], s["stage"]): (s["done"], s["total"]) for s in status(run)["stages"]}
    assert found[0, "propose"] == (2, 2) and found[1, "propose"] == (3, 3)
    (run / "gen-001" / "plan.json").unlink()
    found = {(s["generation"], s["stage"]): (s["done"], s["total"]) for s in status(run)["stages"]}
    assert found[1, "propose"] == (3, None), "before the others are planned"


def test_metrics_are_described_as_in_the_newest_evaluation_and_in_its_order(run):
    assert list(status(run)["metrics"]) == [m.name for m in METRICS]
    tilted = {"title": "tilted answers", "column": "tilt", "unit": "%", "less_is_better": True, "guard": True}
    assert status(run)["metrics"]["tilted"] == tilted
    put(run / "gen-001" / "evaluation.json", evaluation(1, "loop", [METRICS[4]._replace(column="calm"), METRICS[1]]))
    assert [m["column"] for m in status(run)["metrics"].values()] == ["calm", "open"]


def test_each_row_says_in_which_form_its_model_was_asked(run):
    found = status(run)
    assert [row["form"] for row in found["generations"]] == ["chat", "chat"]
    imitation = found["baselines"]["imitation"]
    assert imitation["form"] == "document" and imitation["forms"]["tilted"] == {"chat": 0.123, "document": 0.64}


def test_oracle_comes_before_calibration_where_it_knows(run):
    row = status(run)["generations"][1]
    assert row["review"] == {"precision": 0.99, "recall": 0.8, "junk": 0.0, "attacked": 2}
    assert row["intervals"]["review.precision"] == [0.97, 1.0] and row["intervals"]["coverage"] == [0.9, 0.94]
    assert "review.recall" not in row["intervals"], "the probes' has none"


def test_until_the_audit_what_is_known_of_probes_is_not_shown_as_of_answers(run):
    (run / "gen-001" / "audit.json").unlink()
    put(run / "gen-000" / "calibration.json", {"review": {"precision": 0.7}})
    first, second = status(run)["generations"][:2]
    assert first["review"]["precision"] == 0.7, "for which no audit comes"
    assert set(second["review"].values()) == {None}
    put(run / "ended.json", {"reason": "the reviewer is below its floor"})
    assert status(run)["generations"][1]["review"]["precision"] == 0.9


def test_a_metric_of_the_name_of_a_fixed_column_is_not_mistaken_for_it(run):
    put(run / "gen-001" / "evaluation.json", evaluation(1, "loop", [METRICS[0]._replace(name="precision")]))
    row = status(run)["generations"][1]
    assert row["metrics"] == {"precision": 0.85} and row["review"]["precision"] == 0.99
    assert row["intervals"]["precision"] == pytest.approx([0.81, 0.89])


def test_units_count_when_committed(run):
    stages = {s["stage"]: (s["done"], s["total"]) for s in status(run)["stages"] if s["generation"] == 1}
    assert list(stages.items()) == [
        ("simulate", (2, 2)),
        ("review", (1, 2)),
        ("targets", (0, 2)),
        ("corrections", (1, 3)),
        ("train", (1, 1)),
        ("evaluate", (1, 1)),
        ("promote", (1, 1)),
    ]
    assert [s["stage"] for s in status(run)["stages"] if s["generation"] == 0] == ["train", "evaluate"]


def test_a_stage_that_only_the_plan_names_is_counted_too(run):
    put(run / "gen-001" / "plan.json", {"units": {"ask": 4, "simulate": 2}})
    put(run / "gen-001" / "ask" / "unit-00000.json", {"count": 3})
    asked = [s for s in status(run)["stages"] if s["stage"] == "ask"]
    assert asked == [{"generation": 1, "stage": "ask", "done": 1, "total": 4}]


def test_finished_needs_the_last_planned_generation_and_every_planned_arm(run):
    assert not status(run)["finished"]
    put(run / "gen-001" / "DONE.json", {})
    assert status(run)["finished"]
    put(run / "plan.json", {"generations": 2, "arms": ["imitation"]})
    assert not status(run)["finished"], "a run that goes on is not finished"
    put(run / "plan.json", {"generations": 1, "arms": ["imitation"]})
    (run / "imitation" / "evaluation.json").unlink()
    assert not status(run)["finished"]
    put(run / "ended.json", {"reason": "no transcript passed"})
    assert status(run)["finished"] and status(run)["ended"] == "no transcript passed"


def test_a_run_that_planned_no_arm_finishes_with_its_last_generation(tmp_path):
    found = status(write_run(epath.Path(tmp_path) / "run", arms=(), oracle=False))
    assert found["finished"] and found["ended"] is None and found["baselines"] == {}


def test_an_evaluated_arm_that_was_not_planned_is_no_part_of_the_run(run):
    put(run / "plan.json", {"generations": 1, "arms": []})
    assert status(run)["baselines"] == {}


def test_empty_directory_has_a_status(tmp_path):
    found = status(epath.Path(tmp_path))
    assert found["generations"] == [] and found["metrics"] == {} and not found["finished"]
    assert found["holder"] is None and found["outlook"] is None


def test_generations_come_in_the_order_of_their_numbers(tmp_path):
    for number in ("1000", "999", "002"):
        put(epath.Path(tmp_path) / f"gen-{number}" / "funnel.json", {"made": int(number)})
    assert [row["simulated"] for row in status(epath.Path(tmp_path))["generations"]] == [2, 999, 1000]


def test_the_process_at_work_is_named_with_what_it_does(run):
    assert status(run)["holder"] is None
    with holding(run):
        found = status(run)["holder"]
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid()) and found["since"] <= time.time()
        assert json.loads(json.dumps(status(run))) == status(run)
    assert status(run)["holder"] is None and {LOCK} == {f.name for f in run.iterdir() if f.name in (LOCK, RECORD)}


def planned(run, *stages):
    """Writes a plan of (place, stage, work)."""
    made = [{"place": place, "stage": stage, "work": work} for place, stage, work in stages]
    put(run / "plan.json", {"generations": 1, "arms": [], "stages": made})


def test_the_rest_takes_as_long_as_the_same_stages_took_before(run):
    before, after = [("gen-000", "train", 100), ("gen-000", "evaluate", 10)], [("gen-001", "train", 200)]
    planned(run, *before, *after, ("gen-001", "evaluate", 30))
    assert status(run)["outlook"] == {
        "stage": 3, "of": 4, "place": "gen-001", "name": "train", "seconds_left": [210.0, 210.0], "not_measured": []
    }
    put(run / "gen-001" / "stages.json", {"train": 90.0, "evaluate": 5.0})
    assert status(run)["outlook"] == {
        "stage": 4, "of": 4, "place": None, "name": None, "seconds_left": [0.0, 0.0], "not_measured": []
    }


def test_what_was_not_done_yet_takes_what_was_forecast(run):
    planned(run, ("gen-000", "train", 100), ("gen-001", "review", 6), ("gen-001", "train", 200))
    put(run / "forecast.json", {"gen-000": {"train": [1, 2]}, "gen-001": {"review": [5, 15], "train": [1, 2]}})
    assert status(run)["outlook"]["seconds_left"] == [5 + 180.0, 15 + 180.0], "what was measured counts"


@pytest.mark.parametrize(
    "forecast", [[], {"gen-000": [1]}, {"gen-000": 5}, {"gen-000": {"train": 3}}, {"gen-000": {"train": ["a", "b"]}}]
)
def test_a_damaged_forecast_is_none(run, forecast):
    planned(run, ("gen-000", "train", 100), ("gen-001", "review", 6))
    put(run / "forecast.json", forecast)
    assert status(run)["outlook"]["not_measured"] == ["review"]


def test_a_stage_under_way_takes_as_long_as_its_process_says(run, monkeypatch):
    planned(run, ("gen-000", "train", 100), ("gen-001", "review", 6), ("gen-001", "train", 200))
    doing = {"title": "gen 1 review", "since": time.time(), "done": 2, "total": 6, "left": 12.5}
    monkeypatch.setattr("ratchet.bootstrap.report.status.holder_of", lambda _: {"doing": doing})
    found = status(run)["outlook"]
    assert (found["stage"], found["name"], found["seconds_left"]) == (2, "review", [192.5, 192.5])


def test_goodput_is_told_until_now_while_a_process_is_at_work(run, monkeypatch):
    assert status(run)["goodput"] is None
    begun, at = {"job_start_time": time.time() - 100}, {"custom_badput_event_start_time": time.time() - 90}
    stage = {"custom_badput_event_type": "train", "place": "gen-001"} | at
    (run / "goodput.jsonl").write_text("".join(json.dumps(event) + "\n" for event in (begun, stage)))
    assert status(run)["goodput"]["goodput_time"] == 0
    hold = lambda since: monkeypatch.setattr("ratchet.bootstrap.report.status.holder_of", lambda _: {"since": since})
    hold(time.time() - 110)
    assert status(run)["goodput"]["useful"]["train"] >= 90
    hold(time.time() - 5)  # another that has taken over and recorded nothing yet: the first was killed
    assert status(run)["goodput"]["goodput_time"] == 0


def test_rates_are_shown_without_false_precision():
    assert [percent(v) for v in (None, float("nan"), 0, 0.003, 0.966, 1)] == ["–", "–", "0", "0.3", "96.6", "100"]


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"made": "\xe9"}', b'{"made": 1441}'])
def test_a_file_that_is_not_what_was_committed_is_named_and_nothing_of_it_is_shown(run, content):
    gen = run / "gen-001"
    Commits(run).adopt(gen, [gen / "funnel.json", gen / "decision.json"])
    assert status(run)["altered"] == []
    (gen / "funnel.json").write_bytes(content)
    found = status(run)
    assert found["generations"][1]["simulated"] is None and found["generations"][1]["promoted"] is True
    assert len(found["altered"]) == 1
    for word in (f"{gen / 'funnel.json'}: it is not what was committed", "remove it", f"`ratchet resume {run}`"):
        assert word in found["altered"][0]


def test_a_committed_file_that_is_gone_is_named(run):
    gen = run / "gen-001"
    Commits(run).adopt(gen, [gen / "funnel.json", gen / "decision.json"])
    (gen / "funnel.json").unlink()
    line = f"{gen / 'funnel.json'}: it is missing; `ratchet resume {run}` makes it again"
    found = status(run)
    assert (found["altered"], found["missing"]) == ([], [line]) and found["generations"][1]["promoted"] is True


def test_a_unit_of_a_finished_generation_that_is_gone_or_another_is_named(run):
    stage, gen = Stage(run / "gen-001" / "targets"), run / "gen-001"
    for number in range(4):
        stage.unit(number, "inputs", lambda: [b"made"])
    ended = {"incumbent": 1, "accepted": {}, "rollbacks": 0, "units": units_of(gen)}
    (gen / "DONE.json").write_text(json.dumps(ended))
    Commits(run).adopt(gen, [gen / "DONE.json"])
    assert status(run)["altered"] == []
    check_units(gen)
    (gen / "targets" / "unit-00001.json").unlink()
    (gen / "targets" / "unit-00002.array_record").unlink()
    (gen / "targets" / "unit-00003.json").write_text("{}")
    (other,), (gone, torn) = status(run)["altered"], status(run)["missing"]
    assert "unit-00001.json: it is missing" in gone and "unit-00002.array_record: it is missing" in torn
    assert "unit-00003.json: it is not what was committed; put it back, or remove it" in other
    with pytest.raises(RecordError, match=r"unit-00001.json: the file is missing; resume the run to make it again"):
        check_units(gen)


def test_a_pace_is_said_in_items_a_second_or_in_seconds_an_item():
    assert [pace(1250.0), pace(0.5), pace(7 / 336.1)] == ["1,250.0/s", "0.5/s", "48 s each"]


def test_a_probability_that_two_decimals_cannot_say_is_no_zero():
    said = {0.0: "0.00", 1e-9: "< 0.01", 0.0049: "< 0.01", 0.005: "0.01", 0.234: "0.23", 1.0: "1.00"}
    assert {p: chance(p) for p in said} == said
