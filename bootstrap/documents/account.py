"""What was left out of what is read, and why; how a run keeps it and tells it."""

import importlib
from collections import Counter
from collections.abc import Sequence
from types import ModuleType
from typing import Literal, NamedTuple

from etils import epath

from ratchet.bootstrap.progress import Progress
from ratchet.models.extras import installing
from ratchet.train.files import write_json

FILE = "documents.json"
"""The file of a run that says what was read and what was not."""
LISTED = 5
"""Sources that cannot be read and are named on the terminal; the file names all."""


class LeftOut(NamedTuple):
    """Something that is no document: where it lies, why it was left out, and which kind of thing it is.

    A source is "unread" that could not be read or gave no text, "repeated" when it says nearly the same as an earlier
    one, and "other" when it is of a kind that nobody asked for, such as a picture beside texts.
    """

    source: str
    reason: str
    kind: Literal["unread", "repeated", "other"] = "unread"


class NotInstalled(ValueError):
    """A library of the extra `documents` is needed and not there."""


class NoText(ValueError):
    """What was read is no text; the message says why, as in "is no text in any encoding"."""


def library(module: str, source: str) -> ModuleType:
    """A library of the extra `documents`. Raises NotInstalled, which names the extra, where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = error.name or module
        raise NotInstalled(f"documents: {source} needs {name}; {installing('documents')}") from error


def because(error: Exception) -> str:
    """Why a source cannot be read, in one line: what the system or the library that read it says."""
    if isinstance(error, NoText):
        return str(error)
    said = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot be read ({(said or type(error).__name__).splitlines()[0].rstrip('.')})"


class Account(NamedTuple):
    """How many documents and questions were read from a path, and what was left out there."""

    path: str
    documents: int
    questions: int
    left_out: Sequence[LeftOut]

    def of(self, kind: str) -> list[LeftOut]:
        """What was left out of one kind."""
        return [one for one in self.left_out if one.kind == kind]

    def keep(self, directory: epath.Path) -> None:
        """Writes documents.json into a run's directory: counts, and every source left out with its reason."""
        listed = {kind: [[o.source, o.reason] for o in self.of(kind)] for kind in ("unread", "repeated")}
        counts = {"path": self.path, "documents": self.documents, "questions": self.questions}
        write_json(directory / FILE, counts | listed | {"other": Counter(o.reason for o in self.of("other"))})

    def tell(self, progress: Progress) -> None:
        """Says in one line how much was read, and in one for each of the first few what could not be read."""
        unread, repeated, other = (self.of(kind) for kind in ("unread", "repeated", "other"))
        asked = f" and {self.questions} questions" if self.questions else ""
        kinds = ", ".join(sorted({o.reason for o in other}))
        more = [
            f"{len(unread)} could not be read" if unread else "",
            f"{len(repeated)} nearly the same as others left out" if repeated else "",
            f"{len(other)} of other kinds passed by ({kinds})" if other else "",
        ]
        progress.line("; ".join([f"documents: {self.documents} read from {self.path}{asked}", *filter(None, more)]))
        for one in unread[:LISTED]:
            progress.line(f"documents: {one.source} {one.reason}")
        if len(unread) > LISTED:
            progress.line(f"documents: {len(unread) - LISTED} more are listed in {FILE} of the run")
