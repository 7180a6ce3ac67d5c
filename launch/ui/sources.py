"""What was in view of a transcript: the texts of its passages, which only the world of its run has."""

import threading
from collections.abc import Sequence
from dataclasses import replace

from etils import epath

from ratchet.bootstrap import config_files, lineage
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.config import Config
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.run import Run
from ratchet.train.sharding import MeshConfig


class Sources:
    """The passages of a run. Its documents are read when they are first asked for, which may take seconds, and again
    when it goes on with other settings."""

    def __init__(self, directory: epath.Path):
        self._directory, self._lock, self._run = directory, threading.Lock(), None
        self._config: Config | None = None

    def texts(self, ids: Sequence[str]) -> list[tuple[str, str]]:
        """(id, text) of these passages. Raises ValueError or OSError, in a line, when the run cannot be read."""
        if not ids:
            return []
        found = lineage.passages(self._opened(), ids)
        return [(i, found.get(i, "")) for i in ids]

    def _opened(self) -> Run:
        with self._lock:
            try:
                config = config_files.saved(self._directory)
            except (ValueError, OSError):
                if self._run is None:
                    raise
                return self._run  # which it was a moment ago
            if self._run is None or config != self._config:
                here = replace(config, mesh=MeshConfig())  # the run's may be of devices that are not here
                self._run, self._config = runs.prepare(self._directory, here, Silent(), writes=False), config
            return self._run
