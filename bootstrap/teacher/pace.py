"""How many questions a server is asked at a time."""

import threading


class Pace:
    """How many questions are under way: at most `most`, half as many when the server is busy, one more for as many
    answers as there are questions."""

    def __init__(self, most: int):
        self._most, self._now, self._under_way, self._calm = most, most, 0, 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < self._now)
            self._under_way += 1

    def __exit__(self, *_) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def answered(self) -> None:
        with self._changed:
            self._calm += 1
            if self._calm >= self._now and self._now < self._most:
                self._now, self._calm = self._now + 1, 0
                self._changed.notify_all()

    def busy(self) -> None:
        with self._changed:
            self._now, self._calm = max(1, self._now // 2), 0
