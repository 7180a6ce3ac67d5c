"""What a server can do, found out by the kinds of request that a run makes, before anything is spent."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from etils import epath

from ratchet.bootstrap.progress import Progress
from ratchet.bootstrap.teacher.client import Client, Failed, ServerRefused, ServerStopped, Unaskable, checked
from ratchet.bootstrap.teacher.settings import ServerConfig
from ratchet.bootstrap.teacher.turns import offering, turned
from ratchet.train.commits import Commits
from ratchet.train.together import ALONE, Together

KNOWN = "One, two, three, four, five."
"""A text whose tokens are counted."""
_MOST_LIKELY = (20, 5, 1)
TRIES = 3
"""Times that a server which cannot be heard is asked what it can do."""
_CALL_ID = "call00000"
"""Nine letters and numerals, which are all that Mistral's templates take."""
_SCHEMA = {
    "type": "object", "properties": {"fit": {"type": "string", "enum": ["yes", "no"]}}, "required": ["fit"],
    "additionalProperties": False,
}  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """What a server showed. `likeliest` tokens come with each of its own, 0: no log-probabilities; `context` is 0 where
    it says nothing of it."""

    model: str
    context: int
    likeliest: int
    token_ids: bool
    scores_text: bool
    schemas: bool
    counts_tokens: bool
    tools: bool

    def line(self, url: str) -> str:
        """All of it in a line."""
        can = [
            f"log-probabilities ({self.likeliest} at a time)" if self.likeliest else "no log-probabilities",
            "token ids" if self.token_ids else "no token ids",
            "scoring of given text" if self.scores_text else "no scoring of given text (echo)",
            "answers kept to a schema" if self.schemas else "no schemas",
            "tools called" if self.tools else "no tools called",
            f"a context of {self.context:,} tokens" if self.context else "a context of unknown length",
            "tokens counted" if self.counts_tokens else "tokens not counted",
        ]
        return f"{self.model} at {url}: {', '.join(can)}"


def meet(
    directory: epath.Path, asked: ServerConfig, longest: int, progress: Progress, means: Callable[[Probed], str],
    together: Together = ALONE, calls: bool = False,
) -> tuple[Client, Probed]:  # fmt: skip
    """A server of a run, probed when the run first asks it; what it can do is said, with what that `means`, and kept.

    `longest` and `calls` are as of `probe`, which says what is raised; then nothing is kept.
    """
    folder = directory / asked.section
    client = Client(asked, asked.model, folder / "answers")
    met = together.decided(f"whether the {asked.section} was met", lambda: (folder / "probe.json").exists())
    ask = lambda: asdict(probe(client, longest, calls))
    learned = lambda: together.decided(f"what the {asked.section} can do", ask)
    found = Probed(**Commits(directory, together).once(folder / "probe.json", learned))
    for line in () if met else (found.line(asked.url), means(found)):
        progress.line(f"{asked.section}: {line}")
    return replace(client, model=found.model), found


def probe(client: Client, longest: int, calls: bool = False) -> Probed:
    """Asks a server a few short questions; `longest` is the tokens that a prompt and an answer of the run may take, and
    `calls` says whether it has to call tools.

    Raises ServerRefused when it does not answer, has no such model, is too short, calls no tools although it has to, or
    counts no tokens although there is a budget; ServerStopped when it is too busy.
    """
    listed = find_model(client, longest)
    client = replace(client, model=listed["id"])
    chat = _plain(client)
    try:
        answer = client.patiently("chat/completions", {**chat, "temperature": 1.0, "top_p": 1.0, "seed": 1})
        checked(answer)
    except (Failed, Unaskable) as error:
        if isinstance(error, Failed) and error.busy:
            raise _busy(client, error) from None
        raise ServerRefused(f"{client.who}: {client.config.url} does not answer a chat ({error}); see to it") from None
    found = Probed(
        model=client.model,
        context=_context(listed),
        likeliest=_likeliest(client, chat),
        token_ids=_works(client, lambda: _takes_ids(client)),
        scores_text=_works(client, lambda: _scores(client)),
        schemas=_works(client, lambda: _keeps_to_a_schema(client, chat)),
        counts_tokens=bool((answer.get("usage") or {}).get("total_tokens")),
        tools=_works(client, lambda: _calls_tools(client, chat)),
    )
    if calls and not found.tools:
        raise ServerRefused(
            f"{client.who}: {client.model} at {client.config.url} calls no tools; let the server parse calls, or start "
            "a new run with --simulate.calls 0"
        )
    if client.config.budget and not found.counts_tokens:
        raise ServerRefused(
            f"{client.who}: the server does not say how many tokens it takes; leave --{client.who}.budget at 0"
        )
    return found


