"""Labelled questions about documents: a JSONL file with `question`, `answer` and `document` in every line."""

import difflib
from collections.abc import Mapping, Set
from typing import Any

from ratchet.bootstrap.documents.account import LISTED, LeftOut, because
from ratchet.bootstrap.documents.encodings import clean
from ratchet.bootstrap.documents.folder import identity
from ratchet.bootstrap.documents.tables import jsonl
from ratchet.bootstrap.worlds import Question
from ratchet.train.nearby import nearby


def questions(path: str, ids: Mapping[str, Set[str]]) -> list[Question | LeftOut]:
    """The questions of a file in order, and the lines that are none or are about no document that was read.

    A document is named by its id or its source; `ids` has by each the ids of those that are called so. Raises
    ValueError when the file cannot be read, and when no question is left.
    """
    place, found, unread = nearby(path), [], 0
    try:
        if identity(place) is None:  # a pipe or a device, which may have no end
            raise ValueError(f"documents: {path} is no file; mend --documents.questions")
        with place.open("rb") as file:
            for number, row in jsonl(file, place.name):
                hint = unread < LISTED  # to look for the nearest name takes long, and no more lines are shown
                source = f"{place.name}:{number}"
                found.append(row if isinstance(row, LeftOut) else _question(row, source, ids, hint))
                unread += isinstance(found[-1], LeftOut)
    except OSError as error:
        raise ValueError(f"documents: {path} {because(error)}; mend --documents.questions") from error
    if not any(isinstance(one, Question) for one in found):
        why = f": {found[0].source} {found[0].reason}" if found else ""
        raise ValueError(f"documents: there is no question in {path}{why}; mend --documents.questions")
    return found


def _question(row: Mapping[str, Any], source: str, ids: Mapping[str, Set[str]], hint: bool) -> Question | LeftOut:
    row, said = {clean(name): value for name, value in row.items()}, {}
    for name in Question._fields:
        value = row.get(name)
        said[name] = clean(str(value)).strip() if isinstance(value, str | int | float) else ""
        if not said[name]:
            return LeftOut(source, f"has no text `{name}`")
    asked = Question(**said)
    if not (called := ids.get(asked.document)):
        near = difflib.get_close_matches(asked.document, ids, n=1, cutoff=0.0) if hint and len(ids) < 10_000 else []
        nearest = f"; the nearest is {near[0]!r}" if near else ""
        return LeftOut(source, f"is about {asked.document!r}, which is no document that was read{nearest}")
    if len(called) > 1:
        either = " and ".join(map(repr, sorted(called)))
        return LeftOut(source, f"is about {asked.document!r}, which the documents {either} are both called")
    return asked._replace(document=min(called))
