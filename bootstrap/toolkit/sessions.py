"""What MCP servers offer, and how they are asked. A session lasts for the calls of one turn of many transcripts: a
server that is started by a command begins anew for each, and one that is gone is looked for again."""

import contextlib
import json
import math
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cached_property
from typing import IO, Any

from ratchet.bootstrap.toolkit.servers import Server, read_servers
from ratchet.bootstrap.toolkit.source import Answered, Asked, Listed
from ratchet.bootstrap.worlds.world import content_id
from ratchet.models.extras import installing
from ratchet.models.grammar import refusal

STARTING = 60.0
"""Seconds that a server may take to start, then to say what it offers, and to end its session."""
FAILURES = 3
"""Times in a row that a server may be silent or gone; then it is not asked again in this turn."""
PAGES = 100
"""Parts of a list of tools that are asked for at most."""
LONGEST_DESCRIPTION = 1000
LONGEST_REASON = 200


class Sessions:
    """The tools of MCP servers that a YAML file names; `listed` is what `list_tools` found there."""

    def __init__(self, path: str, listed: Listed):
        self._path, self._listed = path, listed
        self._server_of = {tool["name"]: server for server, of in listed.items() for tool in of["tools"]}

    @property
    def described(self) -> list[Mapping[str, Any]]:
        return [tool for of in self._listed.values() for tool in of["tools"]]

    def answers(self, asked: Sequence[Asked]) -> list[Answered]:
        found: dict[int, Answered] = {}
        for name in self._listed:
            mine = [at for at, one in enumerate(asked) if self._server_of[one.name] == name]
            if mine:
                said = _within_a_loop(_Turn(self._servers[name], [asked[at] for at in mine]).answers)
                found |= dict(zip(mine, said, strict=True))
        return [found[at] for at in range(len(asked))]

    @cached_property
    def _servers(self) -> dict[str, Server]:
        return {server.name: server for server in read_servers(self._path)}


def list_tools(path: str) -> dict[str, dict[str, Any]]:
    """What may be called of the servers in a YAML file. Raises ValueError for a server that does not start, for a tool
    that it does not have, and for one whose arguments are no object or no grammar can be kept to."""
    try:
        import mcp  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"simulate.mcp: it needs the library mcp; {installing('tools')}") from error
    return {s.name: {"command": content_id(s.command), "tools": _listed(s)} for s in read_servers(path)}


def _listed(server: Server) -> list[dict[str, Any]]:
    server.secrets()
    try:
        found = {tool.name: tool for tool in _within_a_loop(lambda: _list(server))}
    except Exception as error:  # of whatever kind: it is the server's
        raise ValueError(
            f"simulate.mcp: {server.name} does not start ({_reason(server, error)}); see to its "
            f"{'url' if server.url else 'command'}"
        ) from error
    if missing := [name for name in server.allow if name not in found]:
        there = ", ".join(found) or "none"
        raise ValueError(f"simulate.mcp: {server.name} has no tool {missing[0]}; there are: {there}")
    return [_described(server, found[name]) for name in dict.fromkeys(server.allow)]


def _described(server: Server, tool: Any) -> dict[str, Any]:
    """A tool as chat templates describe it, which takes no other arguments than those that it names."""
    parameters = {"type": "object", "properties": {}, **tool.input_schema, "additionalProperties": False}
    parameters.pop("$schema", None)
    if parameters["type"] != "object":
        raise ValueError(
            f"simulate.mcp: {server.name}: what {tool.name} takes is no object (its type is {parameters['type']!r}); "
            "leave it out of allow"
        )
    if why := refusal(parameters):
        shared = {name: parameters[name] for name in ("$defs", "definitions") if name in parameters}
        fields = (name for name, schema in parameters["properties"].items() if refusal({**schema, **shared}))
        of = next((f", field {name}" for name in fields), "")
        raise ValueError(
            f"simulate.mcp: {server.name}: what {tool.name} takes cannot be kept to by a grammar{of} ({why}); leave it "
            "out of allow"
        )
    description = " ".join((tool.description or tool.name).split())[:LONGEST_DESCRIPTION]
    return {"name": tool.name, "description": description, "parameters": parameters}


