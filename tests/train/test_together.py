"""Processes in step: what the first decides all hear, what fails is told, and who does not come is named.

Each process is a thread with a client of its own of one real coordination service.
"""

import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import portpicker
import pytest
from jax._src.lib import _jax

from ratchet.train import together
from ratchet.train.buckets import StoreError
from ratchet.train.holder import Busy, holder_of, holding
from ratchet.train.stopping import AGAIN, Ends
from ratchet.train.together import ALONE, LOOK, PART, PeerFailed, PeerGone, Together, join

COUNT = 3


@pytest.fixture
def processes():
    """Three processes, whose patience ends after a second where one is missing."""
    port = portpicker.pick_unused_port()
    service = _jax.get_distributed_runtime_service(f"[::]:{port}", COUNT, heartbeat_timeout=3600, shutdown_timeout=5)
    clients = [_jax.get_distributed_runtime_client(f"localhost:{port}", n, init_timeout=60) for n in range(COUNT)]
    each(clients, lambda client: client.connect())
    yield [Together(n, COUNT, 3600.0, client) for n, client in enumerate(clients)]
    each(clients, lambda client: client.shutdown())
    service.shutdown()


def each(processes, call):
    """What a call gives, or raises, in every process at once."""

    def one(process):
        try:
            return call(process)
        except (RuntimeError, ValueError, OSError) as error:
            return error

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(one, processes))


def test_what_the_first_decides_all_hear_though_they_would_have_decided_otherwise(processes):
    look = lambda p: [p.decided("a", lambda: p.number), p.decided("b", lambda: {"found": [p.number, None, "é"]})]
    assert each(processes, look) == [[0, {"found": [0, None, "é"]}]] * COUNT


def test_a_message_may_be_longer_than_the_service_takes_at_once(processes):
    long = "é" * (2 * PART) + "end"
    assert each(processes, lambda p: p.decided("long", lambda: long) == long) == [True] * COUNT


def test_where_the_first_fails_the_others_say_what_it_said(processes):
    def fail():
        raise ValueError("config.json: it is not what the run was made with")

    def fill():
        raise OSError("no space left")

    mine, *others = each(processes, lambda p: p.decided("a", fail))
    assert isinstance(mine, ValueError) and {type(o) for o in others} == {PeerFailed}
    assert {(str(o), o.status) for o in others} == {(f"process 0: {mine}", 2)}
    assert [o.status for o in each(processes, lambda p: p.decided("b", fill))[1:]] == [1] * (COUNT - 1)


class ServersGone(Ends):
    status = AGAIN


def in_store(again: bool) -> StoreError:
    failed = StoreError("gs://b/run: the bucket does not do it")
    failed.again = again
    return failed


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ServersGone("they answer no more"), AGAIN),
        (in_store(True), AGAIN),
        (in_store(False), 2),
        (ValueError("UNAVAILABLE: a store that TensorStore asks"), AGAIN),
        (ValueError("PERMISSION_DENIED: a store that TensorStore asks"), 2),
    ],
)
def test_all_end_with_the_status_of_the_first(processes, error, status):
    """One of several that ends otherwise would end a run that is to be started again."""
    def fail():
        raise error

    assert [o.status for o in each(processes, lambda p: p.decided("what is answered", fail))[1:]] == [status] * 2


def test_nobody_goes_on_before_all_have_come(processes):
    come = itertools.count()

    def wait(process):
        next(come)
        process.wait("here")
        return next(come) >= COUNT

    assert each(processes, wait) == [True] * COUNT


def test_those_that_do_not_come_are_named(processes):
    hasty = [Together(p.number, COUNT, 1.0, p.client) for p in processes]
    first, _ = each(hasty[:2], lambda p: p.wait("the audit"))
    assert isinstance(first, PeerGone)
    assert str(first) == "process 2 of 3 did not come to the audit within 1 seconds"
    for patience in (1.0, 3600.0):  # whoever came first, it is not the first process that is missing
        some = [Together(p.number, COUNT, patience if p.number else 1.0, p.client) for p in processes[:2]]
        found = each(some, lambda p, patience=patience: p.wait(f"{patience}"))
        said = {str(error).partition(" within")[0] for error in found}
        assert said == {f"process 2 of 3 did not come to {patience}"}
    waits = each(hasty[1:], lambda p: p.decided("a unit", int))
    assert {type(w) for w in waits} == {PeerGone} and "process 0 of 3 said nothing of a unit" in str(waits[0])


def test_the_others_wait_for_as_long_as_the_first_goes_on(processes, monkeypatch):
    """It asks a server many questions, say, and says after each how far it is."""
    hasty, over, seconds = [Together(p.number, COUNT, 1.0, p.client) for p in processes], threading.Event(), [0.0]
    monkeypatch.setattr(together, "time", SimpleNamespace(monotonic=lambda: seconds[0]))

    def ask():
        for number in range(4):
            hasty[0].publish(f"after {number} of 4")
            over.wait(2 * LOOK / 1000)  # in which the others look
            seconds[0] += 0.9
        return "answers"

    assert each(hasty, lambda p: p.decided("what the judge answers", ask)) == ["answers"] * COUNT


def test_each_says_where_it_is_for_those_that_wait(processes):
    each(processes[:2], lambda p: p.publish(f"after step {p.number}"))
    processes[1].publish("after step 5")
    assert processes[0].published() == {1: "after step 5", 2: ""}
    assert processes[2].published() == {0: "after step 0", 1: "after step 5"}


def test_the_first_holds_a_run_for_all_and_all_are_refused_where_another_does(processes, tmp_path):
    from etils import epath

    directory = epath.Path(tmp_path) / "run"

    def hold(process):
        with holding(directory, together=process):
            return process.decided("held", lambda: holder_of(directory) is not None)

    assert each(processes, hold) == [True] * COUNT
    with holding(directory):
        mine, *others = each(processes, hold)
    assert isinstance(mine, Busy) and {type(o) for o in others} == {PeerFailed}
    assert str(others[0]) == f"process 0: {mine}"


def test_a_process_that_has_joined_others_heeds_sigterm_as_before():
    code = f"""
import os, signal
from ratchet.train.together import join
heard = []
signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
join("localhost:{portpicker.pick_unused_port()}/1/0")
os.kill(os.getpid(), signal.SIGTERM)
print(heard)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[15]\n", said.stderr


def test_a_process_by_itself_decides_for_itself():
    assert ALONE.decided("a", lambda: 7) == 7 and ALONE.first and not ALONE.published()
    ALONE.wait("nobody")
    with pytest.raises(OSError, match="mine"):
        ALONE.decided("a", lambda: (_ for _ in ()).throw(OSError("mine")))


@pytest.mark.parametrize("where", ["", "here", "host:1", "host:1/2", "host:1/2/2", "host/2/0", "host:1/x/0"])
def test_an_address_that_is_none_is_refused_in_a_line(where):
    with pytest.raises(ValueError, match="--join: .* is neither auto nor HOST:PORT/COUNT/NUMBER"):
        join(where)
