"""Connections to a server, over which every question has a time in all: a server that says a letter now and then is
never silent, and never done."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any


class Connection:
    """A client of the library `openai` in an event loop, which runs in a thread of its own until nobody holds this any
    more. What is waited for there can be given up, wherever it is."""

    def __init__(self, make: Callable[[], Any]):
        self._server, self._loop = make(), asyncio.new_event_loop()
        threading.Thread(target=_serve, args=(self._loop, self._server), name="connection", daemon=True).start()
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    def answer(self, path: str, body: Mapping[str, Any] | None, seconds: float) -> str:
        """The text of an answer; a question without a body is a GET. Raises TimeoutError when it is not whole after so
        many seconds, and what the library raises."""

        async def wait() -> str:
            async with asyncio.timeout(seconds):
                if body is None:
                    return await self._server.get(path, cast_to=str)
                return await self._server.post(path, cast_to=str, body=dict(body))

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()


def _serve(loop: asyncio.AbstractEventLoop, server: Any) -> None:
    loop.run_forever()
    loop.run_until_complete(server.close())
    loop.close()
