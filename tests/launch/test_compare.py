"""Arms of one generation's data: what may vary, what they share, and the table."""

import json
import shutil
from pathlib import Path

import pytest
from etils import epath
from rich.console import Console
from support import start, tiny_config

from ratchet.bootstrap.config import ConfigError, with_settings
from ratchet.bootstrap.progress import Silent
from ratchet.launch import cli, compare
from ratchet.launch.compare import arms_of, check_distributions
from ratchet.train.commits import Commits
from ratchet.train.files import read_unit
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.trainer import TrainingDiverged


def test_every_combination_of_values_is_an_arm():
    arms = arms_of([["targets.kind", "one_hot", "reviewed"], ["train.steps", "4", "8"]], tiny_config())
    assert [a.changes for a in arms] == [
        {"targets.kind": kind, "train.steps": steps} for kind in ("one_hot", "reviewed") for steps in (4, 8)
    ]
    assert len({a.name for a in arms}) == 4


def test_an_arm_does_not_take_over_what_another_training_made_of_wrong_thoughts(tmp_path):
    commits, path = Commits(epath.Path(tmp_path)), epath.Path(tmp_path) / "wrongthink.json"
    compare._forget_training(commits, path)
    assert not path.exists()
    commits.write(path, {"chosen": 1, "likelihood": {"before": -1.0, "after": -2.0}})
    compare._forget_training(commits, path)
    assert commits.read(path) == {"chosen": 1}


def test_arms_of_adapters_are_held_to_what_a_run_is():
    config = tiny_config(base="smollm2", train__lora=4, train__optimizer=OptimizerConfig("adamw"))
    with pytest.raises(ValueError, match="train.optimizer.kind is muon, which is for whole matrices"):
        arms_of([["train.optimizer.kind", "adamw", "muon"]], config)
    with pytest.raises(ValueError, match="train.optimizer.average is not 0"):
        arms_of([["train.optimizer.average", "0", "0.2"]], config)


def test_values_of_a_tuple_are_joined_by_a_plus_and_none_is_empty():
    arms = arms_of([["wrongthink.sources", "inverted+spoiled", "spoiled", "none"]], tiny_config())
    assert [a.changes["wrongthink.sources"] for a in arms] == [["inverted", "spoiled"], ["spoiled"], []]
    (arm,) = arms_of([["wrongthink.lambdas", "0.3+0.5"]], tiny_config())
    assert arm.changes == {"wrongthink.lambdas": [0.3, 0.5]}


@pytest.mark.parametrize(
    ("varied", "said"),
    [
        (["targets.kin", "one_hot"], "unknown setting targets.kin; nearest is targets.kind"),
        (["targets.kind"], "targets.kind has no values"),
        (["simulate.samples", "1", "2"], "simulate.samples changes what arms share"),
        (["controls.random_share", "0.1"], "controls.random_share changes what arms share"),
        (["controls.imitation", "true"], "controls.imitation changes what arms share"),
        (["train.seed_steps", "1", "2"], "train.seed_steps changes what arms share"),
        (["train.seed_mixture.prose", "1", "2"], "train.seed_mixture.prose changes what arms share"),
        (["wrongthink.interruption", "no", "stop"], "wrongthink.interruption changes what arms share"),
        (["train.renamed", "0", "4"], "train.renamed changes what arms share"),
        (["train.columns", "96", "128"], "train.columns changes what arms share"),
        (["train.steps", "many"], "train.steps is 'many'; it must be like 8"),
        (["train.steps", "8", "1.5"], "train.steps is 1.5; it must be of type int"),
        (["targets.kind", "reviewed", "soft"], "targets.kind is 'soft'; it must be one of one_hot"),
    ],
)
def test_what_cannot_be_compared_is_one_line(varied, said):
    with pytest.raises(ConfigError, match=said):
        arms_of([varied], tiny_config())


@pytest.mark.parametrize("section", ["teacher", "rollouts"])
def test_what_servers_wrote_without_distributions_makes_no_soft_targets(section):
    url = "http://127.0.0.1:9/v1"
    servers = {"teacher": {"teacher.url": url}, "rollouts": {"rollouts.url": [url], "base": "m", "simulate.calls": 0}}
    config = with_settings(tiny_config(), {"targets.kind": "one_hot"} | servers[section])
    kinds, others = (arms_of([of], config) for of in (["targets.kind", "one_hot"], ["train.steps", "4"]))
    with pytest.raises(ConfigError, match="compare: servers wrote generation 1 for one_hot targets, without distr"):
        check_distributions(config, 1, kinds)
    check_distributions(config, 1, others)
    check_distributions(with_settings(config, {"targets.kind": "teacher"}), 1, kinds)
    if section == "teacher":
        check_distributions(config, config.teacher.generations + 1, kinds)


@pytest.fixture(scope="module")
def compared(tiny_run, tmp_path_factory):
    arms = arms_of([["targets.kind", "one_hot", "reviewed"]], tiny_config())
    out = epath.Path(tmp_path_factory.mktemp("compared"))
    return arms, out, compare.compare(epath.Path(tiny_run), 1, arms, out, Silent())


def test_arms_share_what_comes_before_the_varied_setting(compared, tiny_run):
    _, out, _ = compared
    units = [epath.Path(tiny_run) / "gen-001" / "review" / "unit-00000.array_record"]
    places = sorted(out.iterdir())
    units += [p / "gen-001" / "review" / "unit-00000.array_record" for p in places]
    assert len(places) == 2 and len({tuple(read_unit(u)) for u in units}) == 1
    steps = [json.loads((p / "gen-001" / "training.json").read_text())["steps"] for p in places]
    assert steps == [tiny_config().train.steps] * 2


