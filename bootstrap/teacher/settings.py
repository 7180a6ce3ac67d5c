"""Settings of servers at an address."""

import urllib.parse
from dataclasses import dataclass

from ratchet.models.bounds import bounded


@dataclass(frozen=True)
class ServerConfig:
    """A server that is asked by OpenAI's web API."""

    section = ""
    """The name of these settings in those of a run."""
    url: str = ""
    """Its address up to and with /v1; empty: there is none."""
    model: str = ""
    """Which of its models; empty: the only one that it has."""
    concurrency: int = bounded(8, "at least 1")
    """Questions under way at a time, at most; fewer while the server is busy."""
    budget: int = bounded(0, "at least 0")
    """Tokens, prompts included, after which nothing more is asked, but for what is under way; 0: no bound."""
    prices: tuple[float, ...] = bounded((), "at least 0")
    """What a million tokens of prompts cost and what a million of answers, such as (0.15, 0.6); empty: nobody counts
    it."""


def is_address(url: str) -> bool:
    """Whether a text is the address of a web server, without a user's name or a key."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # half of an IPv6 address
        return False
    if not url.isprintable() or " " in url:
        return False
    return bool(parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and not parts.query)


@dataclass(frozen=True)
class TeacherConfig(ServerConfig):
    """A server that writes transcripts in place of a model of the run. Its key comes from the environment variable
    RATCHET_TEACHER_KEY."""

    section = "teacher"
    generations: int = bounded(1, "at least 1")
    """It writes so many generations; those that were grown from them write the later ones."""


@dataclass(frozen=True)
class JudgeConfig(ServerConfig):
    """A server that answers, in all generations, the model criteria whose judge is `address` or, where the rubric has
    none, those whose judge is `self`. Its key comes from the environment variable RATCHET_JUDGE_KEY."""

    section = "judge"
