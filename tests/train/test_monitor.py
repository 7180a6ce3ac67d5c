import signal
import threading

from ratchet.train.monitor import SAVE, STOP, Signals, Watchdog, stopping


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_checkpoint_is_due_by_the_clock_and_an_end_after_a_signal():
    clock = Clock()
    signals = Signals(2.0, clock)
    assert signals.now() == 0
    clock.now = 120.0
    assert signals.now() == SAVE
    signals.saved()
    assert signals.now() == 0
    with stopping(signals):
        signal.raise_signal(signal.SIGTERM)
        assert signals.now() == STOP
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


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


def test_the_watchdog_says_where_it_was_and_ends_the_process(capsys):
    """It looks every few microseconds, and time passes when the clock is set."""
    clock, ended, codes = Clock(), threading.Event(), []

    def end(code):
        codes.append(code)
        ended.set()

    with Watchdog(0.001 / 60, "train", clock=clock, end=end) as dog:
        dog.beat("after step 7")
        clock.now = 1.0
        assert ended.wait(3600)
    assert codes == [1]
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("train: nothing for") and "after step 7 (process 0 of 1)" in said
