"""What a simulating model may call. Tools are plain functions: no network, no files, bounded output."""

from collections.abc import Sequence

from bootstrap.retrieval import Index
from bootstrap.transcript import Document


def lookup(index: Index, question: str, query: str, shown: Sequence[str]) -> Document | None:
    """The best passage for a query asked within a question, other than those already shown."""
    found = index.search(f"{question} {query} {query}", 1, skip=shown)
    return found[0] if found else None
