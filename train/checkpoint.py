"""Checkpoints and weights on disk: all of Orbax that Ratchet uses.

A checkpoint is the train state, the caller's position (data position, config fingerprint, ...) and one checksum a leaf,
committed together or not at all. TensorStore does not notice every flipped bit; the checksums do, on any mesh.
"""

import errno
import functools
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from ratchet.train import goodput
from ratchet.train.buckets import causes, download, in_bucket, store_of, upload
from ratchet.train.buckets import reason as reason_of
from ratchet.train.commits import sha256

log = logging.getLogger(__name__)

_ITEMS = ("state", "position", "checksums")
_DONE = "commit_success.txt"
"""What Orbax writes last into a checkpoint, which in a bucket says that it is whole."""
_AGAIN = "delete it and resume the run to train this again"
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.ESTALE}
"""Errors of a machine and of its user, which say nothing of what a file holds."""


class CheckpointError(ValueError):
    """No checkpoint can be read, or written in such a place: one line that says where and why."""


class Checkpoints:
    """The newest `keep` checkpoints of one run, written asynchronously, each under `directory/<step>`; those of every
    `keep_every` steps stay for good (0: none do).

    Every process of a multi-host run makes the same calls; Orbax coordinates them. Use it as a context manager, or call
    `close`, so that the last save is committed.
    """

    def __init__(self, directory: epath.PathLike, keep: int = 2, keep_every: int = 0):
        """Raises CheckpointError where something else lies in the directory, and for several processes in a bucket to
        which Orbax cannot write."""
        self.directory = epath.Path(directory)
        check_that_all_save(self.directory, jax.process_count())
        self._mirror = _Mirror(self.directory) if _is_mirrored(self.directory) else None
        place = self._mirror.place if self._mirror else self.directory
        place = place if in_bucket(place) else place.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_every or None, cleanup_tmp_directories=True
        )
        try:
            self._manager = ocp.CheckpointManager(place, options=options, item_names=_ITEMS)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            if self._mirror:
                self._mirror.close()
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
            self._delete(step)
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
            if self._mirror:
                self.wait()
                self._mirror.send(step, self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest step, or None. Waits for the save in flight, so that what it names is committed."""
        self.wait()
        return self._manager.latest_step()

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict]:
        """Reads `step`, or the newest checkpoint that is whole, as (state, position).

        `like` is a pytree of arrays or `jax.ShapeDtypeStruct`; leaves come back on its shardings (the default device
        where it has none). With no `step` given, unreadable checkpoints newer than the one returned are logged and
        deleted, so that `latest` is again the step that training stands on.

        Raises CheckpointError when there is none that can be read, and what a library raised where that is no damage: a
        device or machine without memory, too many open files, a file that may not be read.
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
                if _is_passing(error) or (in_bucket(self.directory) and reason_of(error)):
                    raise  # what cannot be reached is not damaged
                failures[candidate] = re.split(r"\n|\. See full", str(error).strip())[0][:200] or type(error).__name__
                continue
            for damaged, reason in failures.items():
                log.warning("%s: step %d is damaged (%s); using step %d", self.directory, damaged, reason, candidate)
                self._delete(damaged)
            return restored
        why = "; ".join(f"step {s}: {reason}" for s, reason in failures.items()) or "there is none"
        raise CheckpointError(f"{self.directory}: no checkpoint can be restored ({why}); {_AGAIN}")

    def wait(self) -> None:
        """Blocks until every save is committed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves, then stops the background threads."""
        self._manager.close()
        if self._mirror:
            self._mirror.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _delete(self, step: int) -> None:
        self._manager.delete(step)
        if self._mirror:
            self._mirror.remove(step)

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


def check_that_all_save(directory: epath.PathLike, processes: int) -> None:
    """Raises CheckpointError for a bucket to which Orbax cannot write, where several processes save together."""
    if processes > 1 and _is_mirrored(directory):
        raise CheckpointError(f"{directory}: several processes save to gs:// or a shared disk; give another --out")


def _is_passing(error: Exception) -> bool:
    """Whether a checkpoint may be whole that could not be read for this. TensorStore says the number of the system's
    error in words."""
    for one in causes(error):
        told = re.search(r"os_error_code='(\d+)'", str(one))
        number = int(told[1]) if told else one.errno if isinstance(one, OSError) else 0
        full = str(one).startswith("RESOURCE_EXHAUSTED")
        if full or number in _PASSING or isinstance(one, MemoryError):
            return True
    return False


def _is_mirrored(directory: epath.PathLike) -> bool:
    """Whether checkpoints of a directory are written to a disk first, and copied from there."""
    return store_of(directory) not in ("", "gs")


class _Mirror:
    """The checkpoints of a directory in a bucket to which Orbax cannot write, in a directory on this machine's disk."""

    def __init__(self, directory: epath.Path):
        self._directory, self._temporary = directory, tempfile.TemporaryDirectory()
        self.place = epath.Path(self._temporary.name)
        for step in self._steps():
            download(directory / step, self.place / step)

    def send(self, fresh: int, steps: Sequence[int]) -> None:
        """Uploads the `fresh` step, what says that it is whole last, and then removes those not among the `steps`."""
        self.remove(fresh)  # what a kill left of it
        here, there = self.place / str(fresh), self._directory / str(fresh)
        for file in sorted(here.iterdir(), key=lambda file: file.name == _DONE):
            upload(file, there / file.name)
        for step in map(int, self._steps()):
            if step not in steps:
                self.remove(step)

    def remove(self, step: int) -> None:
        """Removes a step, what says that it is whole first."""
        there = self._directory / str(step)
        there.joinpath(_DONE).unlink(missing_ok=True)
        there.rmtree(missing_ok=True)

    def close(self) -> None:
        self._temporary.cleanup()

    def _steps(self) -> list[str]:
        """The steps in the bucket that are whole."""
        if not self._directory.exists():
            return []
        return [p.name for p in self._directory.iterdir() if p.name.isdigit() and (p / _DONE).exists()]


def remove_checkpoints(directory: epath.Path) -> None:
    """Removes all checkpoints of a directory; what says that one is whole goes first, since in a bucket the rest takes
    many requests."""
    for done in directory.glob(f"*/{_DONE}"):
        done.unlink(missing_ok=True)
    directory.rmtree(missing_ok=True)


def save_weights(directory: epath.PathLike, params: Any) -> None:
    """Writes a generation's weights, synchronously and atomically, replacing what is there."""
    with Checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(0, params, position={})


def fingerprint(params: Any) -> str:
    """What tells weights (a pytree) from others: the sha256, in hex digits, of the checksums of their leaves."""
    return sha256(repr(_checksums(params)).encode())


def has_weights(directory: epath.PathLike) -> bool:
    """Whether `save_weights` has committed there; the directory alone may be what a kill left behind."""
    whole = epath.Path(directory) / "0"
    return (whole / _DONE if in_bucket(directory) else whole).exists()


def load_weights(directory: epath.PathLike, like: Any) -> Any:
    """Reads weights that `save_weights` wrote onto the shardings of `like`; raises as `Checkpoints.restore` does."""
    if not epath.Path(directory).exists():
        raise CheckpointError(f"{directory}: no weights here; check the path of the generation's model directory")
    with Checkpoints(directory, keep=1) as checkpoints:
        return checkpoints.restore(like, step=0)[0]


@functools.cache
def _ignore_late_parts() -> None:
    """Has what Orbax leaves behind print nothing. Once a part of a checkpoint cannot be read, it raises that and closes
    its event loop; each part that TensorStore reads after this, and each reader that is given up, would print a
    traceback or a warning."""
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    others = sys.unraisablehook

    def hook(raised: Any) -> None:
        late = raised.exc_type is RuntimeError and str(raised.exc_value) == "Event loop is closed"
        reader = getattr(raised.object, "cr_code", None)
        if not late and not (reader and Path(ocp.__file__).parent in Path(reader.co_filename).parents):
            others(raised)

    sys.unraisablehook = hook


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of an array, or of a shape, with a sharding."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _checksums(state: Any) -> list[int]:
    """The checksum of each leaf, in order."""
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
    """The wrapping uint32 sum of a leaf's words, each mixed with its place (by the finalizer of MurmurHash3): no
    sharding or order of summation can change it, and values that change places do."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    words = (leaf if leaf.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(leaf, word)).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    mixed = words + (place + jnp.uint32(1)) * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return mixed.sum(dtype=jnp.uint32)
