"""Turns at a run in a bucket, where nothing can be locked.

A turn is an object with a number. A process begins one by making the object of the next number, which the store lets
only one process do, and from then on it alone writes that object, until it marks it as ended. The highest number is the
one that counts, and it never goes, so whoever was overtaken finds a higher one.
"""

import time

from etils import epath

from ratchet.train.buckets import answering, create, read
from ratchet.train.files import whole

PLACE = "working"
ENDED = b"{}\n"
SETTLING = 3.0
"""Seconds after which, in a store that lets two processes make the same object, the last one to do so is known."""


def place(directory: epath.Path, number: int) -> epath.Path:
    """The object of a turn."""
    return directory / PLACE / f"{number:06d}.json"


def newest(directory: epath.Path) -> int:
    """The number of the turn that counts; 0 before the first."""
    return max(_numbers(directory), default=0)


def take(directory: epath.Path, number: int, content: bytes) -> bool:
    """Begins a turn with an object of this content, which no other process writes alike, and removes earlier ones.
    Returns False where another process was faster."""
    mine = place(directory, number)
    if not create(mine, content) and read(mine) != content:  # it is ours where an answer was lost and asked for again
        return False
    if create(mine, content):  # the store lets everyone make it: the last one has it
        time.sleep(SETTLING)
        if read(mine) != content:
            return False
    numbers = _numbers(directory)
    if max(numbers) > number:  # others came and went since this number was the next
        mine.unlink(missing_ok=True)
        return False
    for earlier in numbers:
        if earlier < number:
            place(directory, earlier).unlink(missing_ok=True)
    return True


def end(directory: epath.Path, number: int) -> None:
    """Marks a turn as ended. Only the process that began it may do so."""
    with whole(place(directory, number)) as fresh:
        fresh.write_bytes(ENDED)


def _numbers(directory: epath.Path) -> list[int]:
    """The numbers of the turns that are there."""
    try:
        with answering(directory):
            names = [path.name.removesuffix(".json") for path in (directory / PLACE).iterdir()]
    except FileNotFoundError:
        return []
    return [int(name) for name in names if name.isdigit()]
