"""The choices of an answer as they come: each whole, or all of them in parts, until the client has gone."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request

from ratchet.launch.serve.answers import Piece
from ratchet.launch.serve.asked import Refused, failure

GONE = 0.5
"""Seconds between looks whether the client of an answer in one piece is still there."""


class Choice(NamedTuple):
    """One of the answers to a request, in the order in which they are listed."""

    index: int
    pieces: AsyncIterator[Piece]


async def whole(choices: Sequence[Choice]) -> list[Piece]:
    """The pieces of each choice as one."""
    found = {choice.index: Piece("", []) for choice in choices}
    async with contextlib.aclosing(merged(choices)) as pieces:
        async for index, piece in pieces:
            found[index] = found[index].then(piece)
    return [found[choice.index] for choice in choices]


async def merged(choices: Sequence[Choice]) -> AsyncIterator[tuple[int, Piece]]:
    """The pieces of all choices as they come, by the choice's index. Raises what the first choice raises that fails."""
    found: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def follow(choice: Choice) -> None:
        try:
            async with contextlib.aclosing(choice.pieces):
                async for piece in choice.pieces:
                    found.put_nowait((choice.index, piece))
            found.put_nowait((choice.index, None))
        except Exception as error:  # raised by who reads the pieces; a group of tasks would wrap it
            found.put_nowait((choice.index, error))

    tasks = [asyncio.create_task(follow(choice)) for choice in choices]
    try:
        left = len(tasks)
        while left:
            index, piece = await found.get()
            if isinstance(piece, Exception):
                raise piece
            left -= piece is None
            if piece is not None:
                yield index, piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def after(first: str, told: AsyncIterator[str]) -> AsyncIterator[str]:
    """The first event and those that follow. An error on the way is an event as well: the status has been sent."""
    async with contextlib.aclosing(told):
        yield first
        try:
            async for event in told:
                yield event
        except Refused as refused:
            yield f"data: {json.dumps(refused.body)}\n\n"
        except Exception as error:
            yield f"data: {json.dumps(failure(error).body)}\n\n"
            raise


async def unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """What comes of the work, which is given up when the client has gone."""
    task = asyncio.ensure_future(work)
    while not (await asyncio.wait({task}, timeout=GONE))[0]:
        if await request.is_disconnected():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            raise Refused("the client has gone", status=499)
    return task.result()
