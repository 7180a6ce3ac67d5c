"""Checkpoints and weights on disk: all of Orbax that Ratchet uses.

A checkpoint is the train state, the caller's position (data position, config fingerprint, ...) and one checksum a leaf,
committed together or not at all. TensorStore does not notice every flipped bit; the checksums do, on any mesh.
"""

import functools
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from ratchet.train import goodput
from ratchet.train.commits import sha256

log = logging.getLogger(__name__)

_ITEMS = ("state", "position", "checksums")
_AGAIN = "delete it and resume the run to train this again"


class CheckpointError(ValueError):
    """No checkpoint can be read: one line that says where and why."""


class Checkpoints:
    """The newest `keep` checkpoints of one run, written asynchronously, each under `directory/<step>`; those of every
    `keep_every` steps stay for good (0: none do).

    Every process of a multi-host run makes the same calls; Orbax coordinates them. Use it as a context manager, or call
    `close`, so that the last save is committed.
    """

    def __init__(self, directory: epath.PathLike, keep: int = 2, keep_every: int = 0):
        self.directory = epath.Path(directory)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_every or None, cleanup_tmp_directories=True
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory.absolute(), options=options, item_names=_ITEMS)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise CheckpointError(f"{self.directory}: what lies here is no checkpoint ({error}); {_AGAIN}") from error

    def save(self, step: int, state: Any, *, position: dict) -> None:
        """Starts saving `state` (a pytree of jax arrays) and `position` (JSON), replacing `step` if it is there.

        Returns once the arrays are copied out, so that their buffers may be donated.
        """
        # Orbax meets the other processes in collectives of its own. Beside those of a step that is still running, which
        # the CPU backend does not keep in order, each process would wait for another.
        jax.block_until_ready(state)
        if step in self._manager.all_steps():  # which counts a save in flight
            self.wait()
            self._manager.delete(step)
        with goodput.checkpoint("save"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    position=ocp.args.JsonSave(position),
                    checksums=ocp.args.JsonSave({"leaves": _checksums(state)}),
                ),
                force=True,  # a run that went back to an older step saves below the newest one
            )

    def latest(self) -> int | None:
        """The newest step, or None. Waits for the save in flight, so that what it names is committed."""
        self.wait()
        return self._manager.latest_step()

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict]:
        """Reads `step`, or the newest checkpoint that is whole, as (state, position).

        `like` is a pytree of arrays or `jax.ShapeDtypeStruct`; leaves come back on its shardings (the default device
        where it has none). With no `step` given, unreadable checkpoints newer than the one returned are logged and
        deleted, so that `latest` is again the step that training stands on.

        Raises CheckpointError when there is none that can be read.
        """
        _ignore_late_parts()
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True) if step is None else [step]
        failures: dict[int, str] = {}
        for candidate in steps:
            try:
                with goodput.checkpoint("restore"):
                    restored = self._read(candidate, like)
            except Exception as error:  # three libraries meet the damage, each with types of its own
                failures[candidate] = re.split(r"\n|\. See full", str(error).strip())[0][:200] or type(error).__name__
                continue
            for damaged, reason in failures.items():
                log.warning("%s: step %d is damaged (%s); using step %d", self.directory, damaged, reason, candidate)
                self._manager.delete(damaged)
            return restored
        why = "; ".join(f"step {s}: {reason}" for s, reason in failures.items()) or "there is none"
        raise CheckpointError(f"{self.directory}: no checkpoint can be restored ({why}); {_AGAIN}")

    def wait(self) -> None:
        """Blocks until every save is committed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves, then stops the background threads."""
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _read(self, step: int, like: Any) -> tuple[Any, dict]:
        read = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(_abstract, like)),
                position=ocp.args.JsonRestore(),
                checksums=ocp.args.JsonRestore(),
            ),
        )
        if _checksums(read["state"]) != read["checksums"]["leaves"]:
            raise CheckpointError("checksum mismatch")
        return read["state"], read["position"]


def save_weights(directory: epath.PathLike, params: Any) -> None:
    """Writes a generation's weights, synchronously and atomically, replacing what is there."""
    with Checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(0, params, position={})


def fingerprint(params: Any) -> str:
    """What tells weights from others: the sha256 of the checksums of their leaves."""
    return sha256(repr(_checksums(params)).encode())


def has_weights(directory: epath.PathLike) -> bool:
    """Whether `save_weights` has committed there; the directory alone may be what a kill left behind."""
    return (epath.Path(directory) / "0").exists()


def load_weights(directory: epath.PathLike, like: Any) -> Any:
    """Reads weights that `save_weights` wrote onto the shardings of `like`; raises CheckpointError if it cannot."""
    if not epath.Path(directory).exists():
        raise CheckpointError(f"{directory}: no weights here; check the path of the generation's model directory")
    with Checkpoints(directory, keep=1) as checkpoints:
        return checkpoints.restore(like, step=0)[0]


@functools.cache
def _ignore_late_parts() -> None:
    """Once a part cannot be read, Orbax raises that and closes its event loop. Each part that TensorStore reads after
    this, and each reader that is given up, would print a traceback or a warning."""
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    others = sys.unraisablehook

    def hook(raised: Any) -> None:
        late = raised.exc_type is RuntimeError and str(raised.exc_value) == "Event loop is closed"
        reader = getattr(raised.object, "cr_code", None)
        if not late and not (reader and Path(ocp.__file__).parent in Path(reader.co_filename).parents):
            others(raised)

    sys.unraisablehook = hook


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _checksums(state: Any) -> list[int]:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(state)]
    groups: dict[frozenset, list[int]] = {}  # one program for all leaves on the same devices
    for number, leaf in enumerate(leaves):
        groups.setdefault(frozenset(leaf.sharding.device_set), []).append(number)
    totals = {}
    for numbers in groups.values():
        found = jax.device_get(_checksums_of([leaves[n] for n in numbers]))
        totals |= {n: int(total) for n, total in zip(numbers, found, strict=True)}
    return [totals[n] for n in range(len(leaves))]


@jax.jit
def _checksums_of(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_checksum(leaf) for leaf in leaves]


def _checksum(leaf: jax.Array) -> jax.Array:
    """The wrapping uint32 sum of a leaf's bits, which no sharding or order of summation can change."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        return leaf.sum(dtype=jnp.uint32)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, word).sum(dtype=jnp.uint32)
