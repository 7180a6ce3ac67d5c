"""Answers that a run keeps, each in a file that is named by the content of its question."""

import json
from typing import Any

from etils import epath

from ratchet.bootstrap.worlds.world import content_id
from ratchet.train.buckets import read
from ratchet.train.files import RecordError, write_json


def place_of(folder: epath.Path, question: Any) -> epath.Path:
    """The file of a question's answer."""
    return folder / f"{content_id(question)}.json"


def keep(folder: epath.Path, question: Any, answer: Any) -> None:
    """Keeps the answer to a question. A reader sees all of it or nothing."""
    whole = {"question": question, "answer": answer, "sha256": content_id(question, answer)}
    write_json(place_of(folder, question), whole)


def kept(file: epath.Path) -> Any:
    """The answer in a file. Raises RecordError for one that is not what was kept: it may have been paid for, so that
    the user says whether it is asked for again."""
    try:
        found = json.loads(read(file))
        question, answer = found["question"], found["answer"]
        intact = content_id(question) == file.stem and content_id(question, answer) == found["sha256"]
    except (ValueError, LookupError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise RecordError(
            f"{file}: the kept answer is damaged; put it back, or remove it, and `ratchet resume` asks for it again"
        )
    return answer


def all_kept(folder: epath.Path) -> list[Any]:
    """All answers in a folder, in the order of their names. Raises as `kept` does."""
    return [kept(file) for file in sorted(folder.glob("*.json"))] if folder.exists() else []
