"""What was in view of a transcript: the texts of its passages, which only the world of its run has."""

import threading
from collections.abc import Sequence

from etils import epath

from ratchet.bootstrap import config_files, lineage
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.run import Run


class Sources:
    """The passages of a run. Its documents are read when they are first asked for, which may take seconds."""

    def __init__(self, directory: epath.Path):
        self._directory, self._lock, self._run = directory, threading.Lock(), None

    def texts(self, ids: Sequence[str]) -> list[tuple[str, str]]:
        """(id, text) of these passages. Raises ValueError or OSError, in a line, when the run cannot be read."""
        if not ids:
            return []
        found = lineage.passages(self._opened(), ids)
        return [(i, found.get(i, "")) for i in ids]

    def _opened(self) -> Run:
        with self._lock:
            if self._run is None:
                config = config_files.saved(self._directory)
                self._run = runs.prepare(self._directory, config, Silent(), writes=False)
            return self._run
