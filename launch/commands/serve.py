"""`serve`: a model behind OpenAI's web API."""

import contextlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ratchet.launch import api
from ratchet.launch.lines import UserError, tell
from ratchet.launch.options import AsLine, described, located, needed_for, parse
from ratchet.launch.output import quiet

if TYPE_CHECKING:
    from ratchet.launch.serve.served import Served

FOR_WHAT_IS_BEGUN = 10
"""Seconds that answers under way have after Ctrl-C or SIGTERM."""
Directory = described(
    tyro.conf.Positional[str], "the directory of a run, such as runs/lessons, unless there is a --base", metavar="DIR"
)
Number = described(int | None, "generation to serve", metavar="N", help_behavior_hint="(default: the newest promoted)")


@dataclass(frozen=True)
class Serve:
    """Answers OpenAI's web API: chat, which calls tools where the model's chat template does, and completions, streamed
    or whole, log-probabilities of given text (echo), token ids as prompts; /tokenize, /detokenize and /tokenizer_info
    as vLLM has them. All with and without /v1."""

    directory: Directory = ""
    generation: Number = None
    base: str = ""
    """A model to serve in place of a run: a Hugging Face folder, a GGUF file, or smollm2."""
    host: str = "127.0.0.1"
    """The address to listen on. Whoever reaches it may use the model: there are no keys."""
    port: int = 8000
    """0: any that is free."""
    slots: int = 16
    """Requests that are sampled, and texts that are scored, at a time."""
    context: int = 0
    """Tokens of a prompt and its answer together; 0: as many as the model has, up to 4096."""
    weights_from: str = ""
    """Takes other weights of --base from folders below this one, on a disk, by SGLang's /update_weights_from_disk;
    empty: from nowhere. So a run gives its weights to servers that write for it (--rollouts.url)."""
    json: AsLine = False


def serve(words: list[str]) -> int:
    asked = parse("serve", Serve, words)
    if bool(asked.directory) == bool(asked.base):
        raise UserError("serve: give DIR, the directory of a run, or --base MODEL, and not both")
    if asked.base and asked.generation is not None:
        raise UserError("serve: --generation is of a run, and --base has none")
    if asked.weights_from and not asked.base:
        raise UserError("serve: --weights-from is for a model that is served with --base")
    needed_for("serve", "serve", "starlette", "uvicorn")
    import uvicorn

    from ratchet.launch.serve.app import Server
    from ratchet.launch.serve.desk import Desk
    from ratchet.launch.serve.ending import answer
    from ratchet.launch.serve.listening import LOOPBACK

    quiet()
    with contextlib.closing(listening("serve", asked.host, asked.port)) as listener, Desk(_served(asked)) as desk:
        host = f"[{asked.host}]" if ":" in asked.host else asked.host
        address = f"http://{host}:{listener.getsockname()[1]}/v1"
        if asked.json:
            print(json.dumps({"url": address, "model": desk.served.name}), flush=True)
        else:
            tell(f"serving {desk.served.name} on {address}; Ctrl-C ends it")
        names = LOOPBACK if asked.host in LOOPBACK else ("*",)
        weights = Path(asked.weights_from) if asked.weights_from else None
        app, seconds = Server(desk, weights).app(names), FOR_WHAT_IS_BEGUN
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=seconds
        )
        return answer(config, listener)


def _served(asked: Serve) -> "Served":
    from ratchet.launch.serve import served

    if asked.base:
        return served.of_base(asked.base, asked.slots, asked.context)
    return served.of_run(api.load(located(asked.directory), asked.generation), asked.slots, asked.context)


def listening(command: str, host: str, port: int) -> socket.socket:
    """A socket that listens on this address, for whoever will answer there. Raises UserError, before a model is read,
    where the address cannot be had; port 0 is any that is free."""
    try:
        if not 0 <= port < 2**16:
            raise OverflowError("there is no such port")
        return _bound(*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0])
    except (OSError, OverflowError) as error:
        another = "--host or --port" if command == "serve" else "--port"
        raise UserError(f"{command}: cannot listen on {host}:{port} ({error}); give another {another}") from None


def _bound(family: int, kind: int, protocol: int, _: str, address: tuple) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # until then, another process may bind the address as well
    except OSError:
        listener.close()
        raise
    return listener
