"""A server in a thread of its own, for programs that ask it and go on."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from ratchet.launch.serve.app import Server
from ratchet.launch.serve.desk import Desk
from ratchet.launch.serve.served import Served

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
"""Names of this machine to itself."""


@contextlib.contextmanager
def answering(served: Served, weights: Path | None = None) -> Iterator[str]:
    """Serves a model on a free port of this machine, which alone can reach it. Other `weights` are taken from below
    this folder. Yields its address, without /v1."""
    with Desk(served) as desk:
        app = Server(desk, weights).app(LOOPBACK)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, name="server")
        thread.start()
        try:
            while not server.started and thread.is_alive():
                thread.join(0.01)
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
