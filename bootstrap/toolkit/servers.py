"""MCP servers as users write them: a YAML file that says where they are, and which of their tools may be called."""

import os
from typing import Annotated, Literal

import pydantic
import yaml

from ratchet.bootstrap.teacher.settings import is_address
from ratchet.train.buckets import place_of

Name = Annotated[str, pydantic.Field(pattern=r"^[\w.-]{1,64}$")]
"""A name of a server, of a tool, or of an environment variable."""
HIDDEN = 6
"""Letters from which on what an environment variable holds is looked for and left out of answers."""


class Server(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A server of tools, which is started by a `command` with its words, or is found at a `url`.

    Of its tools only those may be called that are named in `allow`. A command is given the environment variables that
    `environment` names, beside PATH, HOME, LOGNAME, SHELL, TERM and USER; a server at an address is sent what the
    variable `token` holds, as a bearer's token. `timeout` are the seconds that a call may take, and `concurrency` how
    many are under way at a time.
    """

    name: Name
    command: tuple[str, ...] = ()
    url: str = ""
    allow: tuple[Name, ...] = pydantic.Field(min_length=1)
    environment: tuple[Name, ...] = ()
    token: str = ""
    timeout: float = pydantic.Field(30.0, gt=0)
    concurrency: int = pydantic.Field(1, ge=1)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Server":
        if bool(self.command) == bool(self.url):
            raise ValueError("give a command or a url")
        if self.url and not is_address(self.url):
            raise ValueError("give the url as http://HOST:PORT/PATH, without a name or a key; see `token`")
        if self.url and self.environment:
            raise ValueError("environment is for a command; name the variable of a key as token")
        if self.command and self.token:
            raise ValueError("token is for a url; name the variable of a key in environment")
        return self

    def secrets(self) -> dict[str, str]:
        """What the environment variables hold that it names. Raises ValueError for one that is not set."""
        named = (*self.environment, *((self.token,) if self.token else ()))
        if missing := [name for name in named if name not in os.environ]:
            raise ValueError(f"simulate.mcp: {self.name} needs the environment variable {missing[0]}; set it")
        return {name: os.environ[name] for name in named}

    def without_secrets(self, text: str) -> str:
        """A text in which nothing stands that an environment variable holds which the server is given."""
        for name, value in sorted(self.secrets().items(), key=lambda of: -len(of[1])):  # one may begin with another
            text = text.replace(value, f"({name})") if len(value) >= HIDDEN else text
        return text


class Servers(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A file of servers. `version` says what its fields mean."""

    version: Literal[1]
    servers: tuple[Server, ...] = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _named_apart(self) -> "Servers":
        names = [server.name for server in self.servers]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two servers are called {twice[0]}; rename one")
        return self


def read_servers(path: str) -> tuple[Server, ...]:
    """Reads servers from a YAML file. Raises ValueError, which names the file, the field and a remedy."""
    where = f"simulate.mcp: {path}"
    try:
        entries = yaml.safe_load(place_of(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} cannot be read ({error}); give a YAML file of MCP servers") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML: {' '.join(str(error).split())}; mend it") from error
    try:
        return Servers.model_validate(entries).servers
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {place or 'the file'}: {said}; see bootstrap/worlds/README.md") from error
