"""GKE: a JobSet for slices of TPUs, and beside it servers of a model that writes the first generations."""

from dataclasses import dataclass, replace
from typing import Literal

from ratchet.bootstrap.config import Config
from ratchet.launch.options import UserError
from ratchet.launch.submit import starting
from ratchet.launch.submit.asked import OnSlices, name_of, rendered
from ratchet.launch.submit.clients import hand_over
from ratchet.launch.submit.slices import CHIPS_OF_A_HOST

GRACE = 60
"""Seconds from SIGTERM to SIGKILL of a pod."""
PORT = 8000
"""Where the servers of `rollouts` listen."""
_LONGEST = 63
"""Letters of a label of the domain name system."""


@dataclass(frozen=True)
class Gke(OnSlices):
    """A JobSet on GKE, by `kubectl apply`, for slices of TPUs; optionally with servers that write transcripts."""

    namespace: str = ""
    """Where in the cluster; default the one that kubectl has."""
    queue: str = ""
    """Kueue's local queue that admits the set."""
    service_account: str = ""
    """Kubernetes' service account, which may write to the bucket."""
    secret: str = ""
    """A secret of the cluster whose entries are environment variables of every process, such as RATCHET_TEACHER_KEY."""
    spot: bool = False
    """Take chips that may be taken back, at a lower price."""
    rollouts: Literal["none", "vllm", "sglang"] = "none"
    """Servers beside the slices that write the first generations, as a teacher by address."""
    replicas: int = 1
    """So many of these servers, behind one address."""
    rollouts_model: str = ""
    """What they serve, as the server's own --model takes it."""
    rollouts_image: str = ""
    """Their container; default the newest that their makers publish."""
    rollouts_accelerator: str = "nvidia-l4"
    """GKE's name of their GPUs."""
    rollouts_gpus: int = 1
    """GPUs of each server."""

    def __post_init__(self):
        super().__post_init__()
        if min(self.replicas, self.rollouts_gpus) < 1:
            raise UserError(
                f"submit: --replicas {self.replicas}, --rollouts-gpus {self.rollouts_gpus}; both must be at least 1"
            )
        if (self.rollouts == "none") != (self.rollouts_model == ""):
            raise UserError("submit: --rollouts and --rollouts-model go together: a server, and the model it serves")


@dataclass(frozen=True)
class Server:
    """What a pod of `rollouts` runs."""

    image: str
    command: list[str]
    replicas: int
    accelerator: str
    gpus: int
    port: int = PORT


def manifest(asked: Gke) -> str:
    """The JobSet as YAML, with a Service where there are servers. Raises UserError for what GKE would refuse."""
    slice, server = asked.slice, _server(asked)
    name = name_of(asked.name, asked.config, _longest_name(asked))
    directory, config = asked.directory(), asked.config
    if server:
        config = _taught_at(config, f"http://{name}-rollouts:{PORT}/v1")
    return rendered(
        "jobset.yaml.jinja",
        name=name,
        namespace=asked.namespace,
        queue=asked.queue,
        service_account=asked.service_account,
        secret=asked.secret,
        spot=asked.spot,
        server=server,
        topology=asked.topology,
        accelerator=slice.kind.label,
        shape=slice.shape,
        slices=asked.slices,
        hosts=slice.hosts,
        chips=CHIPS_OF_A_HOST,
        restarts=asked.restarts,
        last=starting.LAST,
        grace=GRACE,
        image=asked.container(),
        command=["ratchet", *starting.words(config, directory, "auto")],
        cache=f"{directory}/xla",
    )


def submit(asked: Gke) -> int:
    """Hands the JobSet to kubectl; returns its exit code."""
    return hand_over(["kubectl", "apply", "--filename", "-"], manifest(asked))


def _longest_name(asked: Gke) -> int:
    """Letters that a name may have: those of the last pod's name, with the suffix that Kubernetes adds, are 63."""
    suffixes = [f"-slice-{asked.slices - 1}-{asked.slice.hosts - 1}-abcde"]
    if asked.rollouts != "none":
        suffixes.append(f"-rollouts-{asked.replicas - 1}-0-abcde")
    return _LONGEST - max(map(len, suffixes))


def _taught_at(config: Config, url: str) -> Config:
    """The settings of a run whose teacher is at an address; it has all passages in view."""
    return replace(config, teacher=replace(config.teacher, url=url), simulate=replace(config.simulate, calls=0))


def _server(asked: Gke) -> Server | None:
    model, gpus = asked.rollouts_model, str(asked.rollouts_gpus)
    listening = ["--host", "0.0.0.0", "--port", str(PORT)]
    commands = {
        "vllm": ["vllm", "serve", model, *listening, "--tensor-parallel-size", gpus],
        "sglang": ["python3", "-m", "sglang.launch_server", "--model-path", model, *listening, "--tp-size", gpus],
    }
    images = {"vllm": "vllm/vllm-openai:latest", "sglang": "lmsysorg/sglang:latest"}
    if asked.rollouts == "none":
        return None
    image = asked.rollouts_image or images[asked.rollouts]
    return Server(image, commands[asked.rollouts], asked.replicas, asked.rollouts_accelerator, asked.rollouts_gpus)
