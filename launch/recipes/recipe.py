"""What a recipe says about itself."""

from dataclasses import dataclass

from ratchet.bootstrap.config import Config


@dataclass(frozen=True)
class Recipe:
    summary: str
    takes: str
    """Expected wall time, and on what."""
    reaches: str
    config: Config