def test_the_arm_that_changes_nothing_gives_the_runs_own_figures(compared, tiny_run):
    arms, _, found = compared
    own = json.loads((epath.Path(tiny_run) / "gen-001" / "evaluation.json").read_text())["metrics"]
    unchanged = next(f for a, f in zip(arms, found, strict=True) if a.changes == {"targets.kind": "reviewed"})
    assert unchanged == own


def test_an_arm_that_is_there_is_not_made_again_and_the_table_shows_them(compared, tiny_run):
    arms, out, found = compared
    before = {f: f.stat().mtime for f in out.glob("*/gen-001/*.json")}
    assert compare.compare(epath.Path(tiny_run), 1, arms, out, Silent()) == found
    assert before and {f: f.stat().mtime for f in out.glob("*/gen-001/*.json")} == before
    console = Console(width=200, record=True)
    rows = [compare.Arm(a.name, a.changes, (f,)) for a, f in zip(arms, found, strict=True)]
    console.print(compare.table(rows))
    text = console.export_text()
    assert "kind one_hot" in text and "kind reviewed" in text and "open" in text
    narrow = Console(width=60, record=True)
    narrow.print(compare.table(rows))
    found = narrow.export_text()
    assert "…" not in found and set(found.split()) >= {word for word in text.split() if "─" not in word}


def test_arms_of_another_run_are_never_taken_for_its_own(compared, tmp_path):
    """Their figures would stand in the table twice."""
    arms, out, _ = compared
    other = start(tmp_path / "tiny", tiny_config(seed=1))
    with pytest.raises(ConfigError, match=r"kind_one_hot is an arm of another run \(seed: 0 → 1\); give another --out"):
        compare.compare(other, 1, arms, out, Silent())


@pytest.mark.parametrize("changed", ["inputs.json", "gen-000"])
def test_nor_are_those_of_a_run_with_the_same_settings_and_other_material(compared, tiny_run, tmp_path, changed):
    arms, out, _ = compared
    other = epath.Path(shutil.copytree(tiny_run, tmp_path / "tiny"))
    commits = Commits(other)
    if changed == "inputs.json":
        commits.write(other / changed, commits.read(other / changed) | {"slice 1": "edited"})
    else:
        commits.write(other / "gen-000" / "evaluation.json", {"metrics": {}})
    with pytest.raises(ConfigError, match=rf"is an arm of another run \(its {changed}\); give another --out"):
        compare.compare(other, 1, arms, out, Silent())


def test_an_arm_that_ends_is_a_row_without_figures_and_the_others_are_trained(tiny_run, tmp_path, monkeypatch):
    arms, real, lines = arms_of([["train.optimizer.rate", "0.02", "0.03"]], tiny_config()), compare.loop.run, []

    def run(place, config, progress):
        if config.train.optimizer.rate == 0.02:
            raise TrainingDiverged("the loss is nan")
        return real(place, config, progress)

    monkeypatch.setattr(compare.loop, "run", run)
    shown = Silent()
    monkeypatch.setattr(shown, "line", lines.append)
    found = compare.compare(epath.Path(tiny_run), 1, arms, epath.Path(tmp_path), shown)
    assert found[0] == {} and found[1] and "rate 0.02: the loss is nan" in lines
    console = Console(width=200, record=True)
    console.print(compare.table([compare.Arm(a.name, a.changes, (f,)) for a, f in zip(arms, found, strict=True)]))
    ended = next(line for line in console.export_text().splitlines() if "rate 0.02" in line)
    assert "–" in ended and not any(c.isdigit() for c in ended.partition("0.02")[2])


def test_a_generation_that_is_not_finished_is_refused_and_one_that_a_run_ended_with_is_not(
    tiny_run, tmp_path, monkeypatch, capsys
):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "gen-002" / "decision.json").unlink()
    varied, out = ["--vary", "targets.kind", "one_hot"], tmp_path / "o"
    words = ["compare", str(run), "--generation", "2", *varied, "--out", str(out)]
    assert cli.main(words) == 2
    said = f"ratchet: compare: {run} has not finished generation 2; see `ratchet status {run}`\n"
    assert capsys.readouterr().err == said and not out.exists()
    asked = []
    monkeypatch.setattr(compare, "compare", lambda directory, *_: asked.append(directory) or [{}])
    Commits(epath.Path(run)).write(epath.Path(run) / "ended.json", {"reason": "the loss is no number"})
    assert cli.main(words) == 0 and asked == [epath.Path(run)]


def test_truth_is_said_as_in_json_or_in_python():
    (yes, no) = arms_of([["train.engine.deterministic", "True", "false"]], tiny_config())
    assert (*yes.changes.values(), *no.changes.values()) == (True, False)
    with pytest.raises(ConfigError, match="deterministic is 'yes'; it must be like false"):
        arms_of([["train.engine.deterministic", "yes"]], tiny_config())


def test_runs_that_are_called_alike_are_told_apart_by_their_paths():
    places = [epath.Path(name) for name in ("runs/a/lessons", "/runs/b/lessons", "gs://c/lessons", "runs/tiny")]
    assert compare.names_of(places) == ["runs-a-lessons", "runs-b-lessons", "gs-c-lessons", "tiny"]
