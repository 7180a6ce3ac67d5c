import threading

import jax

from ratchet.train import monitor
from ratchet.train.monitor import SAVE, STOP, Signals, Watchdog, describe
from ratchet.train.stopping import AGAIN
from ratchet.train.together import Together


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_checkpoint_is_due_by_the_clock_and_an_end_once_it_is_asked_for():
    clock, asked = Clock(), []
    signals = Signals(2.0, clock, lambda: len(asked))
    assert signals.now() == 0
    clock.now = 120.0
    assert signals.now() == SAVE
    signals.saved()
    assert signals.now() == 0
    asked.append("by somebody")
    assert signals.now() == STOP


STEP = {
    "loss": 1.23456, "kl": 1.23456, "tail": 0.0, "gradient_norm": 0.5123, "rate": 0.03, "tokens_per_second": 1234.5,
    "seconds_left": 200.0,
}  # fmt: skip


def test_a_step_is_described_by_what_is_known_of_it_alone():
    plain = ("loss 1.2346", "gradient 0.512", "rate 0.03", "1,234 tokens/s")
    assert describe(STEP) == plain
    soft = describe(STEP | {"kl": 0.25, "tail": 0.01, "mfu": 0.4123})
    assert soft == (*plain, "mfu 41.2 %", "kl 0.2500", "tail 0.0100")


def test_only_silence_counts_as_a_stall():
    clock = Clock()
    dog = Watchdog(10.0, "train", clock=clock)
    clock.now = 599.0
    assert not dog.stalled()
    dog.beat("after step 7")
    clock.now = 1199.0
    assert not dog.stalled()
    clock.now = 1200.0
    assert dog.stalled()


class Heard(Together):
    """Processes of which one has said where it is."""

    def publish(self, at):
        if at == "after step 7":
            raise jax.errors.JaxRuntimeError("the coordinator did not answer")
        assert at in ("before its first step", "after step 7")

    def published_by(self, number):
        return {0: "after step 6", 2: ""}[number]


def test_the_watchdog_says_where_all_processes_are_and_ends_its_own(capsys, monkeypatch):
    """It looks every few microseconds, and time passes when the clock is set."""
    clock, ended, codes = Clock(), threading.Event(), []

    def end(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(monitor.together, "current", lambda: Heard(number=1, count=3))
    with Watchdog(0.001 / 60, "train", clock=clock, end=end) as dog:
        dog.beat("after step 7")
        clock.now = 1.0
        assert ended.wait(3600)
    assert codes == [AGAIN]
    said = capsys.readouterr().err.splitlines()[0]
    where = "after step 7 (process 1 of 3; process 0: after step 6; process 2: never heard of)"
    assert said.startswith("train: nothing for") and where in said


def test_what_the_first_process_goes_on_with_is_a_beat_of_all(monkeypatch):
    class Asks(Together):
        """Process 0 asks a server one question after another, and says so, but ends no part of its work."""

        def publish(self, at):
            pass

        def published_by(self, number):
            assert number == 0
            return f"after question {min(int(clock.now), 5)}"

    clock = Clock()
    for number, stalls in ((0, 7), (1, 7)):
        monkeypatch.setattr(monitor.together, "current", lambda number=number: Asks(number=number, count=2))
        dog = Watchdog(1.5 / 60, "run", clock=clock)
        found = []
        for now in range(10):
            clock.now = float(now)
            dog._hear()
            found.append(dog.stalled())
        assert found.index(True) == stalls
        clock.now = 0.0
