"""The routes of the server: OpenAI's, those for tokens that vLLM has beside them, with and without /v1, and the one by
which SGLang takes other weights."""

import asyncio
import contextlib
import functools
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ratchet.bootstrap.worlds.world import content_id
from ratchet.launch.serve import answers, asked, calls
from ratchet.launch.serve.answers import Piece
from ratchet.launch.serve.asked import (
    Chat,
    Completion,
    Detokenize,
    Message,
    NewWeights,
    Refused,
    Sampling,
    Tokenize,
    Tool,
)
from ratchet.launch.serve.calls import Offers
from ratchet.launch.serve.desk import MOST_WAITING, Desk
from ratchet.launch.serve.served import Served
from ratchet.launch.serve.streams import Choice, after, merged, unless_gone, whole
from ratchet.launch.serve.words import spelled
from ratchet.models.architectures import FolderError
from ratchet.models.draw import Warp
from ratchet.models.grammar import Grammar
from ratchet.models.rounds import Asked
from ratchet.models.sampler import Request as Sample

GRAMMARS = 64
"""Schemas whose grammars are kept compiled."""
LEAST_MASS = 1e-6
"""What `top_p` is at least: float32 has nothing between 0 and a smaller one."""


class Form(NamedTuple):
    """How one kind of answer is written: the beginning of its id, its object's name whole and in parts, and the JSON of
    a choice whole and in parts, from its index, its pieces and whether it has only begun."""

    id: str
    whole: str
    part: str
    choice: Callable[[int, Piece], dict[str, Any]]
    delta: Callable[[int, Piece, bool], dict[str, Any]]


