"""Settings of servers that write with the run's own weights."""

from dataclasses import dataclass

from ratchet.bootstrap.teacher.settings import ServerConfig
from ratchet.models.bounds import bounded


@dataclass(frozen=True)
class RolloutsConfig:
    """Servers of vLLM, SGLang or `ratchet serve --weights-from` that hold the model of `base` and write what the
    promoted weights write: transcripts where no teacher does, alternatives of their tokens, corrections, and answers to
    worked tasks. Each gets the weights of the last promotion, and is asked only while it answers by them.
    Their key, if they want one, comes from the environment variable RATCHET_ROLLOUTS_KEY."""

    url: tuple[str, ...] = ()
    """Their addresses, one a server, each up to and with /v1; empty: the run samples by itself."""
    concurrency: int = bounded(32, "at least 1")
    """Questions under way at a time at each of them, at most; fewer while it is busy."""
    directory: str = ""
    """Where they see the run's directory; empty: where the run does."""


@dataclass(frozen=True)
class Replica(ServerConfig):
    """One of these servers, as its client takes it."""

    section = "rollouts"
