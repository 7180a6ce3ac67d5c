"""What is submitted to GKE is what Kubernetes and JobSet accept, and does what the exit codes say."""

import re
from dataclasses import replace

import jobsets
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratchet.bootstrap import config_changes
from ratchet.launch import cli
from ratchet.launch.commands.start import New
from ratchet.launch.lines import UserError
from ratchet.launch.options import parse_run
from ratchet.launch.recipes import RECIPES
from ratchet.launch.submit import gke
from ratchet.launch.submit.gke import Gke
from ratchet.launch.submit.slices import KINDS

TINY = RECIPES["tiny"].config
SERVERS = {"rollouts": "vllm", "rollouts_model": "org/model", "replicas": 3}
EVERYTHING = {
    "namespace": "team", "queue": "tpus", "service_account": "runner", "secret": "keys", "spot": True, "slices": 2,
    **SERVERS,
}  # fmt: skip
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v6e:4x4", "v5p:2x2x1", "v4:4x4x8", "tpu7x:2x2x1")


def asked(config=TINY, **more):
    if "rollouts" in more:
        config = replace(config, base="/models/m")
    return Gke(config, "gke", **{"out": "gs://bucket/runs/x", "image": "registry/ratchet:1", **more})


def documents(**more):
    return jobsets.read(gke.manifest(asked(**more)))


def slice_job(jobset):
    return jobset["spec"]["replicatedJobs"][-1]


def command_of(jobset):
    """The words that the pods of a set begin a run with: Kubernetes puts variables in place of $(NAME), and one dollar
    in place of two."""
    (container,) = slice_job(jobset)["template"]["spec"]["template"]["spec"]["containers"]
    put = lambda found: "$" if found[0] == "$$" else f"the value of {found[1]}"
    return [re.sub(r"\$\$|\$\(([^)]*)\)", put, word) for word in container["command"]]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["bare", "everything"])
def test_a_manifest_of_every_recipe_is_what_a_cluster_accepts(recipe, more):
    for topology in TOPOLOGIES if recipe == "tiny" else TOPOLOGIES[:1]:
        assert jobsets.refusals(documents(config=RECIPES[recipe].config, topology=topology, **more)) == []


def test_every_misspelt_field_of_the_template_would_be_noticed():
    """The API server would leave it out without a word."""
    passed = [path for path, wrong in jobsets.misspelt(documents(**EVERYTHING)) if not jobsets.refusals(wrong)]
    assert passed == []


def test_kubernetes_by_itself_notices_a_misspelt_field_of_a_job():
    """Its schemas are of another maker than the closed CRD."""
    template = slice_job(documents()[0])["template"]
    (container,) = template["spec"]["template"]["spec"]["containers"]
    container["imagee"] = container["image"]
    (line,) = jobsets.unlike_kubernetes({"apiVersion": "batch/v1", "kind": "Job", **template})
    assert "imagee" in line


@settings(max_examples=30, deadline=None)
@given(
    name=st.text(max_size=70) | st.from_regex(r"[a-z][-a-z0-9]{0,62}", fullmatch=True),
    slices=st.sampled_from([1, 10, 11, 2000]),
    topology=st.sampled_from(TOPOLOGIES),
    replicas=st.sampled_from([1, 101]),
)
def test_a_name_is_refused_or_gives_names_that_a_cluster_accepts(name, slices, topology, replicas):
    made = refused = None
    try:
        made = documents(name=name, slices=slices, topology=topology, **(SERVERS | {"replicas": replicas}))
    except UserError as error:
        refused = str(error)
    if made:
        assert jobsets.rules(made[0]) == [] and made[0]["metadata"]["name"] == (name or "tiny")
    else:
        assert refused.startswith("submit: --name ") and "\n" not in refused


@pytest.mark.parametrize("name", ["no", "on", "y", "true"])
def test_a_name_that_yaml_has_another_meaning_for_stays_a_name(name):
    assert [d["metadata"]["name"] for d in documents(name=name) if d["kind"] == "JobSet"] == [name]


