"""The choices of an answer, followed side by side, whether or not one fails or the client stops listening."""

import asyncio
import contextlib
import json

import pytest

from ratchet.launch.serve.answers import Piece
from ratchet.launch.serve.asked import Refused
from ratchet.launch.serve.streams import Choice, after, merged, unless_gone, whole


async def endless(number, ended):
    """Pieces of an answer that never ends; says in `ended` that nobody listens any more."""
    try:
        while True:
            yield Piece("more", [])
            await asyncio.sleep(0)
    finally:
        ended.append(number)


def test_whoever_stops_listening_ends_all_that_is_said_and_hears_of_no_error():
    async def listen():
        async with contextlib.aclosing(merged([Choice(n, endless(n, ended)) for n in range(2)])) as pieces:
            assert await anext(pieces) == (0, Piece("more", []))

    ended = []
    asyncio.run(listen())
    assert sorted(ended) == [0, 1]


def test_where_one_of_several_answers_fails_the_others_are_given_up():
    async def failing():
        await asyncio.sleep(0)
        yield Piece("a", [])
        raise Refused("no more")

    ended = []
    with pytest.raises(Refused, match="no more"):
        asyncio.run(whole([Choice(0, endless(0, ended)), Choice(1, failing())]))
    assert ended == [0]


def test_what_is_refused_after_the_first_event_is_the_last_event():
    async def events():
        yield "data: {}\n\n"
        raise Refused("no more", code="overloaded", status=503)

    async def told():
        made = events()
        return [event async for event in after(await anext(made), made)]

    first, last = asyncio.run(told())
    assert first == "data: {}\n\n"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "overloaded"


def test_what_is_begun_for_a_client_that_has_gone_is_given_up():
    """Also the first event of a stream, before which nobody else looks."""

    class Gone:
        async def is_disconnected(self):
            return True

    async def silent():
        try:
            await asyncio.Event().wait()
            yield "never"
        finally:
            ended.append(1)

    ended = []
    with pytest.raises(Refused, match="the client has gone"):
        asyncio.run(unless_gone(Gone(), anext(silent())))
    assert ended == [1]
