"""GKE: a JobSet for slices of TPUs, and beside it servers that write with the run's weights."""

from dataclasses import dataclass, replace
from typing import Literal

from ratchet.bootstrap.config import Config, ConfigError
from ratchet.launch.lines import UserError, tell
from ratchet.launch.submit import starting
from ratchet.launch.submit.asked import OnSlices, rendered
from ratchet.launch.submit.clients import hand_over, told
from ratchet.launch.submit.slices import CHIPS_OF_A_HOST

GRACE = 60
"""Seconds from SIGTERM to SIGKILL of a pod."""
PORT = 8000
"""Where the servers of `rollouts` listen."""
MOUNTED = "/bucket"
"""Where the servers of `rollouts` see the bucket of the run."""
_LONGEST = 63
"""Letters of a label of the domain name system."""


@dataclass(frozen=True)
class Gke(OnSlices):
    """A JobSet on GKE, by `kubectl apply`, for slices of TPUs; optionally with servers that write with its weights."""

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
    """Servers beside the slices that write transcripts. They get the weights of each promotion through the bucket,
    which they see by Cloud Storage FUSE; the service account has to read it."""
    replicas: int = 1
    """So many of these servers, each with an address of its own."""
    rollouts_model: str = ""
    """What they begin with, as the server's own --model takes it: the model of --base."""
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
        if self.rollouts != "none" and not self.out.startswith("gs://"):
            raise UserError("submit: --rollouts: the servers see a bucket of gs:// alone; give such an --out")


@dataclass(frozen=True)
class Server:
    """What a pod of `rollouts` runs."""

    image: str
    command: list[str]
    environment: dict[str, str]
    replicas: int
    accelerator: str
    gpus: int
    port: int = PORT


def manifest(asked: Gke) -> str:
    """The JobSet as YAML. Raises UserError for what GKE would refuse."""
    asked.check()
    slice, server = asked.slice, _server(asked)
    name, directory, config = asked.named(_longest_name(asked)), asked.directory, asked.config
    bucket, _, within = directory.partition("://")[2].partition("/")
    if server:
        config = _written_by(config, _addresses(name, asked.replicas), f"{MOUNTED}/{within}")
    return rendered(
        "jobset.yaml.jinja",
        name=name,
        namespace=asked.namespace,
        queue=asked.queue,
        service_account=asked.service_account,
        secret=asked.secret,
        spot=asked.spot,
        server=server,
        bucket=bucket,
        mounted=MOUNTED,
        topology=asked.topology,
        accelerator=slice.kind.label,
        shape=slice.shape,
        slices=asked.slices,
        hosts=slice.hosts,
        chips=CHIPS_OF_A_HOST,
        restarts=asked.restarts,
        last=starting.LAST,
        grace=GRACE,
        image=asked.image,
        # Kubernetes puts variables in place of $(NAME), and one dollar in place of two.
        command=[word.replace("$", "$$") for word in ("ratchet", *starting.words(config, directory, "auto"))],
        cache=f"{directory}/xla",
    )


def submit(asked: Gke) -> int:
    """Hands the JobSet to kubectl; returns its exit code. One of this name that has ended, which Kubernetes would take
    for the same and leave as it is, is deleted before."""
    text, name = manifest(asked), asked.named(_longest_name(asked))
    of = ["jobset", name, *([f"--namespace={asked.namespace}"] if asked.namespace else [])]
    state = told(["kubectl", "get", *of, "--ignore-not-found", "--output=jsonpath={.status.terminalState}"])
    if state:
        tell(f"submit: the JobSet {name} has ended ({state}); it makes way for another, which goes on where it stopped")
        if code := hand_over([*"kubectl delete --cascade=foreground".split(), *of]):
            return code
    return hand_over(["kubectl", "apply", "--filename", "-"], text)


def _longest_name(asked: Gke) -> int:
    """Letters that a name may have: those of the last pod's name, with the suffix that Kubernetes adds, are 63."""
    suffixes = [f"-slice-{asked.slices - 1}-{asked.slice.hosts - 1}-abcde"]
    if asked.rollouts != "none":
        suffixes.append(f"-rollouts-{asked.replicas - 1}-0-abcde")
    return _LONGEST - max(map(len, suffixes))


def _addresses(name: str, replicas: int) -> tuple[str, ...]:
    """Where each server is found, by the names that JobSet gives to pods: set, replicated job, job, pod, and the set's
    own service."""
    return tuple(f"http://{name}-rollouts-{number}-0.{name}:{PORT}/v1" for number in range(replicas))


def _written_by(config: Config, urls: tuple[str, ...], seen: str) -> Config:
    """The settings of a run for which servers write, which see its directory so; they have all passages in view.
    Raises UserError for a run whose model they could not hold."""
    simulate = replace(config.simulate, calls=0)
    try:
        rollouts = replace(config.rollouts, url=urls, directory=seen)
        return replace(config, rollouts=rollouts, simulate=simulate)
    except ConfigError as error:
        raise UserError(f"submit: --rollouts: {error}") from None


def _server(asked: Gke) -> Server | None:
    model, gpus = asked.rollouts_model, str(asked.rollouts_gpus)
    listening = ["--host", "0.0.0.0", "--port", str(PORT)]
    commands = {
        "vllm": ["vllm", "serve", model, *listening, "--tensor-parallel-size", gpus, "--generation-config", "vllm"],
        "sglang": ["python3", "-m", "sglang.launch_server", "--model-path", model, *listening, "--tp-size", gpus],
    }
    environments = {"vllm": {"VLLM_SERVER_DEV_MODE": "1"}, "sglang": {}}  # so that it takes weights
    images = {"vllm": "vllm/vllm-openai:latest", "sglang": "lmsysorg/sglang:latest"}
    if asked.rollouts == "none":
        return None
    image = asked.rollouts_image or images[asked.rollouts]
    of, kind = asked.rollouts, asked.rollouts_accelerator
    return Server(image, commands[of], environments[of], asked.replicas, kind, asked.rollouts_gpus)