def find_model(client: Client, longest: int) -> dict[str, Any]:
    """What the server lists of the model that was named, or of its only one. Raises ServerRefused where it has none
    of that name, does not answer, or reads fewer tokens than the `longest` prompt takes with its answer."""
    who, url, named = client.who, client.config.url, client.config.model
    try:
        models = {one["id"]: one for one in client.patiently("models")["data"]}
    except Failed as error:
        raise ServerRefused(f"{who}: {url} does not answer ({error}); start it, or see to --{who}.url") from None
    except (Unaskable, LookupError, TypeError):
        raise ServerRefused(f"{who}: {url} lists no models; see to --{who}.url, which ends in /v1") from None
    if named and named not in models:
        raise ServerRefused(f"{who}: {url} has no model {named!r}; set --{who}.model to {_some(models)}")
    if not named and len(models) != 1:
        raise ServerRefused(f"{who}: {url} has {len(models)} models; set --{who}.model to {_some(models)}")
    found = models[named or next(iter(models))]
    if 0 < _context(found) < longest:
        raise ServerRefused(
            f"{who}: {found['id']} reads {_context(found)} tokens, and a prompt with its answer may take {longest}; "
            "lower --model.max-length, or give the server more"
        )
    return found


def _context(listed: dict[str, Any]) -> int:
    """The tokens that a listed model reads; 0 where nothing is said of it."""
    return int(listed.get("max_model_len") or 0)


def _some(models: dict[str, Any]) -> str:
    return " or ".join(sorted(models)[:5]) or "one that it has"


def _works(client: Client, check: Callable[[], bool]) -> bool:
    """Whether a server can do something; one that refuses, or answers nonsense, cannot, and neither can one that is
    asked TRIES times, is not heard, and answers a plain question or refuses it. Raises ServerStopped when it is too
    busy to tell, or answers that neither: what is found here holds as long as the run."""
    for attempt in range(TRIES):
        try:
            return check()
        except Failed as error:
            failed = error
            if failed.busy or not failed.unheard:
                break
            if attempt + 1 < TRIES:
                client.rest(attempt, failed.wait)
        except (Unaskable, ServerRefused, LookupError, TypeError, ValueError, AttributeError):
            return False
    if failed.unheard and not failed.busy:
        try:
            with contextlib.suppress(Unaskable):
                client.ask("chat/completions", _plain(client))
            return False
        except Failed as error:
            failed = error
    if failed.unheard:
        raise _busy(client, failed)
    return False


def _plain(client: Client) -> dict[str, Any]:
    return {"model": client.model, "messages": [{"role": "user", "content": "Say: one."}], "max_tokens": 4}


def _busy(client: Client, failed: Failed) -> ServerStopped:
    why = f"{'is too busy to show' if failed.busy else 'does not show'} what it can do ({failed})"
    line = f"{client.who}: {client.config.url} {why}; the same command may be given again"
    return ServerStopped(line, f"it {why}", again=True)


def _likeliest(client: Client, chat: dict[str, Any]) -> int:
    """How many of the likeliest tokens it shows."""

    def shown(count: int) -> int:
        asked = {**chat, "logprobs": True, "top_logprobs": count}
        return len(client.patiently("chat/completions", asked)["choices"][0]["logprobs"]["content"][0]["top_logprobs"])

    return next((count for count in _MOST_LIKELY if _works(client, lambda: shown(count) == count)), 0)  # noqa: B023


def _takes_ids(client: Client) -> bool:
    """Whether token ids of a text come from the server, and may be its prompt."""
    asked = {"model": client.model, "prompt": KNOWN, "max_tokens": 1, "return_token_ids": True}
    ids = client.patiently("completions", asked)["choices"][0]["prompt_token_ids"]
    again = client.patiently("completions", {"model": client.model, "prompt": ids, "max_tokens": 1})
    return bool(ids) and again["usage"]["prompt_tokens"] == len(ids)


def _scores(client: Client) -> bool:
    """Whether `echo` brings log-probabilities of the text that was given: some servers bring those of what they say
    alone, however it is asked. So they are counted."""
    asked = {"model": client.model, "prompt": KNOWN, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    answer = client.patiently("completions", asked)
    logs = answer["choices"][0]["logprobs"]["token_logprobs"]
    return len(logs) == answer["usage"]["prompt_tokens"] + 1 and None not in logs[1:]


def _calls_tools(client: Client, chat: dict[str, Any]) -> bool:
    """Whether the model calls a tool when it is asked to, and goes on from its answer."""
    tool = {"name": "choose", "description": "Chooses what is fit.", "parameters": _SCHEMA}
    request = [{"role": "user", "content": "Call the tool choose: yes is fit."}]
    asked = {**chat, "max_tokens": 64, "temperature": 0.0, "messages": request}
    answer = client.patiently("chat/completions", asked | offering([tool], may_call=True))
    _, _, call = turned(answer)
    if not call or call[0] != "choose":
        return False
    made = {"id": _CALL_ID, "type": "function", "function": {"name": "choose", "arguments": json.dumps(call[1])}}
    since = [
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": _CALL_ID, "content": "chosen"},
    ]
    after = {"messages": [*asked["messages"], *since]}
    turned(client.patiently("chat/completions", asked | after | offering([tool], may_call=False)))
    return True


def _keeps_to_a_schema(client: Client, chat: dict[str, Any]) -> bool:
    form = {"type": "json_schema", "json_schema": {"name": "fit", "strict": True, "schema": _SCHEMA}}
    text, _ = checked(client.patiently("chat/completions", {**chat, "max_tokens": 64, "response_format": form}))
    return json.loads(text).get("fit") in ("yes", "no")
