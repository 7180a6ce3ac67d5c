"""What people say of answers in the browser: the same file of labels as that of `ratchet label`."""

import json
import sqlite3
import threading
from collections.abc import Mapping

from etils import epath

from ratchet.bootstrap import certificate
from ratchet.bootstrap.certificate import OVERALL, Label


class Labels:
    """The labels of a run, in its directory."""

    def __init__(self, directory: epath.Path):
        self.path, self._writing = directory / certificate.LABELS, threading.Lock()

    def read(self) -> dict[tuple[str, str], bool]:
        """What was said, by transcript and criterion. Raises ValueError, naming the line, for a file that is
        damaged."""
        found = certificate.read_labels(self.path) if self.path.exists() else []
        return {(label.transcript, label.criterion): label.right for label in found}

    def add(self, label: Label) -> None:
        """Adds a label. Raises ValueError where the file is damaged: what is there must be mended first."""
        with self._writing:
            self.read()
            certificate.add_label(self.path, label)


def criteria(connection: sqlite3.Connection) -> list[str]:
    """What can be asked of an answer: whether it is right, and each criterion by its id."""
    return [OVERALL, *(row["name"] for row in connection.execute("select name from criterion order by name"))]


def next_one(
    connection: sqlite3.Connection, generation: int, criterion: str, said: Mapping[tuple[str, str], bool]
) -> str | None:
    """The answer of a generation that is asked about next, in the order of `ratchet label`; None when all were."""
    found = connection.execute(
        "select json_group_object(id, accepted) from transcript where generation = ? and source = 'answer' and "
        "accepted is not null and not repeats", (generation,)
    ).fetchone()[0]  # fmt: skip
    accepted = {name: bool(said_so) for name, said_so in json.loads(found).items()}
    order = certificate.in_turn(accepted, generation)
    return next((i for i in order if (i, criterion) not in said), None)
