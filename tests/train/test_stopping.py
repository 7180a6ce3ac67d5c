"""Signals are raised by the test itself, in the process of the test."""

import _thread
import gc
import os
import signal
import threading

import pytest

from ratchet.train import stopping
from ratchet.train.stopping import AGAIN, Stopped, deferred, heeded, passed_on


class Answers:
    """What was said and with which status the process was to end; `wait` returns when so much has happened."""

    def __init__(self, expected: int):
        self.found, self._left = [], threading.Semaphore(0)
        self._expected = expected

    def __call__(self, answer) -> None:
        self.found.append(answer)
        self._left.release()

    def wait(self) -> list:
        for _ in range(self._expected):
            assert self._left.acquire(timeout=3600)
        return self.found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_answered_and_ends_the_work_at_the_next_instruction(number):
    answers, before = Answers(1), signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, heeded(answers, patient=True, end=answers):
        signal.raise_signal(number)
    assert answers.wait() == ["stopping after this step; another signal ends at once"]
    assert stopped.value.status == 128 + number and signal.getsignal(number) is before


def test_a_second_signal_ends_the_process_with_the_status_of_a_signal():
    answers = Answers(3)
    with heeded(answers, patient=True, end=answers), deferred() as asked:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert answers.wait()[1:] == ["stopped by SIGINT", 130]
        assert asked() == signal.SIGTERM


def test_how_to_go_on_is_said_after_the_first_signal_and_after_the_second():
    answers = Answers(3)
    with heeded(answers, patient=True, end=answers, advice="go on so"), deferred():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert answers.wait()[1:] == ["stopped by SIGTERM; go on so", AGAIN]
    with pytest.raises(Stopped, match="stopped by SIGHUP; go on so"), heeded(print, patient=True, advice="go on so"):
        signal.raise_signal(signal.SIGHUP)


def test_a_signal_that_is_passed_on_is_answered_by_nobody_else():
    heard = []
    with heeded(pytest.fail, patient=True, end=pytest.fail):
        with passed_on(heard.append):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGTERM, signal.SIGINT]


def test_the_first_signal_ends_what_has_nothing_to_finish():
    answers = Answers(2)
    with heeded(answers, patient=False, end=answers):
        signal.raise_signal(signal.SIGTERM)
        assert answers.wait() == ["stopped by SIGTERM", 143]


def test_it_is_answered_while_no_instruction_of_python_runs_in_the_main_thread():
    """The main thread reads from a pipe, into which the answer is written: a handler of Python's would never come."""
    reader, writer = os.pipe()
    release = threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGTERM))
    with deferred():  # what a handler would do must not end the test
        with heeded(lambda line: os.write(writer, line.encode()), patient=False, end=lambda status: None):
            signal.siginterrupt(signal.SIGTERM, False)
            release.start()
            assert os.read(reader, 100) == b"stopped by SIGTERM"
        release.join()
    os.close(reader), os.close(writer)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_the_garbage_collector_discards_comes_again():
    """What a callback of the collector raises is discarded, and JAX has such a callback, in which a signal may come.
    What other tests have left is collected as well, such as a bucket's connection, and complains of that. Threads of
    other tests may collect too, and a signal that is raised in one wakes nobody."""
    answers = Answers(1)

    def collecting(phase: str, _) -> None:
        if threading.current_thread() is threading.main_thread():
            gc.callbacks.remove(collecting)
            signal.raise_signal(signal.SIGTERM)

    def collect_and_wait() -> None:
        gc.callbacks.append(collecting)
        while collecting in gc.callbacks:  # while another thread collects, nothing is collected here
            gc.collect()
        threading.Event().wait(3600)

    with pytest.raises(Stopped) as stopped, heeded(answers, patient=True, end=answers):
        collect_and_wait()
    assert stopped.value.number == signal.SIGTERM
    assert answers.wait() == ["stopping after this step; another signal ends at once"]


def test_a_stop_that_comes_while_another_is_sent_again_is_not_lost(monkeypatch):
    """What a signal raises in the hook for what was discarded is lost, so that nothing would stop."""
    answers, came, start = Answers(1), [], _thread.start_new_thread

    def interrupted(later, given):
        if not came:
            came.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return start(later, given)

    class Leaving:
        def __del__(self):
            raise Stopped(signal.SIGTERM)

    def leave_and_wait() -> None:
        Leaving()
        threading.Event().wait(3600)

    monkeypatch.setattr(stopping._thread, "start_new_thread", interrupted)
    with pytest.raises(Stopped) as raised, heeded(answers, patient=True, end=answers):
        leave_and_wait()
    assert raised.value.number == signal.SIGTERM and came
    assert answers.wait() == ["stopping after this step; another signal ends at once"]


def test_a_terminal_that_goes_ends_nothing_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with heeded(pytest.fail, patient=True), deferred() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert asked() == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_is_not_asked_for_is_left_to_others():
    before = signal.getsignal(signal.SIGINT)
    with heeded(pytest.fail, patient=True, asking=[signal.SIGTERM]):
        assert signal.getsignal(signal.SIGINT) is before


def test_deferred_work_says_which_signal_came_and_the_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with deferred() as asked:
        assert asked() == 0
        signal.raise_signal(signal.SIGINT)
        assert asked() == signal.SIGINT
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_other_threads_leave_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with heeded(print, patient=True), deferred() as asked:
            seen.append((signal.getsignal(signal.SIGTERM), asked()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, 0)]
