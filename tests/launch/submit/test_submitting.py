"""The command: what it asks before anything is submitted, and the container that it has pulled."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from support import tiny_config

from ratchet.bootstrap.worlds import DocumentsConfig
from ratchet.launch import cli, preflight, submit
from ratchet.launch.options import lacks_base
from ratchet.launch.preflight import Preflight
from ratchet.launch.recipes import RECIPES
from ratchet.launch.submit.starting import LAST, is_worth_repeating
from ratchet.models.decoder import DecoderConfig
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.stopping import AGAIN
from ratchet.train.trainer import EngineConfig

GKE = ["submit", "tiny", "--to", "gke", "--image", "i", "--out", "gs://bucket/x"]
MODEL = DecoderConfig(
    vocab_size=256, width=128, layers=1, heads=1, kv_heads=1, head_width=128, mlp_width=128, max_length=128
)


def small():
    """Settings of a run about documents that compile soon."""
    sizes = {"model": MODEL, "train__batch": 64, "train__columns": 112, "simulate__slots": 16}
    plain = {"train__engine": EngineConfig(attention="plain"), "train__optimizer": OptimizerConfig("adamw", 1e-5)}
    config = tiny_config(**sizes, **plain)
    return replace(config, world="documents", documents=DocumentsConfig(slice=100, fresh=10))


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A kubectl that keeps what it is told and given, and ends with 3. The set that it is asked about is in `state`."""
    place = tmp_path / "bin"
    place.mkdir()
    get, delete = f"get) /bin/cat {tmp_path}/state; exit 0;;", f'delete) echo "$@" > {tmp_path}/deleted; exit 0;;'
    asked = f'case "$1" in {get} {delete} esac\n'
    rest = f'echo "$@" > {tmp_path}/told\n/bin/cat > {tmp_path}/given\nexit 3\n'
    (tmp_path / "state").write_text("")
    (place / "kubectl").write_text(f"#!/bin/sh\n{asked}{rest}")
    (place / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(place))
    return tmp_path