class Server:
    """Answers requests about the model of a desk. Other weights are taken from folders below `weights`; None: none."""

    def __init__(self, desk: Desk, weights: Path | None = None):
        self._desk, self._weights = desk, weights
        self._compiled, self._offers = functools.lru_cache(GRAMMARS)(self._compile), Offers(lambda: desk.served)

    @property
    def _served(self) -> Served:
        return self._desk.served

    def app(self, hosts: Sequence[str] = ("*",)) -> Starlette:
        """The web application, which answers those alone who call it by one of these names: a page in a browser could
        else have a name of its own lead to a server that listens on loopback."""
        posts = {
            "completions": self.completions, "chat/completions": self.chat,
            "tokenize": self.tokenize, "detokenize": self.detokenize,
        }  # fmt: skip
        gets = {"models": self.models, "models/{name:path}": self.model, "tokenizer_info": self.tokenizer_info}
        routes = [Route("/health", lambda request: Response(), methods=["GET"])]
        for methods, table in ((["POST"], posts), (["GET"], gets)):
            routes += [Route(f"{at}/{path}", to, methods=methods) for path, to in table.items() for at in ("", "/v1")]
        if self._weights:
            routes.append(Route("/update_weights_from_disk", self.update_weights, methods=["POST"]))
        handlers = {Refused: _refuse, HTTPException: _refuse_route, Exception: _fail}
        trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
        return Starlette(routes=routes, exception_handlers=handlers, middleware=[trusted])

    async def completions(self, request: Request) -> Response:
        body = await self._read(Completion, request)
        if (asked_for := len(body.prompts) * body.n) > MOST_WAITING:
            raise Refused(f"prompt: these are {asked_for:,} answers; ask for at most {MOST_WAITING:,}", param="prompt")
        prompts = [self._prompt(prompt, body.add_special_tokens) for prompt in body.prompts]
        insists = "max_tokens" in body.model_fields_set
        rooms = [self._room(ids, body.max_tokens, insists, "prompt") for ids, _ in prompts]
        choices = [
            Choice(place * body.n + number, self._completed(body, ids, text, room, number))
            for place, ((ids, text), room) in enumerate(zip(prompts, rooms, strict=True))
            for number in range(body.n)
        ]

        def choice(index: int, piece: Piece, begins: bool = True) -> dict[str, Any]:
            logs = None if body.logprobs is None else answers.legacy(self._served, piece.words, body.logprobs)
            made = {"index": index, "text": piece.text, "logprobs": logs, "finish_reason": piece.finish}
            if body.return_token_ids:
                prompt = prompts[index // body.n][0]
                said = piece.words[len(prompt) if body.echo and begins else 0 :]
                made |= {"prompt_token_ids": list(prompt)} if begins else {}
                made |= {"token_ids": [word.id for word in said]}
            return made

        form = Form("cmpl", "text_completion", "text_completion", choice, choice)
        echoed = body.n if body.echo else 0
        return await self._answer(request, body, form, choices, sum(len(ids) for ids, _ in prompts), echoed)

    async def _completed(
        self, body: Completion, prompt: tuple[int, ...], text: str, room: int, number: int
    ) -> AsyncIterator[Piece]:
        """A choice of a completion: the prompt where it is echoed, then what goes on."""
        logs = None
        if body.echo:
            logs = None if body.logprobs is None else await self._desk.logs(prompt)
            yield Piece(text, answers.given(self._served, prompt, text, logs), None if room else "length")
        if room == 1 and body.temperature == 0 and logs is not None and not body.stops:
            yield answers.likeliest(self._served, logs, len(text))
        elif room:
            sample = self._asked(body, prompt, room, number)
            before = len(text) if body.echo else 0
            async for piece in answers.sampled(self._served, self._desk, sample, body.stops, before=before):
                yield piece
        elif not body.echo:
            yield Piece("", [], "length")

    async def chat(self, request: Request) -> Response:
        body = await self._read(Chat, request)
        grammar, offer = self._grammar(body), self._offers.of(body)
        prompt = self._rendered(body.messages, body.tools)
        longest = body.max_completion_tokens or body.max_tokens
        room = self._room(prompt, longest or self._served.context, longest is not None, "messages")

        def chatted(number: int) -> AsyncIterator[Piece]:
            def ask(said: tuple[int, ...], grammar: Grammar | None) -> Asked:
                return self._asked(body, prompt + said, room - len(said), number, grammar)

            if offer:
                return calls.answered(self._served, self._desk, ask, offer, body.stops)
            return answers.sampled(self._served, self._desk, ask((), grammar), body.stops)

        choices = [Choice(n, _from_its_first_word(chatted(n))) for n in range(body.n)]

        def logs(piece: Piece) -> dict[str, Any] | None:
            return answers.listed(self._served, piece.words, body.top_logprobs) if body.logprobs else None

        def made(index: int, piece: Piece, said: dict[str, Any]) -> dict[str, Any]:
            ids = {"token_ids": [word.id for word in piece.words]} if body.return_token_ids else {}
            return {"index": index, **said, "logprobs": logs(piece), "finish_reason": piece.finish, **ids}

        def choice(index: int, piece: Piece) -> dict[str, Any]:
            return made(index, piece, {"message": answers.message(piece)})

        def delta(index: int, piece: Piece, begins: bool) -> dict[str, Any]:
            return made(index, piece, {"delta": answers.delta(piece, begins)})

        form = Form("chatcmpl", "chat.completion", "chat.completion.chunk", choice, delta)
        return await self._answer(request, body, form, choices, len(prompt), 0)

    async def tokenize(self, request: Request) -> Response:
        body = asked.read(Tokenize, await _json(request))
        self._check_name(body.model or self._served.name)
        if (body.prompt is None) == (body.messages is None):
            raise Refused("give either prompt or messages", param="prompt")
        if body.prompt is not None:
            tokens = self._whole(body.prompt, body.add_special_tokens)
        else:
            tokens = self._rendered(body.messages, body.tools)
        names = [spelled(self._served.tokenizer, token) for token in tokens] if body.return_token_strs else None
        count = {"count": len(tokens), "max_model_len": self._served.context}
        return JSONResponse({**count, "tokens": list(tokens), "token_strs": names})

    async def detokenize(self, request: Request) -> Response:
        body = asked.read(Detokenize, await _json(request))
        self._check_name(body.model or self._served.name)
        self._check_ids(body.tokens, "tokens")
        return JSONResponse({"prompt": self._served.tokenizer.decode(body.tokens, special=True)})

    async def update_weights(self, request: Request) -> Response:
        """Takes other weights of the model once the answers under way have ended."""
        named = asked.read(NewWeights, await _json(request)).model_path
        try:
            place = Path(named).resolve()
        except (ValueError, OSError) as error:
            raise Refused(f"model_path: {error}", param="model_path") from error
        if not place.is_relative_to(self._weights.resolve()):
            raise Refused(f"model_path: {named} does not lie in {self._weights}", param="model_path", status=403)
        try:
            weights = await asyncio.to_thread(self._served.other, epath.Path(place))
        except (FolderError, OSError) as error:
            return JSONResponse({"success": False, "message": str(error)}, status_code=400)
        await self._desk.change(weights)
        return JSONResponse({"success": True, "message": f"these are the weights of {named}"})

    async def tokenizer_info(self, request: Request) -> Response:
        sizes = {"vocab_size": self._served.tokenizer.vocab_size, "model_max_length": self._served.context}
        return JSONResponse({**self._served.described, **sizes})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return JSONResponse(self._described())

    def _described(self) -> dict[str, Any]:
        s = self._served
        return {
            "id": s.name, "object": "model", "created": s.created, "owned_by": "ratchet", "max_model_len": s.context
        }  # fmt: skip

    async def _read(self, kind: type[asked.Body], request: Request) -> asked.Body:
        body = asked.read(kind, await _json(request))
        self._check_name(body.model)
        if body.best_of not in (None, body.n):
            raise Refused("best_of: this server has none; leave it out", param="best_of")
        if other := [i for i in body.stop_token_ids if i not in self._served.ends]:
            ends = " or ".join(map(str, self._served.ends))
            raise Refused(f"stop_token_ids: {other[0]} ends nothing here; give {ends}", param="stop_token_ids")
        return body

    def _check_name(self, name: str) -> None:
        if name != self._served.name:
            raise Refused(
                f"the model {name!r} does not exist; this server has {self._served.name!r}",
                param="model", code="model_not_found", status=404,
            )  # fmt: skip

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        if wrong := [i for i in ids if i >= self._served.vocab_size]:
            raise Refused(f"{param}: {wrong[0]} is no id; the model has {self._served.vocab_size:,}", param=param)

    def _prompt(self, prompt: str | Sequence[int], begins: bool) -> tuple[tuple[int, ...], str]:
        """The ids and the text of a prompt, whichever was given."""
        tokenizer = self._served.tokenizer
        text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt, special=True)
        ids = self._whole(prompt, begins) if isinstance(prompt, str) else prompt
        self._check_ids(ids, "prompt")
        if not ids:
            raise Refused("prompt: it has no tokens, and a model goes on from one at least", param="prompt")
        return tuple(ids), text

    def _whole(self, text: str, begins: bool) -> list[int]:
        """The ids of a text. Raises Refused for half a letter, which no tokenizer can spell."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Refused(f"prompt: there is half a letter at {error.start}; send it whole", param="prompt") from None
        return self._served.tokenizer.whole(text, begins)

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """The ids of a conversation with an open turn. Raises Refused where the template refuses the messages."""
        try:
            given, offered = [message.plain() for message in messages], [tool.plain() for tool in tools]
            return tuple(self._served.tokenizer.render(given, tools=offered))
        except (ValueError, RecursionError) as error:
            raise Refused(f"messages: {error}", param="messages") from error

    def _room(self, prompt: Sequence[int], longest: int, insists: bool, param: str) -> int:
        """Tokens that may be said after a prompt: as many as were asked for or, unless the client `insists`, as there
        is room for. Raises Refused where there is none."""
        context, wanted = self._served.context, longest if insists else min(longest, 1)
        if len(prompt) + wanted > context:
            raise Refused(
                f"this model's maximum context length is {context} tokens; the prompt has {len(prompt)} and the answer "
                f"may have {longest}; shorten the prompt or lower max_tokens",
                param=param, code="context_length_exceeded",
            )  # fmt: skip
        return min(longest, context - len(prompt))

    def _asked(
        self, body: Sampling, prompt: tuple[int, ...], room: int, number: int, grammar: Grammar | None = None
    ) -> Asked:
        """A choice's request: with a seed, the same prompt gives the same answer whatever else is asked meanwhile."""
        seed = secrets.randbits(32) if body.seed is None else body.seed % 2**32
        named = content_id(prompt, number) if number else content_id(prompt)
        top_k = min(max(body.top_k, 0), self._served.vocab_size)
        warp = Warp(body.temperature, top_k, max(body.top_p, LEAST_MASS), body.min_p)
        return Asked(Sample(int(named[:8], 16), prompt, grammar), seed, room, warp)

    def _grammar(self, body: Chat) -> Grammar | None:
        """What an answer is kept to; None where it is free. Raises Refused for a schema that cannot be kept to."""
        schema = body.response_format.schema_of
        try:
            return None if schema is None else self._compiled(json.dumps(schema))
        except ValueError as error:
            raise Refused(f"response_format: {error}", param="response_format") from error

    def _compile(self, schema: str) -> Grammar:
        return Grammar.of_json(json.loads(schema), self._served.tokenizer.spelled())

    async def _answer(
        self, request: Request, body: Sampling, form: Form, choices: Sequence[Choice], read: int, echoed: int
    ) -> Response:
        """All choices in one JSON object, or as they come. `read` counts the tokens of all prompts, `echoed` says how
        many times they stand before the answers."""
        head = {"id": f"{form.id}-{secrets.token_hex(12)}", "created": int(time.time()), "model": self._served.name}

        def used(words: int) -> dict[str, int]:
            said = words - echoed * read
            return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}

        if body.stream:
            told = self._events(body, form, head, choices, used)
            # What goes wrong before anything is said has a status of its own.
            first = await unless_gone(request, anext(told))
            return StreamingResponse(after(first, told), media_type="text/event-stream")
        pieces = await unless_gone(request, whole(choices))
        made = [form.choice(c.index, piece) for c, piece in zip(choices, pieces, strict=True)]
        usage = used(sum(len(piece.words) for piece in pieces))
        return JSONResponse({**head, "object": form.whole, "choices": made, "usage": usage})

    async def _events(
        self, body: Sampling, form: Form, head: dict[str, Any], choices: Sequence[Choice],
        used: Callable[[int], dict[str, int]],
    ) -> AsyncIterator[str]:  # fmt: skip
        """Server-sent events: a piece of a choice each, the usage if it is asked for, and the end."""
        begun, words, usage = set(), 0, {"usage": None} if body.stream_options.include_usage else {}
        event = lambda made: f"data: {json.dumps({**head, 'object': form.part, **made})}\n\n"
        async with contextlib.aclosing(merged(choices)) as pieces:
            async for index, piece in pieces:
                words += len(piece.words)
                yield event({"choices": [form.delta(index, piece, index not in begun)], **usage})
                begun.add(index)
        if usage:
            yield event({"choices": [], "usage": used(words)})
        yield "data: [DONE]\n\n"


async def _from_its_first_word(pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    """A choice of a chat, without the space that tokenizers like to begin a word with."""
    begun = False
    async for piece in pieces:
        text = piece.text if begun else piece.text.removeprefix(" ")
        begun = begun or bool(piece.text)
        yield piece._replace(text=text)


async def _json(request: Request) -> Any:
    """The body of a request, which no page of another site may send: browsers say where a request comes from."""
    origin = request.headers.get("origin")
    if origin and origin.partition("://")[2] != request.headers.get("host"):
        raise Refused(f"a page of {origin} may not ask this server", status=HTTPStatus.FORBIDDEN)
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is no JSON: {error}") from error


async def _refuse(request: Request, error: Refused) -> Response:
    waits = {"Retry-After": "1"} if error.status == 503 else None
    return JSONResponse(error.body, status_code=error.status, headers=waits)


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    said = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(Refused(said, code="unknown_url", status=error.status_code).body, error.status_code)


async def _fail(request: Request, error: Exception) -> Response:
    return JSONResponse(asked.failure(error).body, status_code=500)