def test_the_longest_name_that_is_taken_is_the_longest_that_a_cluster_takes():
    with pytest.raises(UserError, match="it may have 47"):
        documents(name="x" * 48, slices=2)
    made = documents(name="x" * 47, slices=2)
    assert jobsets.refusals(made) == []
    made[0]["metadata"]["name"] += "x"
    assert [line.rpartition(": ")[2] for line in jobsets.refusals(made)] == ["no label of RFC 1035"]


@settings(max_examples=30, deadline=None)
@example("$(HOME)/$$x")
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30))
def test_whatever_text_an_option_has_it_arrives_as_it_is(text):
    made = documents(image=text, service_account=text, out=f"gs://bucket/{text}/x", **SERVERS)
    pod = slice_job(made[0])["template"]["spec"]["template"]["spec"]
    assert (pod["containers"][0]["image"], pod["serviceAccountName"]) == (text, text)
    assert f"--out=gs://bucket/{text}/x" in command_of(made[0])


def test_a_pod_begins_the_run_that_was_asked_for(monkeypatch, capsys):
    """The words in the manifest mean the settings that were given here, by options and by a file."""
    options = ["--seed=-3", "--train.steps", "7", "--controls.imitation", "--wrongthink.lambdas", "0.5", "0.25"]
    options += ["--wrongthink.interruption", "no, it's -- \"so\",", "--train.later-rate", "1e-05", "--teacher.url", ""]
    words = ["submit", "tiny", "--to", "gke", "--image", "i", "--out", "gs://b/x", "--dry-run", *options]
    assert cli.main(words) == 0
    (made,) = jobsets.read(capsys.readouterr().out)
    name, *rest = command_of(made)
    rest.remove("--join=auto")
    wanted = parse_run("run", New, ["tiny", *options]).config
    begun = parse_run("run", New, rest[1:])
    assert (name, rest[0], begun.out) == ("ratchet", "run", "gs://b/x")
    assert config_changes.changed(begun.config, wanted) == [] and begun.config.seed == -3


def test_slices_are_placed_and_sized_by_their_topology():
    sizes = {}
    for topology in TOPOLOGIES:
        job = slice_job(documents(topology=topology, slices=3)[0])
        assert job["replicas"] == 3 and "exclusive-topology" in str(job["template"]["metadata"]["annotations"])
        of, pod = job["template"]["spec"], job["template"]["spec"]["template"]["spec"]
        chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
        assert of["parallelism"] == of["completions"] and of["backoffLimit"] == 0 and pod["hostNetwork"]
        sizes[topology] = (*pod["nodeSelector"].values(), of["completions"], chips)
    assert sizes == {
        "v5e:4x4": ("tpu-v5-lite-podslice", "4x4", 4, 4),
        "v5e:16x16": ("tpu-v5-lite-podslice", "16x16", 64, 4),
        "v6e:4x4": ("tpu-v6e-slice", "4x4", 4, 4),
        "v5p:2x2x1": ("tpu-v5p-slice", "2x2x1", 1, 4),
        "v4:4x4x8": ("tpu-v4-podslice", "4x4x8", 32, 4),
        "tpu7x:2x2x1": ("tpu7x", "2x2x1", 1, 4),
    }
    assert {topology.partition(":")[0] for topology in TOPOLOGIES} == set(KINDS)