def test_the_client_gets_what_a_dry_run_shows_and_its_exit_code_is_returned(kubectl, capsys):
    assert cli.main([*GKE, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert not (kubectl / "told").exists()
    assert cli.main([*GKE, "--force"]) == 3
    assert (kubectl / "told").read_text() == "apply --filename -\n"
    assert (kubectl / "given").read_text() == shown and "kind: JobSet" in shown
    assert cli.main([*GKE, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"to": "gke", "manifest": shown}
    assert cli.main([*GKE, "--json"]) == 2
    assert "--json is how --dry-run prints; give both, or none" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["", "Failed", "Completed"])
def test_a_set_that_has_ended_makes_way_for_the_same_again(kubectl, capsys, state):
    """Kubernetes would take the same manifest for no change, and nothing would begin."""
    (kubectl / "state").write_text(state)
    assert cli.main([*GKE, "--force", "--namespace", "n"]) == 3
    assert (kubectl / "told").read_text() == "apply --filename -\n"
    assert (kubectl / "deleted").exists() == bool(state)
    if state:
        told = (kubectl / "deleted").read_text()
        assert told == "delete --cascade=foreground jobset tiny --namespace=n\n", "its jobs, by which it is judged, too"
        assert f"the JobSet tiny has ended ({state}); it makes way for another" in capsys.readouterr().err


@pytest.fixture(scope="module")
def found():
    """What the compiler for TPUs says of all programs of a generation of a small model."""
    return preflight.preflight(Preflight(small(), "v5e:2x2", 1, "generation", dollars_per_chip_hour=3.0))


def test_a_generation_is_predicted_from_programs_as_large_as_its_settings(found):
    train, sample, score = (found["steps"][name] for name in ("train", "sample", "score"))
    c, p = small(), found["predicted"]
    assert found["fits"] and train["tokens_per_step"] == 64 * 112
    assert sample["slots"] == score["questions"] == 16
    assert p["answers"] == c.documents.per_document * (100 * c.simulate.samples + 10 * c.evaluate.samples)
    assert p["step_seconds"] == max(train["bound"]["seconds"].values())
    assert p["seconds"]["train"] == c.train.steps * p["step_seconds"]
    rate = sample["bound"]["tokens_a_second_at_most"]
    assert p["seconds"]["sample"] == pytest.approx(p["answers"] * c.simulate.new_tokens / rate)
    assert p["hours"] == pytest.approx(sum(p["seconds"].values()) / 3600)
    assert p["dollars"] == pytest.approx(p["hours"] * 4 * 3.0)


def test_what_fits_is_submitted_and_what_it_would_take_is_shown(kubectl, capsys, monkeypatch, found):
    monkeypatch.setattr(preflight, "preflight", lambda *_: found)
    assert cli.main(GKE) == 3
    err = capsys.readouterr().err
    assert "sampling" in err and "a generation, predicted" in err and "dollars at least" in err
    assert (kubectl / "told").exists()


def test_what_does_not_fit_is_not_submitted(kubectl, capsys, monkeypatch, found):
    train = found["steps"]["train"]
    too_large = train | {"fits": False, "memory": train["memory"] | {"needed": None}}
    less = {name: value for name, value in found.items() if name != "predicted"}
    less |= {"fits": False, "steps": found["steps"] | {"train": too_large}}
    monkeypatch.setattr(preflight, "preflight", lambda *_: less)
    assert cli.main(GKE) == 2
    err = capsys.readouterr().err
    assert "ratchet: submit: train would not fit v5e:4x4" in err and "--force" in err.splitlines()[-1]
    assert "does not fit" in err and not (kubectl / "told").exists()


def test_a_model_that_lies_in_the_container_is_asked_about_by_the_recipes_shape(kubectl, capsys, monkeypatch, found):
    asked = []
    monkeypatch.setattr(preflight, "preflight", lambda question, say, shaped: asked.append(shaped.model) or found)
    pod = ["submit", "pod-0.6b", "/documents", *GKE[2:], "--base", "/models/Qwen3-0.6B"]
    assert cli.main(pod) == 3 and asked == [RECIPES["pod-0.6b"].config.model]
    said = capsys.readouterr().err
    assert "/models/Qwen3-0.6B is not on this machine; preflight is asked about the shape of pod-0.6b" in said
    assert "--base=/models/Qwen3-0.6B" in (kubectl / "given").read_text()
    slots = ["--simulate.slots", "16"]
    assert cli.main(["submit", "documents", "/documents", *GKE[2:], *slots, "--base", "/models/m"]) == 2
    assert "/models/m is not on this machine, so nobody knows here whether it fits" in capsys.readouterr().err
    assert cli.main(["submit", "documents", "/documents", *GKE[2:], *slots, "--dry-run"]) == 0
    assert "the image has to bring it: build it with EXTRAS=...,smollm2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["submit", "tiny"], "submit: say where to run it; give --to gke, xpk, tpu-vm, slurm or local"),
        (["submit", "tiny", "--to", "moon"], "there is no platform 'moon'; give --to gke"),
        (["submit", "--to", "gke"], "submit: give a recipe"),
        (["submit", "tiny", "--to", "gke"], "--to gke: give --out gs://BUCKET/runs/NAME (a bucket that all machines"),
        (["submit", "tiny", "--to", "xpk", "--out", "/x"], "NAME (of a cluster that xpk made), --out gs://BUCK"),
        (["submit", "tiny", "--to", "xpk", *GKE[4:6], "--dry-run"], "give --cluster NAME (of a cluster that xpk"),
        ([*GKE, "--rollouts", "vllm"], "ratchet: submit: --rollouts and --rollouts-model go together"),
        (["submit", "documents", "--to", "local"], "as in `ratchet submit documents FOLDER --to local`"),
        ([*GKE[:-1], "s3://b/x", "--topology", "v5e:4x4"], "several processes save to gs:// or a shared disk"),
        (["submit", "tiny", "--to", "local", "--out", "s3://b/x"], "several processes save to gs:// or a shared disk"),
        (["submit", "tiny", "--to", "slurm", "--nodes", "2", "--mesh.data", "1", "--mesh.fsdp", "-1"],
         "on 2 nodes of 8 GPUs: mesh: data is 1, which 2 slices do not divide"),
        ([*GKE, "--topology", "v5p:8x4x4"], "multiples of 4, smallest first, such as 4x4x8"),
        ([*GKE, "--zone", "z"], "unknown setting --zone"),
        ([*GKE, "--queu", "q"], "unknown setting --queu; the nearest is --queue"),
        (["submit", "tiny", "--to", "local", "--processes", "0"], "--processes 0, --devices 1; both must be at least"),
        (["submit", "tiny", "--to", "slurm", "--nodes", "0"], "--nodes 0, --gpus 8; both must be at least 1"),
        ([*GKE, "--force"], "kubectl is not on this machine; install kubectl"),
        (["submit", "tiny", "--to", "slurm"], "sbatch is not on this machine; submit from a machine of the Slurm"),
        (["submit", "tiny", "--to", "tpu-vm", "--force", "--zone", "z", *GKE[4:]], "gcloud is not on this machine"),
        (["submit", "tiny", "--to", "xpk", "--force", "--cluster", "c", *GKE[4:]], "xpk is not on this machine"),
    ],
)
def test_mistakes_are_one_line(capsys, monkeypatch, words, says):
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if "preflight was not asked" not in line]
    assert says in err and (len(lines) == 1 or "give a recipe" in says)


