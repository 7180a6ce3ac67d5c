"""The tools that the settings of a run name."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from ratchet.bootstrap.config import SimulateConfig
from ratchet.bootstrap.given import INPUTS
from ratchet.bootstrap.progress import Progress
from ratchet.bootstrap.toolkit.calculator import CALCULATE
from ratchet.bootstrap.toolkit.sandbox import Sandbox
from ratchet.bootstrap.toolkit.sessions import Sessions, list_tools
from ratchet.bootstrap.toolkit.source import Functions, Listed, Source
from ratchet.bootstrap.tools import Toolbox
from ratchet.bootstrap.worlds.world import Tool
from ratchet.train.commits import Commits
from ratchet.train.together import ALONE, Together


def toolbox(
    config: SimulateConfig, of_world: Sequence[Tool], listed: Listed | None = None, together: Together = ALONE
) -> Toolbox:
    """The world's tools, those that the settings name, and what servers are known to offer. Raises ValueError when two
    have the same name."""
    own = [CALCULATE] if "calculate" in config.tools else []
    sources: list[Source] = [Functions(of_world), Functions(own)]
    sources += [Sandbox()] if "python" in config.tools else []
    sources += [Sessions(config.mcp, listed)] if listed else []
    return Toolbox(sources, lookup="lookup" in config.tools, listed=listed or {}, together=together)


def open_toolbox(
    directory: epath.Path, config: SimulateConfig, of_world: Sequence[Tool], progress: Progress, writes: bool,
    together: Together,
) -> Toolbox:  # fmt: skip
    """The tools of a run, all of which can be called: programs and servers are tried at once. A run that is only looked
    at is taken at its word, and they are tried when they are called. Raises ValueError for what is not to be had."""

    def known() -> dict[str, Any]:
        return Commits(directory).read(directory / INPUTS).get("tools of servers", {})

    listed = together.decided("what tools there are", lambda: _ready(config, progress)) if writes else known()
    return toolbox(config, of_world, listed, together)


def _ready(config: SimulateConfig, progress: Progress) -> Listed:
    """Makes ready what may be called; returns what servers offer."""
    if config.calls and "python" in config.tools:
        Sandbox().ready(progress.line)
    return list_tools(config.mcp) if config.calls and config.mcp else {}
