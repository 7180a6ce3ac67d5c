"""Processes that run one program in step: all make the same calls in the same order, each on devices of its own.

What depends on files is decided by the first process, which alone writes them, and told to the others: a process that
looked for itself might look too late, and find what the first has written meanwhile. Words go through the coordination
service of `jax.distributed`, beside the devices, so that a process that waits can say for whom it does.
"""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
from jax._src import distributed  # JAX has no public way to its coordination service; Orbax takes this one too
from jax.sharding import NamedSharding, PartitionSpec

from ratchet.train import buckets
from ratchet.train.stopping import AGAIN, Ends

PART = 1 << 20
"""Characters of a message: the service takes no more than four million bytes at once."""
MARGIN = 30.0
"""Seconds that the others wait longer than the first process, which names those that are missing."""
LOOK = 500
"""Milliseconds for which a process waits at a stretch for what another says: between two stretches it heeds signals."""
PATIENT = 24 * 3600
"""Seconds that devices of a CPU wait for one another, where other patience ends first."""
HEARTBEAT = 30
"""Seconds without a sign of life after which JAX ends all processes, since one of them is gone."""
MEETING = 300
"""Seconds that processes wait for all to come, when they begin."""
GATHERING = 3600
"""The same where a platform starts them, one machine of which it may have to find or to mend first: each start that
ends for want of others counts as one of those that it allows."""


class PeerGone(Ends):
    """Another process did not come, or ended: whoever started this one should start all of them again."""

    status = AGAIN


class PeerFailed(Ends):
    """The first process could not go on, and has said why. The others end with the same exit `status`."""

    def __init__(self, why: str, status: int):
        super().__init__(f"process 0: {why}")
        self.status = status


