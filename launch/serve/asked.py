"""What clients may ask, in OpenAI's words, and how they are told of a mistake.

Unknown fields are refused, and so are those that ask for what this server cannot do: an answer that silently leaves out
what was asked is worse than none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

MOST_STOPS = 16
"""Strings that may end an answer."""
MOST_LIKELY = 20
"""Likeliest tokens that an answer shows beside each of its own."""
MOST_CHOICES = 128
"""Answers to one prompt."""
MOST_TOOLS = 128
"""Tools of a chat."""
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity")
"""Fields that change no answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},),
    "suffix": ("",), "parallel_tool_calls": (True, False), "functions": ([],), "modalities": (["text"],),
}  # fmt: skip
"""Fields that this server knows at these values alone, at which they ask for nothing: several calls at once may be
allowed, and an answer makes one."""


Id = Annotated[int, Field(ge=0)]


class Refused(Exception):
    """A request that is not answered, as OpenAI's servers say so."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def failure(error: Exception) -> Refused:
    """What clients are told where the server itself has failed."""
    return Refused(f"the server failed: {' '.join(str(error).split()) or type(error).__name__}", status=500)


class _Body(BaseModel):
    """What a client sends; a field that is not listed, or of another type, is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Body):
    """What a stream tells beside the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Known for its clients' sake; streams are never padded."""


class Sampling(_Body):
    """What chat and completions have in common."""

    model: str
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    best_of: int | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    seed: int | None = None
    stop: str | list[str] = []
    stop_token_ids: list[Id] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    return_token_ids: bool = False

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @field_validator("stop")
    @classmethod
    def _few_and_not_empty(cls, stop: str | list[str]) -> str | list[str]:
        several = [stop] if isinstance(stop, str) else stop
        if not all(several) or len(several) > MOST_STOPS:
            raise ValueError(f"give at most {MOST_STOPS} stop strings, none of them empty")
        return stop


class Completion(Sampling):
    """Text or token ids to go on with; several in a list are answered each."""

    prompt: str | list[Id] | list[str] | list[list[Id]]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | bool | None = None
    echo: bool = False
    add_special_tokens: bool = True

    @field_validator("logprobs")
    @classmethod
    def _a_number(cls, logprobs: int | bool | None) -> int | None:
        """`true` is 1, as some clients mean it, and `false` none."""
        number = {True: 1, False: None}[logprobs] if isinstance(logprobs, bool) else logprobs
        if number is not None and not 0 <= number <= MOST_LIKELY:
            raise ValueError(f"it is a number from 0 to {MOST_LIKELY}")
        return number

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Every prompt, as text or as token ids."""
        return [self.prompt] if isinstance(self.prompt, str) or _is_ids(self.prompt) else list(self.prompt)


class Calling(BaseModel):
    """The name of a tool that a message called, and its arguments in JSON."""

    model_config = ConfigDict(extra="allow")
    name: str
    arguments: str | dict[str, Any] | None = None


class Called(BaseModel):
    """A call in a message."""

    model_config = ConfigDict(extra="allow")
    function: Calling


class Message(BaseModel):
    """A message of a conversation, with whatever else chat templates may read in one."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Called] | None = None

    @field_validator("tool_calls", mode="wrap")
    @classmethod
    def _as_they_came(cls, given: Any, check: Callable[[Any], Any]) -> Any:
        """Templates may write a call as it came, whose members have an order."""
        check(given)
        return given

    def plain(self) -> dict[str, Any]:
        """The message as chat templates have it: the system's for a developer's, and text for parts."""
        role = "system" if self.role == "developer" else self.role
        calls = {"tool_calls": self.tool_calls} if self.tool_calls else {}
        return {**(self.model_extra or {}), "role": role, "content": _text(self.content), **calls}


class JsonSchema(BaseModel):
    """A schema as clients wrap it, with a name and a description."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(_Body):
    """In which form a chat is answered."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def schema_of(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer is kept to, None where it is free. Raises Refused where it is missing."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": "object"}
        if self.json_schema is None:
            raise Refused("response_format: give json_schema with a schema", param="response_format")
        return self.json_schema.schema_


class Function(_Body):
    """What a tool is to the model: a name, what it does, and the JSON schema of what it takes; without one, nothing."""

    name: str
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None
    """Known for its clients' sake: calls are always kept to the schema."""

    @property
    def schema_of(self) -> Any:
        """The schema that the arguments of a call are kept to, which is of an object where it does not say."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters} if isinstance(self.parameters, dict) else self.parameters


class Tool(_Body):
    """A tool that an answer may call."""

    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """The tool as chat templates have it."""
        function = {"name": self.function.name, "description": self.function.description}
        told = {name: text for name, text in function.items() if text is not None}
        return {"type": self.type, "function": {**told, "parameters": self.function.schema_of}}


class Chosen(_Body):
    """The name of a tool."""

    name: str


class Named(_Body):
    """The one tool that an answer must call."""

    type: Literal["function"]
    function: Chosen


class Chat(Sampling):
    """A conversation to answer, and the tools that the answer may call, or must."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] = Field([], max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | Named = "auto"
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_LIKELY)
    response_format: ResponseFormat = ResponseFormat(type="text")


class Tokenize(_Body):
    """A text, or a conversation with its tools as its model would read it."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] = Field([], max_length=MOST_TOOLS)
    add_special_tokens: bool = True
    return_token_strs: bool = False


class Detokenize(_Body):
    """Token ids to be written as text."""

    model: str | None = None
    tokens: list[Id]


class NewWeights(_Body):
    """Where other weights of the served model lie, as SGLang's clients say it."""

    model_path: str


Body = TypeVar("Body", bound=_Body)


def read(kind: type[Body], body: Any) -> Body:
    """A request's JSON as a `kind`; fields that are null count as left out. Raises Refused, which names the field."""
    if not isinstance(body, dict):
        raise Refused("the body must be a JSON object")
    given = {name: value for name, value in body.items() if value is not None and name not in IGNORED}
    for name in given.keys() & NEUTRAL.keys():
        if given.pop(name) not in NEUTRAL[name]:
            raise Refused(f"{name}: this server has none; leave it out", param=name, code="unsupported_parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where, name = ".".join(map(_printable, first["loc"])), _printable(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden":
            said, code = f"unknown parameter {where}; leave it out", "unknown_parameter"
        else:
            said = f"{where or 'the body'}: {first['msg']}"
            code = "missing_required_parameter" if first["type"] == "missing" else None
        raise Refused(said, param=name, code=code) from None


def _printable(name: str | int) -> str:
    """A client's own name for something, whose halves of letters are spelled out."""
    return str(name).encode(errors="backslashreplace").decode()


def _is_ids(prompt: Sequence[Any]) -> bool:
    """Whether a prompt that is no text is one of token ids, as an empty one is, and not several prompts."""
    return all(isinstance(part, int) for part in prompt)


def _text(content: str | list[dict[str, Any]] | None) -> str | None:
    """The text of a message, whose parts are put together. Raises Refused for a part that is none."""
    if not isinstance(content, list):
        return content
    if other := [part.get("type") for part in content if part.get("type") != "text"]:
        raise Refused(f"messages: this server reads text, and no part of the type {other[0]!r}", param="messages")
    if not all(isinstance(part.get("text"), str) for part in content):
        raise Refused("messages: a part of the type text has a text", param="messages")
    return "".join(part["text"] for part in content)