@pytest.mark.parametrize(
    ("pod", "does"),
    [
        ({"code": 42}, "RestartJobSet"),
        ({"code": 137}, "RestartJobSet"),  # memory ran out
        ({"code": 143}, "RestartJobSet"),
        ({"code": 1}, "FailJobSet"),
        ({"code": 2}, "FailJobSet"),
        ({"code": 127}, "FailJobSet"),
        ({"code": 42, "conditions": ["DisruptionTarget"]}, "RestartJobSetAndIgnoreMaxRestarts"),
        ({"code": 137, "conditions": ["DisruptionTarget"]}, "RestartJobSetAndIgnoreMaxRestarts"),
    ],
)
def test_the_set_acts_on_exit_codes_and_disruptions_as_the_contract_says(pod, does):
    """A run that host maintenance stops goes on for as long as maintenance comes; a mistake ends it at once."""
    (made,) = documents()
    reason, message = jobsets.failure(slice_job(made)["template"], {"container": "ratchet", "conditions": []} | pod)
    assert jobsets.action(made, "slice", reason, message) == does


def test_servers_write_for_a_run_that_waits_for_them_and_outlives_none():
    """Each has an address of its own, and sees in the bucket what the run writes there for it."""
    (made,) = documents(**SERVERS, name="big")
    servers, job = made["spec"]["replicatedJobs"]
    assert (servers["name"], servers["replicas"]) == ("rollouts", 3)
    assert job["dependsOn"] == [{"name": "rollouts", "status": "Ready"}]
    name, *words = command_of(made)
    words.remove("--join=auto")
    config = parse_run("run", New, words[1:]).config
    assert config.rollouts.url == tuple(f"http://big-rollouts-{n}-0.big:8000/v1" for n in range(3))
    assert config.simulate.calls == 0 and not config.teacher.url
    of = servers["template"]["spec"]
    assert (of["completions"], of["completionMode"]) == (1, "Indexed"), "or JobSet gives its pod another name"
    assert "network" not in made["spec"], "whose default gives pods names, below the set's own"
    pod = of["template"]
    (server,) = pod["spec"]["containers"]
    assert server["command"][:3] == ["vllm", "serve", "org/model"] and server["ports"] == [{"containerPort": 8000}]
    assert server["env"] == [{"name": "VLLM_SERVER_DEV_MODE", "value": "1"}]
    (mount,) = [m for m in server["volumeMounts"] if m["name"] == "bucket"]
    (volume,) = [v["csi"] for v in pod["spec"]["volumes"] if v["name"] == "bucket"]
    assert config.rollouts.directory == f"{mount['mountPath']}/runs/x"
    assert volume["volumeAttributes"]["bucketName"] == "bucket" and volume["driver"] == "gcsfuse.csi.storage.gke.io"
    assert pod["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert made["spec"]["successPolicy"]["targetReplicatedJobs"] == ["slice"]
    other = documents(**(SERVERS | {"rollouts": "sglang"}))[0]["spec"]["replicatedJobs"][0]
    assert "sglang.launch_server" in str(other) and "VLLM" not in str(other)


def test_servers_hold_a_model_that_others_know():
    with pytest.raises(UserError, match="--rollouts: .* give its --base"):
        gke.manifest(Gke(TINY, "gke", out="gs://bucket/x", image="i", **SERVERS))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"out": "runs/x"}, "gs://BUCKET"),
        ({"image": ""}, "give --image"),
        ({"slices": 0}, "--slices is 0"),
        ({"restarts": -1}, "--restarts is -1"),
        ({"topology": "v9:4x4"}, "no TPU is called 'v9'"),
        ({"topology": "v5e:3x3"}, "v5e has no slice of 3x3; there are 2x2, 2x4"),
        ({"topology": "v5p:4x4"}, "v5p has no slice of 4x4; there are 2x2x1"),
        ({"rollouts": "vllm"}, "--rollouts-model go together"),
        ({"rollouts_model": "m"}, "--rollouts-model go together"),
        (SERVERS | {"replicas": 0}, "--replicas 0"),
        (SERVERS | {"out": "s3://bucket/x"}, "--rollouts: the servers see a bucket of gs:// alone"),
        ({"dollars_per_chip_hour": -1.0}, "at least 0"),
    ],
)
def test_what_cannot_be_submitted_is_one_line(more, says):
    with pytest.raises(UserError, match=says) as refused:
        documents(**more)
    assert "\n" not in str(refused.value)
