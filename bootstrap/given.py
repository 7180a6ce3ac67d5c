"""What a run is given: its world, and an account of the documents that were read for it."""

from typing import NamedTuple

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.documents.account import Account
from ratchet.bootstrap.documents.reading import Found, read
from ratchet.bootstrap.worlds import DocumentsConfig, load
from ratchet.bootstrap.worlds.world import World


class Given(NamedTuple):
    """A world, and the account of what was read for it; None where nothing was."""

    world: World
    account: Account | None


def given_world(config: Config) -> Given:
    """Makes the world that the settings name. Reads the documents where they are a user's own, which can take minutes.
    Raises ValueError when there is no such world, or nothing to read."""
    accounts: list[Account] = []

    def reading(of: DocumentsConfig) -> Found:
        found = read(of)
        accounts.append(found.account)
        return found

    settings = (config.documents, config.lessons, config.arithmetic)
    world = load(config.world, settings, config.seed, config.generations, reading)
    return Given(world, accounts[-1] if accounts else None)