async def _list(server: Server) -> list[Any]:
    import anyio

    found, cursor = [], None
    async with _open(server) as client:
        with anyio.move_on_after(STARTING) as listing:
            for _ in range(PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if cursor is None:
                    break
        if listing.cancelled_caught:
            raise TimeoutError(f"no list of its tools within {STARTING:g} seconds")
    return found


class _Gone(Exception):
    """A server has ended its session."""


class _Turn:
    """Some calls of one server. What is under way when it ends is not asked again: that may be why it ended."""

    def __init__(self, server: Server, asked: Sequence[Asked]):
        self._server, self._asked = server, asked
        self._waiting, self._found = deque(range(len(asked))), {}
        self._failures, self._why = 0, ""

    async def answers(self) -> list[Answered]:
        while self._waiting and self._failures < FAILURES:
            try:
                async with _open(self._server) as client:
                    await self._ask_all(client)
            except Exception as error:  # of whatever kind: it is the server's, and the answers say so
                self._failed(_reason(self._server, error))
        silent = Answered(f"{self._server.name} does not answer ({self._why})", 0.0)
        return [self._found.get(at, silent) for at in range(len(self._asked))]

    def _failed(self, why: str) -> None:
        self._failures, self._why = self._failures + 1, why

    async def _ask_all(self, client: Any) -> None:
        """Asks what waits, as long as the session lasts. Raises _Gone when it ends before."""
        import anyio

        gone: list[str] = []

        async def work() -> None:
            while self._waiting and not gone and self._failures < FAILURES:
                at = self._waiting.popleft()
                began = anyio.current_time()
                try:
                    text = await self._ask(client, self._asked[at])
                except _Gone as error:
                    gone.append(str(error))
                    text = f"{self._server.name} has ended before it answered ({error})"
                self._found[at] = Answered(self._server.without_secrets(text), anyio.current_time() - began)

        async with anyio.create_task_group() as group:
            for _ in range(self._server.concurrency):
                group.start_soon(work)
        if gone:
            raise _Gone(gone[0])

    async def _ask(self, client: Any, asked: Asked) -> str:
        import anyio
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        seconds = min(self._server.timeout, asked.seconds)
        try:
            with anyio.fail_after(seconds):
                text = _text(await client.call_tool(asked.name, dict(asked.arguments)))
        except TimeoutError:
            text = f"{self._server.name} has not answered within {seconds:g} seconds"
            if seconds == self._server.timeout:
                self._failed(text)
            return text
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise _Gone(_reason(self._server, error)) from error
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise _Gone(_reason(self._server, error)) from error
            return f"error: {_reason(self._server, error)}"
        except Exception as error:  # an answer that is none, which the library has many words for
            return f"error: {_reason(self._server, error)}"
        self._failures = 0
        return text


def _text(result: Any) -> str:
    """What a tool says, in words; what is none is named by its kind."""
    parts = [_part(one) for one in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    said = "\n".join(parts) or "nothing is said"
    return f"error: {said}" if result.is_error else said


def _part(content: Any) -> str:
    if content.type == "text":
        return content.text
    if content.type == "resource":
        return getattr(content.resource, "text", f"({content.resource.uri})")
    return f"({content.uri})" if content.type == "resource_link" else f"({content.type})"


@contextlib.asynccontextmanager
async def _open(server: Server) -> AsyncIterator[Any]:
    """A session with a server. Raises TimeoutError when it has not begun in time, and whatever else it does not begin
    for; what a command then says on standard error is added to that. Nobody waits for one that does not end."""
    import anyio
    from mcp import Client

    begun = False
    with tempfile.TemporaryFile("w+") as words:
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + STARTING) as waiting:
                async with _transport(server, words) as transport, Client(transport) as client:
                    begun, waiting.deadline = True, math.inf
                    try:
                        yield client
                    finally:
                        waiting.deadline = anyio.current_time() + STARTING
        except Exception as error:
            words.seek(0)
            if last := " ".join(server.without_secrets(words.read())[-LONGEST_REASON:].split()):
                error.add_note(last)
            raise
        if waiting.cancelled_caught and not begun:
            raise TimeoutError(f"nothing within {STARTING:g} seconds")


@contextlib.asynccontextmanager
async def _transport(server: Server, words: IO[str]) -> AsyncIterator[Any]:
    import httpx2
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    secrets = server.secrets()
    if server.command:
        program, *more = server.command
        yield stdio_client(StdioServerParameters(command=program, args=more, env=secrets), errlog=words)
        return
    token = secrets[server.token].strip() if server.token else ""
    if not (token.isascii() and token.isprintable()):  # it would stand in the error of whoever makes a header of it
        raise ValueError(f"{server.token} holds what no token can hold; set it again")
    headers = {"Authorization": f"Bearer {token}"} if server.token else {}
    async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(STARTING, read=None)) as client:
        yield streamable_http_client(server.url, http_client=client)


def _within_a_loop(function: Callable[[], Any]) -> Any:
    """What an asynchronous function returns, in a thread of its own: a signal that ends this one ends it too."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        return portal.call(function)


def _reason(server: Server, error: BaseException) -> str:
    """What an error says, in a line: of several that came together the first, and what the server said last."""
    notes = getattr(error, "__notes__", [])
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
        notes = notes or getattr(error, "__notes__", [])
    said = " ".join(f"{error or type(error).__name__}{': ' if notes else ''}{' '.join(notes)}".split())
    return server.without_secrets(said)[:LONGEST_REASON]
