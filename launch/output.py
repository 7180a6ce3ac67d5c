"""What commands print on, and what they keep from being printed."""

import logging
from pathlib import Path

import jax
from rich.console import Console


def make_console() -> Console:
    """A console wide enough for the table where there is no terminal to fit into."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 132))


def quiet() -> None:
    """Compiled programs are kept for the next start; libraries' notices about optional parts are not for users."""
    jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ratchet" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    for chatty in ("absl", "bm25s", "orbax"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
