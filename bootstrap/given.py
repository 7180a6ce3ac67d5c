"""What a run is given: its world, an account of the documents that were read for it, the model that it begins with, and
hashes of all that it reads from outside."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from etils import epath
from flax import nnx

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.documents.account import Account
from ratchet.bootstrap.documents.reading import Found, read
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.tools import Toolbox
from ratchet.bootstrap.worlds import DocumentsConfig, load
from ratchet.bootstrap.worlds.world import World, content_id
from ratchet.models import pretrained, rows
from ratchet.models.decoder import DecoderConfig
from ratchet.models.gguf import SUFFIX
from ratchet.models.pretrained import Pretrained
from ratchet.train.buckets import in_bucket, place_of
from ratchet.train.commits import Commits
from ratchet.train.nearby import nearby
from ratchet.train.sharding import state_sharding

INPUTS = "inputs.json"
"""Hashes of the documents and the rubric, which lie outside a run's directory and must stay what they were."""


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
    if world.interruption not in ("", config.wrongthink.interruption):
        raise ValueError(
            f"wrongthink.interruption: {config.wrongthink.interruption!r} is nothing that the world {world.name} "
            f"understands; set it to {world.interruption!r}"
        )
    return Given(world, accounts[-1] if accounts else None)


def base_model(named: str) -> Pretrained:
    """The model that others trained at a path, on a disk or in a bucket, or the one that a package brings under a name.
    Raises FolderError when there is none, StoreError when a bucket does not give it."""
    return pretrained.find(named if named in pretrained.PACKAGES else str(nearby(named)))


def base_config(named: str) -> DecoderConfig:
    """The decoder that such a model is; of a folder in a bucket, its config.json alone is fetched. Raises as
    `base_model` does."""
    if in_bucket(place_of(named)) and not named.endswith(SUFFIX):
        return pretrained.Folder(nearby(f"{named.rstrip('/')}/config.json").parent).config
    return base_model(named).config


def base_weights(config: Config, mesh: jax.sharding.Mesh, tell: Callable[[str], None] = lambda said: None) -> nnx.State:
    """The weights of the model that `base` names, over the mesh. Rows of its template's tokens that show no training
    (`models.rows`) begin as the mean of the others, and `tell` hears of it."""
    base = base_model(config.base)
    tokenizer = base.tokenizer()
    params = base.weights(lambda params: state_sharding(mesh, params))
    if new := rows.untrained(params, tokenizer):
        tell(f"{config.base}: {rows.described(new, tokenizer)}; they begin as the mean of the others")
    return rows.with_means(params, new, tokenizer)


def check_inputs(
    directory: epath.Path, commits: Commits, world: World, rubric: Sequence[Criterion], tools: Toolbox, writes: bool
) -> None:
    """Compares what lies outside the run's directory by hash, since units made from two versions must not mix. A run
    that goes on for more generations reads more slices; the earlier ones must be what they were. Raises ValueError,
    which names the first part that has changed. A run that `writes` keeps the hashes."""
    parts = {"seed": world.seed, "fresh": world.fresh} | {f"slice {n}": m for n, m in enumerate(world.slices, 1)}
    now = {name: content_id([[d.id, d.text] for d in m.documents]) for name, m in parts.items()}
    now["kinds of tasks"] = content_id(world.kinds, world.per_document)
    now["rubric"] = content_id([c.model_dump() for c in rubric])
    now["tools"] = content_id(tools.described)
    now["tools of servers"] = dict(tools.listed)
    now |= {
        f"items of slice {n}": content_id([[i.id, i.reference] for i in world.items(m.tasks)])
        for n, m in enumerate(world.slices, 1)
    }
    now |= {f"tasks of {name}": content_id([[*vars(t).values()] for t in m.tasks]) for name, m in parts.items()}
    now["labelled questions"] = content_id(sorted(world.untaught), [[t.id, t.answer] for t in world.probes.tasks])
    path = directory / INPUTS
    about = "hashes of what the run reads from outside this directory; it goes on only while they stay the same"
    missing = not commits.has(path) and commits.knows(path)  # it is made again, if it comes out the same
    began = commits.read(path) if commits.has(path) or (missing and not writes) else {"about": about}
    if different := [name for name in now if name in began and now[name] != began[name]]:
        what = f"documents ({different[0]})" if different[0] in parts else different[0]
        raise ValueError(
            f"resume: the {what} of {directory} changed since the run began; restore them or start a new run"
        )
    if writes:
        found = dict(sorted((began | now).items()))
        commits.once(path, lambda: found) if missing else commits.write(path, found)
