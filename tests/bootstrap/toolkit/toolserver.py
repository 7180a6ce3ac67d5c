"""An MCP server with tools of every kind, healthy and not: `python toolserver.py`, or with a port on loopback."""

import os
import sys
import time
from typing import Annotated, Any

if sys.argv[1:] == ["broken"]:
    sys.exit("there is no such thing as a server here")
if sys.argv[1:] == ["mute"]:
    time.sleep(600)

import mcp_types as types
from mcp.server.mcpserver import MCPServer
from pydantic import WithJsonSchema

server = MCPServer("things", log_level="CRITICAL")
calls = {"count": 0}


@server.tool()
def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return str(a + b)


@server.tool(structured_output=False)
def echo(text: str, times: int = 1) -> str:
    """Says a text."""
    return text * times


@server.tool(structured_output=False)
def count() -> str:
    """Counts how often it was asked."""
    calls["count"] += 1
    return str(calls["count"])


@server.tool()
def variable(name: str) -> str:
    """What an environment variable holds."""
    return os.environ.get(name, "not set")


@server.tool(structured_output=False)
def sleep(seconds: float) -> str:
    """Takes its time."""
    time.sleep(seconds)
    return "rested"


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(3)


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("this is my fault")


@server.tool(structured_output=False)
def picture() -> list[Any]:
    """Shows a picture."""
    image = types.ImageContent(type="image", data="aGk=", mime_type="image/png")
    return [image, types.TextContent(type="text", text="a")]


@server.tool(structured_output=False)
def odd(plain: int, words: Annotated[list, WithJsonSchema({"type": "array", "uniqueItems": True})]) -> str:
    """Takes what no grammar can be kept to."""
    return ""


if __name__ == "__main__":
    if sys.argv[1:]:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
