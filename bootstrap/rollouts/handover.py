"""A generation's weights to the servers that write with them: written as safetensors, taken by each, and seen in what
it says.

A server may say that it has taken weights before it has, and one that was started anew has those that it began with. So
each is asked for the log-probabilities of a few texts. They are compared with the run's own, by these weights and by
those of every generation that was handed over before.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax import nnx

from ratchet.bootstrap.teacher.client import (
    Body,
    Client,
    Counts,
    Failed,
    ServerRefused,
    ServerStopped,
    Unaskable,
)
from ratchet.models import huggingface
from ratchet.models.decoder import DecoderConfig
from ratchet.models.scorer import Scorer, Tokens
from ratchet.train.buckets import read
from ratchet.train.checkpoint import fingerprint
from ratchet.train.files import whole, write_json
from ratchet.train.together import Together

DTYPE = "bfloat16"
"""In which the files hold the weights."""
TOLERANCE = 0.1
"""Nats that a server's log-probabilities may be from the run's own, on average: it computes in another precision."""
LEAST = -30.0
"""Where log-probabilities are cut off; some servers write any number for what is all but impossible."""
LOADING = 600.0
"""Seconds that a server may take to load weights."""


class NotReady(Exception):
    """A server cannot be asked now, and why."""


class Away(NotReady):
    """A server does not answer; it may come back by itself."""


class Taking(NamedTuple):
    """How servers of a kind are asked to take weights: requests in turn, beside /v1, in which PATH stands for the
    folder; and what to do about one that knows no such request."""

    requests: tuple[tuple[str, Body], ...]
    remedy: str


PATH = "PATH"
_FROM_DISK = ("update_weights_from_disk", {"model_path": PATH})
_RELOAD = ("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": PATH}})
TAKING = {
    "ratchet": Taking((_FROM_DISK,), "start it with --weights-from"),
    "sglang": Taking((_FROM_DISK,), "take a newer SGLang"),
    "vllm": Taking((_RELOAD, ("reset_prefix_cache", {})), "start it with VLLM_SERVER_DEV_MODE=1"),
}
"""By what a server lists as the owner of its model."""


@dataclass(frozen=True)
class Handover:
    """The weights of a generation, which servers are to write with: their fingerprint, where the servers see them, and
    how many tokens a prompt and its answer may take.

    `known` are the run's own log-probabilities of the texts, by the fingerprint of the weights.
    """

    weights: str
    folder: str
    longest: int
    texts: tuple[Tokens, ...]
    known: Mapping[str, Sequence[Sequence[float]]]

    def give(self, client: Client) -> Client:
        """Has a server take the weights unless it has them; returns its client with the name of its model. Raises
        Away when it does not answer, NotReady when it cannot take them or answers by others all the same."""
        try:
            named, owner = self._met(client)
            if self.strange(named):
                self._have_it_take(named, owner)
                named, _ = self._met(client)
            why = self.strange(named)
        except ServerStopped as stopped:
            raise Away(stopped.reason) from None
        except Failed as failed:
            raise Away(str(failed)) from None
        except (Unaskable, ServerRefused) as error:
            raise NotReady(str(error)) from None
        if why:
            raise NotReady(why)
        return named

    def strange(self, client: Client) -> str:
        """Why a server's answers are not those of these weights; "" where they are. Raises what `Client.answers`
        raises."""
        asked = {"model": client.model, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        bodies = [{**asked, "prompt": list(text)} for text in self.texts]
        answers = replace(client, counts=Counts()).answers(bodies, lambda done: None, _logs)
        heard = [(answer or [])[1 : len(text)] for answer, text in zip(answers, self.texts, strict=True)]
        if any(len(one) < len(text) - 1 or None in one for one, text in zip(heard, self.texts, strict=True)):
            return "it gives no log-probabilities of given text (echo)"
        away = {weights: _distance(heard, own) for weights, own in self.known.items()}
        nearest = min(away, key=away.get)
        if nearest != self.weights and away[nearest] <= TOLERANCE:
            return "it answers by the weights of an earlier generation"
        if away[self.weights] > TOLERANCE:
            return f"its log-probabilities are {away[self.weights]:.2f} nats a token from those of the run's own model"
        return ""

    def _met(self, client: Client) -> tuple[Client, str]:
        """The client with the name of the server's model, the first that it lists, and its owner's name."""
        try:
            first = client.ask("models")["data"][0]
            named, owner, room = first["id"], str(first.get("owned_by")), int(first.get("max_model_len") or 0)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise Failed("it lists no models") from None
        if 0 < room < self.longest:
            raise NotReady(f"it reads {room} tokens, and a prompt with its answer may take {self.longest}")
        return replace(client, model=named), owner

    def _have_it_take(self, client: Client, owner: str) -> None:
        if owner not in TAKING:
            raise NotReady(f"its model is owned by {owner}, and weights go to {', '.join(TAKING)} alone")
        patient, beside = replace(client, patience=LOADING), client.config.url.rstrip("/").removesuffix("/v1")
        for path, body in TAKING[owner].requests:
            try:
                patient.tell(f"{beside}/{path}", _filled_in(body, self.folder))
            except ServerRefused:
                raise NotReady(f"it takes no weights by /{path}; {TAKING[owner].remedy}") from None


def hand_over(
    place: epath.Path, seen: str, number: int, params: nnx.State, model: DecoderConfig,
    own: tuple[Scorer, Sequence[Tokens]], together: Together,
) -> Handover:  # fmt: skip
    """Writes a generation's weights for servers into the directory `place`, which they see as `seen`, unless they lie
    there; weights of other generations are removed. `own` reads the texts by which the weights are known.

    All processes call it alike. Raises FolderError when no server knows such a model.
    """
    weights = fingerprint(params)
    name, (scorer, texts) = f"gen-{number:03d}-{weights[:8]}", own
    logs = place / "logs" / f"{weights}.json"
    there = lambda: _kept(logs) is not None and (place / name).exists()
    if not together.decided("whether the servers' weights are there", there):
        for old in place.glob("gen-*") if together.first else ():
            old.rmtree()
        with whole(place / name) if together.first else tempfile.TemporaryDirectory() as folder:
            huggingface.save(epath.Path(folder), model, params, DTYPE)
        found = [of.own[:-1].tolist() for of in scorer.logs(params, texts, 1)]
        together.decided("that the servers' weights are there", lambda: write_json(logs, found))
    read_all = lambda: {file.stem: of for file in (place / "logs").glob("*.json") if (of := _kept(file)) is not None}
    known = together.decided("what weights are known", read_all)
    return Handover(weights, f"{seen}/{name}", model.max_length, tuple(texts), known)


def _kept(file: epath.Path) -> list[list[float]] | None:
    """The log-probabilities that some weights give to the texts; None where the file is missing or damaged."""
    try:
        found = json.loads(read(file))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(of, list) for of in found) else None


def _filled_in(body: Body, folder: str) -> Body:
    """A request with a folder in place of PATH."""
    given = {name: _filled_in(value, folder) if isinstance(value, Mapping) else value for name, value in body.items()}
    return {name: folder if value == PATH else value for name, value in given.items()}


def _logs(answer: Any) -> list[float | None]:
    """The log-probabilities of a completion's tokens, the prompt's first. Raises Failed for what is no answer."""
    try:
        return [*answer["choices"][0]["logprobs"]["token_logprobs"]]
    except (LookupError, TypeError):
        raise Failed("no log-probabilities") from None


def _distance(heard: Sequence[Sequence[float]], own: Sequence[Sequence[float]]) -> float:
    """How far log-probabilities are from others, in nats a token."""
    one, other = (np.maximum(np.concatenate([np.array(text, float) for text in of]), LEAST) for of in (heard, own))
    return float(np.abs(one - other).mean())
