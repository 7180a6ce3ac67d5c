"""Where a run stands, read from directories in every state of completion."""

import io
import json

import pytest
from etils import epath
from rich.console import Console

from ratchet.bootstrap.status import METRICS, RunFileError, percent, status, table


def put(path: epath.Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def evaluation(value: float, form: str = "chat") -> dict:
    metrics = {name: {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 100} for name in METRICS}
    for name in ("harmful", "knowledge"):
        metrics[name] |= {"form": form, "forms": {"chat": 0.25, "story": 0.0} | {form: value}}
    return {"metrics": metrics}


@pytest.fixture
def run(tmp_path) -> epath.Path:
    """A run of one generation, complete but for its DONE.json."""
    run = epath.Path(tmp_path) / "run"
    put(run / "config.json", {"recipe": "lessons", "generations": 1, "imitation": True})
    put(run / "gen-000" / "evaluation.json", evaluation(0.4))
    put(run / "gen-000" / "stages.json", {"train": 90.0, "evaluate": 10.0})
    gen = run / "gen-001"
    put(gen / "plan.json", {"units": {"simulate": 2, "review": 2, "targets": 2, "wrongthink": 0}})
    for stage, done in (("simulate", 2), ("review", 1)):
        for unit in range(done):
            put(gen / stage / f"unit-{unit:05d}.json", {"count": 10})
    (gen / "review" / "unit-00001.array_record").write_text("torn")
    put(gen / "funnel.json", {"made": 1440, "passed": 700, "coverage": {"value": 0.92, "low": 0.9, "high": 0.94}})
    put(gen / "calibration.json", {"review": {"precision": 0.9, "recall": 0.8, "junk": 0.0}})
    put(
        gen / "audit.json",
        {
            "raw_tokens": 0,
            "rejected_tokens": 0,
            "unreviewed_mass": 0.0,
            "oracle": {"precision": {"value": 0.99, "low": 0.97, "high": 1.0}, "recall": None},
        },
    )
    put(gen / "evaluation.json", evaluation(0.7))
    put(gen / "decision.json", {"promoted": True})
    put(run / "imitation" / "evaluation.json", evaluation(0.6, "story"))
    return run


def test_rows_hold_plain_numbers(run):
    found = status(run)
    row = found["generations"][1]
    assert (row["generation"], row["promoted"], row["simulated"], row["accepted"]) == (1, True, 1440, 700)
    assert row["coverage"] == 0.92 and row["pass_rate"] == 0.7 and row["unreviewed_mass"] == 0.0
    assert row["intervals"]["harmful"] == pytest.approx([0.6, 0.8])
    assert row["audit"] == {"raw_tokens": 0, "rejected_tokens": 0}
    assert found["baselines"]["imitation"]["harmful"] == 0.6
    assert json.loads(json.dumps(found)) == found


def test_each_row_says_in_which_form_its_model_was_asked(run):
    found = status(run)
    assert [row["form"] for row in found["generations"]] == ["chat", "chat"]
    imitation = found["baselines"]["imitation"]
    assert imitation["form"] == "story" and imitation["forms"]["harmful"] == {"chat": 0.25, "story": 0.6}
    line = "imitation is asked in story form; in a chat: harmful 25, knowledge 25"
    assert table(found).caption.splitlines()[1:] == [line]
    (run / "imitation" / "evaluation.json").unlink()
    assert len(table(status(run)).caption.splitlines()) == 1


def test_oracle_comes_before_calibration_where_it_knows(run):
    row = status(run)["generations"][1]
    assert row["review"] == {"precision": 0.99, "recall": 0.8, "junk": 0.0}
    assert row["intervals"]["precision"] == [0.97, 1.0] and row["intervals"]["coverage"] == [0.9, 0.94]
    assert "recall" not in row["intervals"], "the probes' has none"


def test_units_count_when_committed(run):
    stages = {s["stage"]: (s["done"], s["total"]) for s in status(run)["stages"] if s["generation"] == 1}
    assert stages == {
        "simulate": (2, 2),
        "review": (1, 2),
        "targets": (0, 2),
        "train": (1, 1),
        "evaluate": (1, 1),
        "promote": (1, 1),
    }
    assert [s["stage"] for s in status(run)["stages"] if s["generation"] == 0] == ["train", "evaluate"]


def test_finished_needs_the_last_generation_and_the_imitation_arm(run):
    assert not status(run)["finished"]
    put(run / "gen-001" / "DONE.json", {})
    assert status(run)["finished"]
    (run / "imitation" / "evaluation.json").unlink()
    assert not status(run)["finished"]
    put(run / "ended.json", {"reason": "no transcript passed"})
    assert status(run)["finished"] and status(run)["ended"] == "no transcript passed"


def test_empty_directory_has_a_status(tmp_path):
    found = status(epath.Path(tmp_path))
    assert found["generations"] == [] and not found["finished"]
    assert table(found).row_count == 0


def test_table_fits_and_shows_absent_figures(run):
    put(run / "gen-002" / "plan.json", {"units": {"simulate": 2}})
    console = Console(width=120, file=io.StringIO())
    console.print(table(status(run)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 120 and not any("…" in line for line in lines)
    assert "1,440" in lines[4] and "yes" in lines[4] and "99" in lines[4]
    assert lines[5].count("–") == 15
    assert lines[6].split()[0] == "imitation"


def test_rates_are_shown_without_false_precision():
    assert [percent(v) for v in (None, float("nan"), 0, 0.003, 0.966, 1)] == ["–", "–", "0", "0.3", "96.6", "100"]


def test_broken_file_is_named(run):
    (run / "gen-001" / "funnel.json").write_text("{")
    with pytest.raises(RunFileError, match="funnel.json"):
        status(run)