WITHOUT = ["pod-0.6b", "pod-1.7b", "pod-8b", "qwen3-0.6b", "qwen3-1.7b", "qwen3-8b"]


def test_the_recipes_without_weights_are_those_that_the_next_test_knows():
    assert sorted(name for name in RECIPES if lacks_base(RECIPES[name].config)) == WITHOUT


@pytest.mark.parametrize(
    ("command", "recipe"),
    [
        *((command, "pod-0.6b") for command in ("run", *submit.PLATFORMS)),
        *(("slurm", recipe) for recipe in WITHOUT[1:]),
    ],
)
def test_a_recipe_about_documents_is_refused_without_a_model_before_anything_is_read(
    tmp_path, monkeypatch, capsys, command, recipe
):
    """And with one it is not: what is missing then is the client, or the model itself."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    of = {"gke": GKE[2:], "xpk": ["--cluster", "c", *GKE[4:]], "tpu-vm": ["--zone", "z", *GKE[4:]]}.get(command, [])
    to = ["--to", command] if command not in ("run", "gke") else []
    words = ["run" if command == "run" else "submit", recipe, *to, *of, "--documents.path", "/nowhere"]
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err == (
        f"ratchet: {words[0]}: the recipe {recipe} brings no weights, and a run about documents begins with some; "
        "give a --base\n"
    )
    if command != "run":
        assert cli.main([*words, "--dry-run", "--base", "/models/m"]) == 0
    assert not list(tmp_path.iterdir())


def test_what_is_read_in_the_container_is_named_and_what_lies_in_a_bucket_is_not(capsys):
    words = ["submit", "documents", "docs", "--documents.questions", "gs://b/q.jsonl", *GKE[2:], "--dry-run"]
    words += ["--simulate.slots", "16"]
    assert cli.main(words) == 0
    assert capsys.readouterr().err == (
        "submit: --base smollm2: the image has to bring it: build it with EXTRAS=...,smollm2\n"
        "submit: --documents.path docs: looked for in the container; what lies in gs:// or s3:// is fetched\n"
    )
    assert cli.main([*words, "--documents.tasks", "kinds.yaml", "--review.rubric", "mine.yaml"]) == 0
    assert "docs, --documents.tasks kinds.yaml, --review.rubric mine.yaml: looked for in the" in capsys.readouterr().err
    assert cli.main([*words, "--review.rubric", "agent-safety"]) == 0
    assert "rubric" not in capsys.readouterr().err, "which comes with the image"
    assert cli.main([*GKE, "--dry-run"]) == 0 and not capsys.readouterr().err


def test_keys_that_a_platform_hands_over_to_nobody_are_named(capsys):
    far = ["--teacher.url", "https://example.com/v1", "--wandb", "mine", "--dry-run"]
    vms = ["submit", "tiny", "--to", "tpu-vm", "--zone", "z", *GKE[4:], *far]
    assert cli.main(vms) == 0
    said = capsys.readouterr().err
    assert "--to tpu-vm hands no key over; where RATCHET_TEACHER_KEY and WANDB_API_KEY must be set, the image" in said
    assert cli.main([*GKE, *far]) == 0
    assert "where RATCHET_TEACHER_KEY and WANDB_API_KEY must be set, give --secret" in capsys.readouterr().err
    assert cli.main([*GKE, *far, "--secret", "keys"]) == 0 and "key" not in capsys.readouterr().err


def test_preflight_of_a_recipes_own_shape_says_that_a_run_needs_weights(capsys, monkeypatch, found):
    monkeypatch.setattr(preflight, "preflight", lambda asked, say: [say("compiling"), say("compiled"), found][-1])
    assert cli.main(["preflight", "pod-0.6b", "--step", "generation"]) == 0
    note, *others = capsys.readouterr().err.splitlines()
    assert "of a model of the recipe's own shape" in note and others == ["compiling", "compiled"]
    assert cli.main(["preflight", "pod-0.6b", "--step", "generation", "--base", "/models/m"]) == 0
    assert capsys.readouterr().err == "compiling\ncompiled\n"
    assert cli.main(["preflight", "pod-0.6b", "--rows", "x"]) == 2
    assert "shape" not in capsys.readouterr().err, "a mistake stands alone"


def test_of_unknown_gpus_nothing_is_compiled_and_sizes_that_cannot_divide_are_refused(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    pod = ["submit", "pod-0.6b", "/documents", "--to", "slurm", "--base", "/models/m"]
    for sizes, says in (
        (["--gpus", "7"], "on 1 nodes of 7 GPUs: simulate.slots: 512 do not divide over 7 devices"),
        (["--nodes", "2", "--mesh.tensor", "3"], "on 2 nodes of 8 GPUs: mesh: data × fsdp × tensor = (2, 2, 3)"),
        (["--gpus", "7", "--dry-run"], "on 1 nodes of 7 GPUs: simulate.slots: 512 do not divide over 7 devices"),
    ):
        assert cli.main([*pod, *sizes]) == 2
        assert capsys.readouterr().err.startswith(f"ratchet: submit: {says}")
    assert cli.main(pod) == 2
    said, refused = capsys.readouterr().err.splitlines()
    assert said == (
        "submit: preflight was not asked whether the run fits: what the GPUs are is not known; say it by --card h100 "
        "or h200"
    )
    assert "sbatch is not on this machine" in refused


@pytest.mark.parametrize(("data", "of_a_node"), [("-1", -1), ("2", 1), ("4", 2)])
def test_of_known_gpus_preflight_is_asked_about_what_one_machine_computes(
    capsys, monkeypatch, found, data, of_a_node
):
    monkeypatch.setenv("PATH", "/nowhere")
    asked = []
    monkeypatch.setattr(preflight, "preflight", lambda *question: asked.append(question) or found)
    words = ["submit", "pod-0.6b", "/documents", "--to", "slurm", "--nodes", "2", "--gpus", "8", "--base", "/models/m"]
    assert cli.main([*words, "--card", "h100", "--mesh.data", data]) == 2
    err, ((question, _, shaped),) = capsys.readouterr().err, asked
    assert (question.topology, question.slices, question.step) == ("h100:8", 1, "generation")
    whole = RECIPES["pod-0.6b"].config
    for config in (question.config, shaped):
        assert config.train.batch == whole.train.batch // 2 and config.simulate.slots == whole.simulate.slots // 2
        assert config.mesh.data == of_a_node
    assert "a generation, predicted" in err and "sbatch is not on this machine" in err.splitlines()[-1]
    asked.clear()
    assert cli.main([*words, "--card", "h100", "--force"]) == 2 and not asked
    assert cli.main([*words, "--card", "v100"]) == 2 and "--card" in capsys.readouterr().err


def test_what_does_not_fit_a_machines_gpus_is_not_submitted(capsys, monkeypatch, found):
    monkeypatch.setenv("PATH", "/nowhere")
    sample = found["steps"]["sample"] | {"fits": False}
    less = {name: value for name, value in found.items() if name != "predicted"}
    less |= {"fits": False, "steps": found["steps"] | {"sample": sample}}
    monkeypatch.setattr(preflight, "preflight", lambda *_: less)
    words = ["submit", "pod-0.6b", "/documents", "--to", "slurm", "--base", "/models/m", "--card", "h200"]
    assert cli.main(words) == 2
    assert "ratchet: submit: sample would not fit h200:8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (["--simulate.slots", "12"], "on 16 devices: simulate.slots: 12 do not divide over 16 devices"),
        (["--slices", "2"], "on 2 slices of 16 devices: simulate.slots: 16 do not divide over 32 devices"),
        (["--topology", "tpu7x:2x2x4", "--simulate.slots", "16"], "on 32 devices: simulate.slots: 16 do not divide"),
        (["--mesh.tensor", "3"], "on 16 devices: mesh: data × fsdp × tensor"),
    ],
)
def test_sizes_that_do_not_divide_over_slices_are_refused_before_anything_is_compiled(capsys, sizes, says):
    assert cli.main([*GKE, *sizes, "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith(f"ratchet: submit: {says}")


def test_a_model_in_the_container_may_be_adapted(capsys, monkeypatch):
    """Of its shape alone nothing is known here."""
    asked = []

    def ask(question, say, shaped):
        asked.append(shaped)
        raise preflight.PreflightError("preflight: asked")

    monkeypatch.setattr(preflight, "preflight", ask)
    words = ["submit", "pod-0.6b", "/documents", *GKE[2:], "--base", "/models/m", "--train.lora", "16"]
    assert cli.main(words) == 2 and "preflight: asked" in capsys.readouterr().err
    assert asked[0].base == "/models/m" and asked[0].model == RECIPES["pod-0.6b"].config.model


def test_a_run_on_this_machine_is_said_to_show_by_itself_whether_it_fits(capsys, monkeypatch):
    platform = submit.PLATFORMS["local"]._replace(submit=lambda asked: 0)
    monkeypatch.setattr("ratchet.launch.commands.submit.PLATFORMS", {"local": platform})
    assert cli.main(["submit", "tiny", "--to", "local"]) == 0
    assert capsys.readouterr().err == (
        "submit: preflight was not asked whether the run fits: the run begins on this machine and shows it at once\n"
    )


@pytest.mark.parametrize("to", submit.PLATFORMS)
def test_help_of_a_platform_lists_its_own_options(capsys, to):
    assert cli.main(["submit", "tiny", "--to", to, "--help"]) == 0
    shown = capsys.readouterr().out
    own = {"gke": "--queue", "xpk": "--cluster", "tpu-vm": "--zone", "slurm": "--nodes", "local": "--processes"}
    assert own[to] in shown and "--train.steps" in shown
    assert not any(other in shown for name, other in own.items() if name != to and (to, name) != ("xpk", "tpu-vm"))


def test_the_table_of_exit_codes_is_what_is_acted_on():
    table = re.findall(r"^(\d[\d\-, ]*?)  +\w.*?  +(.+)$", submit.__doc__, re.M)
    acts = {}
    for codes, then in table:
        for part in codes.split(","):
            low, _, high = part.strip().partition("-")
            acts |= dict.fromkeys(range(int(low), int(high or low) + 1), then.split(",")[0])
    again = {code for code, then in acts.items() if "start again" in then or then == "the same"}
    over = {code for code, then in acts.items() if then.startswith("it is over")}
    assert again == {code for code in range(256) if is_worth_repeating(code)} and AGAIN in again
    assert over == {0, *LAST}


def test_the_container_is_made_of_what_is_here_and_of_the_registrys_packages():
    top = Path(__file__).parents[3]
    text = (top / "launch" / "Containerfile").read_text()
    lines = text.splitlines()
    copied = [source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]]
    project = tomllib.loads((top / "pyproject.toml").read_text())
    assert all((top / source).exists() for source in copied)
    packages = set(project["tool"]["setuptools"]["package-dir"].values())
    assert packages | {"pyproject.toml", "constraints.txt"} <= set(copied)
    extras = re.search(r"ARG EXTRAS=(\S+)", text)[1].split(",")
    assert set(extras) <= set(project["project"]["optional-dependencies"])
    assert [line.split()[1] for line in lines if line.startswith("FROM")] == ["python:3.12-slim"]
    assert "://" not in text and "index" not in text
