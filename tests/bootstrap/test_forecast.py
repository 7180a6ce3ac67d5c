"""How long a run takes, before anything of it is done."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from etils import epath
from support import little_config, tiny_config

from ratchet.bootstrap import forecast as forecasting
from ratchet.bootstrap import loop
from ratchet.bootstrap.forecast import Bounds, forecast
from ratchet.bootstrap.loop import RunEnded, planned
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.report.outlook import outlook
from ratchet.bootstrap.stages.calibrate import JUNKED
from ratchet.bootstrap.worlds.world import Material
from ratchet.models.sampler import Pace, Sampler
from ratchet.train.files import write_json


@pytest.fixture
def foretold(little_run, monkeypatch):
    """The seconds that are forecast for every stage, on a machine of some pace."""

    def foretold(pace: Pace, run=little_run) -> dict[tuple[str, str], Bounds]:
        monkeypatch.setattr(Sampler, "pace", lambda *_: pace)
        found = forecast(run, None, planned(run, ["imitation"]))
        return {(place, name): bounds for place, of in found.items() for name, bounds in of.items()}

    return foretold


def test_every_stage_of_the_plan_has_bounds(little_run, foretold):
    found = foretold(Pace(2.0, 1e-4, 1e-2))
    assert [*found] == [(s["place"], s["stage"]) for s in planned(little_run, ["imitation"])]
    assert all(0 <= low < high for low, high in found.values())
    assert found["gen-000", "train"].low > found["gen-001", "train"].low, "some compiled before"


def test_a_machine_of_half_the_pace_takes_twice_as_long(foretold):
    once, twice = foretold(Pace(2.0, 1e-4, 1e-2)), foretold(Pace(4.0, 2e-4, 2e-2))
    assert all(twice[name] == pytest.approx(bounds.times(2, 2)) for name, bounds in once.items())


@pytest.mark.parametrize(("said", "times"), [((False,), 1), ((True, False), 2), ((True, True), 3)])
def test_processes_time_the_machine_as_often_as_the_first_of_them(little_run, monkeypatch, said, times):
    """Each has a clock of its own, and a program that one of several runs alone waits for the others for ever."""
    told, timed = iter(said), []
    def decided(what, decide):
        assert decide() is True, "by this one's own clock"
        return next(told)

    together = SimpleNamespace(decided=decided)
    monkeypatch.setattr(forecasting, "ENOUGH", math.inf)
    monkeypatch.setattr(Sampler, "pace", lambda *_: timed.append(1) or Pace(2.0, 1e-4, 1e-2))
    forecast(replace(little_run, together=together), None, planned(little_run, ["imitation"]))
    assert len(timed) == times and not [*told]


def test_more_steps_take_longer_and_other_stages_do_not(little_run, foretold):
    config = replace(little_run.config, train=replace(little_run.config.train, steps=80))
    few, many = (foretold(Pace(0.0, 1e-4, 1e-2), run) for run in (little_run, replace(little_run, config=config)))
    longer = {name for name in few if many[name] != few[name]}
    assert longer == {name for name in few if name[1] == "train" and name[0] != "gen-000"}
    assert many["gen-001", "train"] == pytest.approx(few["gen-001", "train"].times(10, 10))


def test_what_a_run_does_not_do_takes_no_time(little_run, foretold):
    """Without wrong-thinkers there are no wrong starts to evaluate, and without an oracle no attacks to count."""
    config, world = little_run.config, replace(little_run.world, oracle=None)
    calm = replace(config, wrongthink=replace(config.wrongthink, first_generation=0))
    runs = (little_run, replace(little_run, config=calm), replace(little_run, world=world))
    whole, without_thinkers, without_oracle = (foretold(Pace(0.0, 1e-4, 1e-2), run) for run in runs)
    assert without_thinkers["gen-001", "evaluate"].high < whole["gen-001", "evaluate"].high
    assert without_oracle["gen-001", "review"].high < whole["gen-001", "review"].high


@pytest.mark.parametrize(
    ("asked", "stages"),
    [
        ({"teacher": {"generations": 1}}, {("gen-001", "simulate")}),
        ({"judge": {}}, {"calibrate", "review", "targets", "wrongthink", "corrections", "evaluate"}),
        ({"rollouts": {}}, {"simulate", "calibrate", "targets", "wrongthink", "corrections"}),
        ({"rollouts": {}, "targets": {"kind": "one_hot"}}, {"simulate", "calibrate", "wrongthink"}),
    ],
)
def test_what_servers_take_part_in_is_left_out(little_run, foretold, asked, stages):
    config, pace = little_run.config, Pace(2.0, 1e-4, 1e-2)
    for section, settings in asked.items():
        parts = vars(getattr(config, section)) | settings
        if section != "targets":
            parts |= {"url": "http://127.0.0.1:9/v1"}
        config = SimpleNamespace(**vars(config) | {section: SimpleNamespace(**parts)})
    whole, left = foretold(pace), foretold(pace, replace(little_run, config=config))
    gone = {one for one in whole if one not in left}
    assert gone == {one for one in whole if one in stages or one[1] in stages} != set()


def test_a_run_calibrates_its_judge_and_each_review_in_stages_of_their_own(turn, monkeypatch):
    """What an evaluation takes says nothing of a calibration, and the other way round."""
    run, now = turn().run, [0.0]
    run = replace(run, world=replace(run.world, oracle=None))
    pass_for = lambda seconds: lambda *_: now.__setitem__(0, now[0] + seconds) or {}
    monkeypatch.setattr("ratchet.bootstrap.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr(loop, "calibration_of_seed", pass_for(300.0))
    monkeypatch.setattr(loop, "evaluation", pass_for(20.0))
    run.keep_weights(run.generation(0), run.fresh_weights())
    loop.begin(run, loop.Seed(run))
    stages = planned(run, [])
    work = lambda of: [s["work"] for s in stages if s["stage"] == of]
    write_json(run.directory / "plan.json", {"stages": stages})
    assert json.loads((run.generation(0) / "stages.json").read_text()) == {"calibrate": 300.0, "evaluate": 20.0}
    assert work("calibrate") == [len(run.probes)] * 2, "the judge's serve the first generation"
    ahead = outlook(run.directory).left()
    assert ahead.low == 300.0 + 20.0 * sum(work("evaluate")[1:]) / work("evaluate")[0]


def test_a_review_is_calibrated_in_the_plan_where_it_is_in_the_run(little_run):
    probed = lambda **members: [
        (s["place"], s["work"])
        for s in planned(replace(little_run, world=replace(little_run.world, **members)), [])
        if s["stage"] == "calibrate"
    ]
    count, own = len(little_run.probes), Material((), little_run.world.seed.tasks)
    assert probed() == [("gen-001", count), ("gen-002", count)], "an oracle judges"
    assert probed(oracle=None, probes=own) == [("gen-000", count), ("gen-002", count)], "the judge's serve the first"
    taught = replace(little_run, config=little_config(teacher__url="http://127.0.0.1:9/v1"),
                     world=replace(little_run.world, oracle=None, probes=own))  # fmt: skip
    assert [s["place"] for s in planned(taught, []) if s["stage"] == "calibrate"] == ["gen-000", "gen-001", "gen-002"]
    more = little_config(review__practice=1)
    work = [s["work"] for s in planned(replace(little_run, config=more), []) if s["stage"] == "calibrate"]
    assert work == [count + 1] * 2, "what is practised on is answered anew in each"
    assert probed(oracle=None, known=None) == [("gen-001", JUNKED), ("gen-002", JUNKED)]


def test_what_is_not_foretold_is_named(monkeypatch):
    said = []
    monkeypatch.setattr(forecasting, "forecast", lambda *_: {"gen-001": {}})
    monkeypatch.setattr(forecasting, "by_servers", lambda run, place, stage: stage in ("simulate", "targets"))
    settings = {"config": SimpleNamespace(base=""), "fresh_weights": lambda: None, "decided": lambda *_: None}
    run = SimpleNamespace(progress=SimpleNamespace(line=said.append), **settings)
    stages = [{"place": "gen-001", "stage": name} for name in ("simulate", "review", "targets", "simulate")]
    forecasting.write_forecast(run, stages)
    assert said[1:] == ["not foretold, since servers take part whose pace is not known here: simulate, targets"]


def test_a_world_without_tasks_has_no_forecast(little_run, foretold):
    bare = replace(little_run.world, slices=tuple(part._replace(tasks=()) for part in little_run.world.slices))
    assert foretold(Pace(1.0, 1.0, 1.0), replace(little_run, world=bare)) == {}


def test_a_run_times_the_machine_before_it_begins_and_says_how_long_it_takes(tmp_path, monkeypatch):
    directory, said = epath.Path(tmp_path) / "run", []

    def end(*_):
        raise RunEnded("that was all")

    monkeypatch.setattr(loop, "begin", end)
    monkeypatch.setattr(Silent, "line", lambda self, text: said.append(text))
    for _ in range(2):  # what was foretold stays
        with pytest.raises(RunEnded):
            loop.run(directory, tiny_config(), Silent(), foretell=True)
    assert said == ["timing this machine, to say how long the run takes"]
    ahead = outlook(directory)
    stages = json.loads((directory / "plan.json").read_text())["stages"]
    assert len(ahead.stages) == len(stages) and all(s.expected for s in ahead.stages)
    assert 0 < ahead.left().low < ahead.left().high and " to " in ahead.announced()