@dataclass(frozen=True)
class Together:
    """The processes that run one program: the `number` of this one, and their `count`.

    `patience` are the seconds that one waits for another, which may be as long as a program takes to compile.
    """

    number: int = 0
    count: int = 1
    patience: float = 3600.0
    client: Any = field(default=None, repr=False)
    """Speaks with the coordination service."""
    turns: Iterator[int] = field(default_factory=itertools.count, repr=False)
    """Numbers what is said, so that all processes mean the same."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.number == 0

    def decided(self, what: str, decide: Callable[[], Any]) -> Any:
        """What the first process decides, as JSON, in all of them. `what` says what it is about.

        Raises PeerFailed in the others when the first one raises an Exception, PeerGone when it says nothing.
        """
        if self.count == 1:
            return decide()
        key = f"ratchet/{next(self.turns)}/{what}"
        if not self.first:
            said = json.loads(self._told(key))
            if "failed" in said:
                raise PeerFailed(said["failed"], said["status"])
            return said["value"]
        try:
            value = decide()
        except Exception as error:
            self._tell(key, json.dumps({"failed": str(error), "status": _status_of(error)}))
            raise
        self._tell(key, json.dumps({"value": value}))
        return value

    def wait(self, what: str) -> None:
        """Returns when every process has come here. Raises PeerGone, which names those that have not."""
        if self.count == 1:
            return
        key = f"ratchet/{next(self.turns)}/{what}"
        if not self.first:
            self._tell(f"{key}/{self.number}", "")
            self._told(f"{key}/first")
            # The first one says who is missing, when its own patience ends.
            if names := self._told(f"{key}/all", time.monotonic() + self.patience + MARGIN + self.count):
                raise self._gone(names, what)
            return
        self._tell(f"{key}/first", "")
        until, missing = time.monotonic() + self.patience, []
        for number in range(1, self.count):
            try:
                self._told(f"{key}/{number}", until)
            except PeerGone:
                missing.append(number)
        names = ", ".join(map(str, missing))
        self._tell(f"{key}/all", names)
        if missing:
            raise self._gone(names, what)

    def _gone(self, names: str, what: str) -> PeerGone:
        return PeerGone(f"process {names} of {self.count} did not come to {what} within {self.patience:g} seconds")

    def publish(self, at: str) -> None:
        """Says where this process is, for those that wait for it."""
        if self.count > 1:
            self.client.key_value_set(f"ratchet at {self.number}", at, allow_overwrite=True)

    def published(self) -> dict[int, str]:
        """By number, where the other processes said last that they are; "" for one that never did."""
        return {n: self.published_by(n) for n in range(self.count) if n != self.number}

    def published_by(self, number: int) -> str:
        """Where a process said last that it is; "" for one that never did, or is alone."""
        if self.count == 1:
            return ""
        try:
            return self.client.key_value_try_get(f"ratchet at {number}")
        except jax.errors.JaxRuntimeError:
            return ""

    def _tell(self, key: str, text: str) -> None:
        parts = [text[at : at + PART] for at in range(0, len(text), PART)] or [""]
        for number, part in enumerate(parts[1:], 1):
            self.client.key_value_set(f"{key}/part/{number}", part)
        self.client.key_value_set(key, f"{len(parts)} {parts[0]}")

    def _told(self, key: str, until: float | None = None) -> str:
        until = time.monotonic() + self.patience if until is None else until
        count, _, text = self._waited_for(key, until).partition(" ")
        return text + "".join(self._waited_for(f"{key}/part/{n}", until) for n in range(1, int(count)))

    def _waited_for(self, key: str, until: float) -> str:
        what, at = key.split("/", 2)[2].removesuffix("/all").removesuffix("/first"), ""
        while True:
            try:
                return self.client.blocking_key_value_get(key, LOOK)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    reason = str(error).splitlines()[0][:200]
                    raise PeerGone(f"the other processes cannot be reached any more ({reason})") from error
                heard = "" if self.first else self.published_by(0)
                if heard not in ("", at):  # it goes on with what takes long, such as questions to a server
                    at, until = heard, max(until, time.monotonic() + self.patience)
                if time.monotonic() > until:
                    raise PeerGone(
                        f"process 0 of {self.count} said nothing of {what} for {self.patience:g} seconds"
                    ) from error


def _status_of(error: Exception) -> int:
    """The exit status of a process that this ends: a store, a server or a device may do another time what it did not,
    and a user can mend what is no value to work with."""
    if isinstance(error, Ends):
        return error.status
    if isinstance(error, jax.errors.JaxRuntimeError):
        return AGAIN
    if buckets.reason(error) or isinstance(error, buckets.StoreError):
        return AGAIN if getattr(error, "again", buckets.may_come_back(error)) else 2
    return 2 if isinstance(error, ValueError) else 1


ALONE = Together()
"""A process that runs by itself, or looks at a run."""
_joined: list[Together] = []
_GIVEN = ("coordinator_address", "num_processes", "process_id")
"""What JAX calls the parts of HOST:PORT/COUNT/NUMBER."""


def current() -> Together:
    """This process among those that it was joined with, if it was."""
    return _joined[0] if _joined else ALONE


def join(where: str, patience: float = Together.patience, heartbeat: int = HEARTBEAT) -> Together:
    """Makes this process one of several, before JAX looks for devices. Where one gives no sign of life for `heartbeat`
    seconds, JAX ends all.

    `where` is HOST:PORT/COUNT/NUMBER: where the first of COUNT processes listens, and which of them this one is, from
    0, as in "10.0.0.1:1234/4/0"; or "auto", where Cloud TPU, Slurm, Open MPI or a JobSet tell JAX so. SIGTERM, which is
    JAX's notice of a preemption too, stays with whoever handles it. Raises ValueError for anything else, PeerGone when
    the others do not come.
    """
    address, _, numbers = where.partition("/")
    count, _, number = numbers.partition("/")
    if where != "auto" and not (":" in address and count.isdigit() and number.isdigit() and int(number) < int(count)):
        raise ValueError(f"--join: {where!r} is neither auto nor HOST:PORT/COUNT/NUMBER, such as 10.0.0.1:1234/4/0")
    own = {} if where == "auto" else dict(zip(_GIVEN, (address, int(count), int(number)), strict=True))
    be_patient()
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, and nobody would hear of it
    try:
        jax.distributed.initialize(
            **own,
            initialization_timeout=GATHERING if where == "auto" else max(MEETING, heartbeat),
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=heartbeat,
        )
    except ValueError as error:
        raise ValueError(f"--join {where}: {error}; give HOST:PORT/COUNT/NUMBER") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise PeerGone(f"--join {where}: the processes did not find one another ({reason})") from error
    state = distributed.global_state
    _joined[:] = [Together(state.process_id, state.num_processes, patience, state.client)]
    return current()


def connect(mesh: jax.sharding.Mesh) -> None:
    """Has all groups of the mesh's devices connect at once.

    A group does so when it first exchanges something, and on CPUs gives its members 30 seconds to come. They might take
    longer, one after the other compiling a program, so they come here first. What Gloo, which connects CPUs, has to say
    goes to standard error: standard output may be for a program that reads JSON.
    """
    axes = mesh.axis_names
    groups = [tuple(a for i, a in enumerate(axes) if number >> i & 1) for number in range(1, 2 ** len(axes))]
    whole, total = PartitionSpec(), lambda x: sum(jax.lax.psum(x, group) for group in groups)
    exchange = jax.jit(jax.shard_map(total, mesh=mesh, in_specs=whole, out_specs=whole))
    with _aside():
        everywhere = jax.device_put(0.0, NamedSharding(mesh, whole))
        compiled = exchange.lower(everywhere).compile()
        current().wait("connect")
        compiled(everywhere).block_until_ready()


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Within, what is written to standard output goes to standard error."""
    sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(output, 1)
        os.close(output)


def be_patient() -> None:
    """Has devices of a CPU wait for one another, of which one may still compile: they would for 40 seconds, then end
    the process. Call it before JAX looks for devices."""
    flags = [f"--xla_cpu_collective_call_{what}_timeout_seconds={PATIENT}" for what in ("warn_stuck", "terminate")]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
