"""Every kind of file of a run, damaged: each command names it in one line, or makes it again, or does without it."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from etils import epath
from runs import different

from ratchet.launch import cli
from ratchet.train.commits import FILE, Commits
from ratchet.train.files import read_unit

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:coroutine.*never awaited:RuntimeWarning")]


def at(content: bytes, byte) -> bytes:
    """The content with another byte in its middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([byte(*(content[middle : middle + 1] or b"1"))]) + content[middle + 1 :]


DAMAGES = {
    "a flipped bit": lambda content: at(content, lambda byte: byte ^ 1),
    "a high byte": lambda content: at(content, lambda byte: 0xE9),
    "cut short": lambda content: content[: len(content) // 2],
    "nothing in it": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "a list": lambda content: b"[]",
    "a list where an object belongs": lambda content: re.sub(rb"\{[^{}]*\}", b"[1]", content, count=1) + b" ",
}
COMMITTED = (
    "config.json", "inputs.json", "plan.json", "tokenizer/model.spm", "gen-#/plan.json", "gen-#/calibration.json",
    "gen-#/practice.json", "gen-#/samples.json", "gen-#/wrongthink.json", "gen-#/funnel.json", "gen-#/audit.json",
    "gen-#/training.json", "gen-#/evaluation.json", "gen-#/decision.json", "gen-#/DONE.json",
    "gen-#/dataset/1.0.0/record.json",
    "gen-#/dataset/1.0.0/dataset_info.json", "gen-#/dataset/1.0.0/features.json", "imitation/evaluation.json",
)  # fmt: skip
"""Files whose hashes are committed."""
RECORDS = tuple(f"gen-#/{stage}/unit-#" for stage in ("simulate", "review", "targets", "wrongthink", "corrections"))
"""Units: a file of records and its commit."""
SHARD = "gen-#/dataset/1.0.0/dataset-train.array_record-#-of-#"
HOW_IT_WENT = (
    "config.yaml", "stages.json", "goodput.jsonl", "metrics.jsonl", "index.html", "lock", "working.json",
    "forecast.json", "documents.json",
)  # fmt: skip
"""Files from which nothing follows, and those of TensorBoard."""


def kind(path: Path) -> str:
    name = path.as_posix().replace("1.0.0", "version")
    return re.sub(r"\d+", "#", name).replace("version", "1.0.0")


@pytest.fixture(scope="module")
def whole(tiny_run):
    """A finished run."""
    return Path(tiny_run)


@pytest.fixture
def run(whole, tmp_path):
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def of_kind(run: Path, wanted: str) -> Path:
    """The newest file of a kind."""
    return max(p for p in run.rglob("*") if p.is_file() and kind(p.relative_to(run)) == wanted)


def ratchet(*words) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def commands(run: Path, shown: str = "0") -> dict[str, list]:
    """What goes on with a run, and what looks at it."""
    return {
        "resume": ["resume", run], "report": ["report", run], "show": ["show", run, shown, "--json"],
        "evaluate": ["evaluate", run, "--generation", "2", "--json"],
        "export": ["export", run, "--generation", "2", "--to", run.parent / "model", "--data"],
    }  # fmt: skip


def refused(words, *named) -> str:
    """The one line with which a command refuses a run, which names these."""
    code, out, err = ratchet(*words)
    assert code == 2 and err.startswith("ratchet: ") and err.count("\n") == 1, (words, code, out, err)
    assert all(str(name) in err for name in named), (named, err)
    return err


def files(run: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and "report" not in p.parts}


def test_every_file_of_a_run_is_of_a_kind_that_is_damaged_here(whole):
    others = []
    for path in (p.relative_to(whole) for p in whole.rglob("*") if p.is_file()):
        known = kind(path) in (*COMMITTED, SHARD, FILE) or path.name in HOW_IT_WENT or path.parts[0] == "tensorboard"
        if not (known or {"model", "checkpoints"} & set(path.parts) or kind(path).split(".")[0] in RECORDS):
            others.append(path)
    assert others == []
    listed = {kind(p.relative_to(whole)) for p in whole.rglob("*")}
    assert {*COMMITTED, SHARD, FILE} <= listed and "gen-#/simulate/unit-#.json" in listed


def test_a_committed_file_that_is_another_is_named_before_anything_is_written(run):
    before, asked = files(run), list(commands(run).items())
    for number, wanted in enumerate((*COMMITTED, FILE)):
        path = of_kind(run, wanted)
        for turn, (name, damage) in enumerate(DAMAGES.items()):
            path.write_bytes(damage(before[path]))
            if path.read_bytes() == before[path]:
                continue  # what has no object to be made a list
            refused(commands(run)["resume"], path)
            if turn == number % len(DAMAGES):
                for _, words in asked[1:]:
                    refused(words, path)
            code, out, err = ratchet("status", run)
            assert str(path) in out + err and (code, err) == (0, "") or code == 2 and err.count("\n") == 1, (name, out)
            path.write_bytes(before[path])
    assert files(run) == before


def test_a_directory_in_the_place_of_a_file_is_named_in_a_line_or_done_without(run, undamaged, shown):
    """A commit of a unit that lies so is made again once it is moved away, as the line says."""
    units = [f"{wanted}{ending}" for wanted in RECORDS for ending in (".json", ".array_record")]
    there, asked = [kind(p.relative_to(run)) for p in run.rglob("*")], list(commands(run, shown).items())
    wanted = (*COMMITTED, FILE, *units, SHARD, *(name for name in HOW_IT_WENT if name in there))
    for number, path in enumerate([of_kind(run, one) for one in wanted]):
        path.rename(run.parent / "kept")
        path.mkdir()
        committed = kind(path.relative_to(run)) in (*COMMITTED, FILE)
        for name, words in asked if committed else asked[number % 4 + 1 : number % 4 + 2]:
            if committed or (name in undamaged and name != "resume" and answer(words, run) != undamaged[name]):
                refused(words, path)
        code, out, err = ratchet("status", run)
        assert (code, err) == (0, "") or (code, err.count("\n")) == (2, 1) and str(path) in err, (path, out, err)
        assert not committed or str(path) in out + err
        path.rmdir()
        (run.parent / "kept").rename(path)
    before, commit = files(run), of_kind(run, units[0])
    commit.unlink()
    commit.mkdir()
    refused(["resume", run], commit, "a directory lies where a file belongs; move it away")
    commit.rmdir()
    assert ratchet("resume", run)[::2] == (0, "")
    assert_restored(run, before)


@pytest.mark.parametrize("place", ["gen-001", "gen-002", "imitation", ""])
def test_committed_files_that_are_removed_are_made_again_as_the_line_says(run, place):
    before = files(run)
    mine = [p for p in before if kind(p.relative_to(run)) in COMMITTED and p.name != "config.json"]
    mine = [p for p in mine if (p.relative_to(run).parts[0] == place if place else len(p.relative_to(run).parts) < 3)]
    for path in mine:
        path.write_bytes(b"[]")
        assert f"remove it, and `ratchet resume {run}` makes it again" in refused(["resume", run], path)
        path.unlink()
    assert mine and ratchet("resume", run)[0] == 0
    assert_restored(run, before)


@pytest.fixture(scope="module")
def shown(whole):
    """The id of a transcript."""
    return json.loads((whole / "gen-002" / "samples.json").read_text())["transcripts"][0]["id"]


@pytest.fixture(scope="module")
def undamaged(whole, shown, tmp_path_factory):
    """What the commands make of the run as it is."""
    run = Path(shutil.copytree(whole, tmp_path_factory.mktemp("undamaged") / "run"))
    return {name: answer(words, run) for name, words in commands(run, shown).items() if name != "report"}


def answer(words, run: Path) -> tuple[int, str, str]:
    """What a command says, wherever the run lies, and of mistakes alone on standard error; of an export, what it wrote
    as well."""
    code, out, err = ratchet(*words)
    exported = run.parent / "model"
    if words[0] == "export" and code == 0:
        out = (exported / "data" / "train.jsonl").read_text()
        shutil.rmtree(exported)
    return code, out.replace(str(run), "RUN"), err.replace(str(run), "RUN") if code else ""


def check_lookers(run: Path, undamaged, shown: str, *named) -> set[str]:
    """Each command that looks at a run says what it says of a whole one, or refuses it in a line; returns who does."""
    refusing = set()
    for name, words in commands(run, shown).items():
        if name in undamaged and name != "resume" and answer(words, run) != undamaged[name]:
            refused(words, *named)
            refusing.add(name)
    assert ratchet("status", run)[0] == 0
    return refusing


def test_damaged_records_are_named_and_made_again_once_they_are_deleted(run, undamaged, shown):
    paths, before = [of_kind(run, f"{wanted}.array_record") for wanted in RECORDS], files(run)
    for number, path in enumerate([*paths, of_kind(run, SHARD)]):
        refusing = set()
        for damage in list(DAMAGES.values())[number : number + 1]:
            path.write_bytes(damage(before[path]))
            refusing |= check_lookers(run, undamaged, shown, path, "delete", "resume")
        assert "show" in refusing
        path.unlink()
        check_lookers(run, undamaged, shown, path, "missing", "resume")
        path.write_bytes(before[path])
    for path in (*paths, of_kind(run, SHARD)):
        path.unlink()
    assert ratchet("resume", run)[::2] == (0, "")
    assert_restored(run, before)


def test_damaged_commits_of_units_are_named_and_made_again(run, undamaged, shown):
    paths, before = [of_kind(run, f"{wanted}.json") for wanted in RECORDS], files(run)
    for number, path in enumerate(paths):
        path.write_bytes(list(DAMAGES.values())[1 + number](before[path]))
        check_lookers(run, undamaged, shown, path.parents[1], "it commits no unit; resume")
    assert ratchet("resume", run)[::2] == (0, "")
    assert_restored(run, before)
    for path in paths:
        path.write_bytes(before[path].replace(b'"inputs": "', b'"inputs": "0'))
    assert ratchet("resume", run)[::2] == (0, "")
    assert_restored(run, before)
    paths[0].write_bytes(before[paths[0]].replace(b'"sha256": "', b'"sha256": "0'))
    records = paths[0].with_suffix(".array_record")
    refused(["resume", run], records, "delete it and resume")
    records.unlink()
    assert ratchet("resume", run)[::2] == (0, "")
    assert_restored(run, before)


def assert_restored(run: Path, before: dict[Path, bytes]) -> None:
    """What counts of a run lies there as before: bytes, but for records, whose content counts."""
    kept = {p: b for p, b in before.items() if p.suffix == ".json" and p.name != "stages.json" or kind(p) == SHARD}
    now = files(run)
    assert {p.relative_to(run) for p in kept if now.get(p) != kept[p]} == set()
    for records in (p for p in before if p.suffix == ".array_record"):
        read_unit(records, json.loads(now[records.with_suffix(".json")])["sha256"])


def test_damaged_weights_are_named_and_trained_again_once_they_are_deleted(run, undamaged, shown):
    model, before, refusing = run / "gen-002" / "model", files(run), 0
    for number, path in enumerate(sorted(p for p in before if model in p.parents)):
        for turn, damage in enumerate([*DAMAGES.values(), None]):
            if (number + turn) % 8 == 0:
                path.unlink() if damage is None else path.write_bytes(damage(before[path]) or b"x")
                if answer(commands(run)["evaluate"], run) != undamaged["evaluate"]:
                    refused(commands(run)["evaluate"], model, "delete it and resume the run to train this again")
                    refusing += 1
                path.write_bytes(before[path])
    assert refusing > 5
    shutil.rmtree(model)
    refused(commands(run)["evaluate"], "the weights are missing; `ratchet resume")
    assert ratchet("resume", run)[::2] == (0, "")
    assert answer(commands(run)["evaluate"], run) == undamaged["evaluate"]
    assert_restored(run, before)


def test_the_weights_of_another_generation_are_not_taken_for_its_own(run):
    shutil.rmtree(run / "gen-002" / "model")
    shutil.copytree(run / "gen-001" / "model", run / "gen-002" / "model")
    refused(commands(run)["evaluate"], run / "gen-002" / "model", "it is not what was committed")


def test_files_from_which_nothing_follows_are_done_without(run, undamaged, shown):
    places = [*run.glob("tensorboard/*"), *(p for p in run.rglob("*") if p.name in HOW_IT_WENT)]
    (run / "working.json").write_text('{"host": "x", "pid": 1, "since": 1.0, "heard": 1.0, "doing": null}')
    (run / "forecast.json").write_text('{"gen-000": {"train": [1.0, 2.0]}, "gen-001": {"train": [1.0, 2.0]}}')
    before = {p: p.read_bytes() for p in (*places, run / "working.json", run / "forecast.json")}
    for damage in (*list(DAMAGES.values())[::3], lambda content: content.replace(b"1", b'"x"').replace(b"2", b"[2]")):
        for path, content in before.items():
            path.write_bytes(damage(content))
        assert check_lookers(run, undamaged, shown) == set() and ratchet("report", run)[0] == 0
    for path in before:
        path.unlink(missing_ok=True)
    assert check_lookers(run, undamaged, shown) == set()
    assert "finished" in ratchet("status", run)[1] and ratchet("resume", run)[0] == 0


def test_a_half_run_goes_on_from_damage_as_if_nothing_had_been(whole, tmp_path):
    """It was ended in the training of its last generation; a unit, the dataset and a checkpoint are damaged."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    last, commits = run / "gen-002", Commits(run)
    commits.forget(epath.Path(run / "imitation"))
    for path in (last / "model", run / "imitation", *run.glob("checkpoints/imitation*")):
        shutil.rmtree(path)
    for name in ("training", "evaluation", "decision", "DONE", "audit"):
        (last / f"{name}.json").unlink()
    saved = sorted(run.glob("checkpoints/loop-002/*"), key=lambda p: int(p.name))
    for path in saved[2:]:
        shutil.rmtree(path)
    assert "`ratchet resume" in ratchet("status", run)[1]
    (last / "targets" / "unit-00001.json").write_bytes(b"[]")
    (last / "corrections" / "unit-00000.array_record").unlink()
    (last / "dataset" / "1.0.0" / "record.json").unlink()
    for path in (p for step in saved[:2] for p in step.rglob("*") if p.is_file()):
        path.write_bytes(bytes(path.stat().st_size))
    refused(["resume", run], run / "checkpoints" / "loop-002", "delete it and resume the run to train this again")
    for path in (p for p in saved[0].rglob("*") if p.is_file()):
        path.write_bytes((whole / path.relative_to(run)).read_bytes())
    assert ratchet("resume", run)[::2] == (0, "")
    assert different(whole, run) == []
