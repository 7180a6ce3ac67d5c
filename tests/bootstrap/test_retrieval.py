import pytest
from support import told

from bootstrap.retrieval import Index
from bootstrap.tools import lookup
from bootstrap.transcript import Document
from bootstrap.worlds.language import CONTEXTS, options_of


def test_the_passages_about_a_situation_are_found_among_all(world):
    index = Index(world.documents())
    hits = 0
    for s in world.situations:
        task = world.task(s, CONTEXTS[0])
        own = {d.id for d in told(world, s)}
        hits += sum(index.search(f"{task.question} {o} {o}", 1)[0].id in own for o in options_of(task.question))
    assert hits >= 0.9 * sum(len(s.actions) for s in world.situations)


def test_ties_go_to_the_earlier_passage_and_what_was_seen_is_skipped():
    same = [Document(f"d{i}", "kettle in the mill") for i in range(4)]
    index = Index([*same, Document("other", "nothing alike")])
    assert [d.id for d in index.search("kettle mill", 3)] == ["d0", "d1", "d2"]
    assert [d.id for d in index.search("kettle mill", 3, skip=["d0", "d2"])] == ["d1", "d3", "other"]
    assert [d.id for d in index.search("unheard words", 2)] == ["d0", "d1"]


def test_lookup_never_shows_the_same_passage_again():
    index = Index([Document("a", "pull lever, roof leaks."), Document("b", "pull lever at noon.")])
    first = lookup(index, "the mill fails.", "pull lever", [])
    second = lookup(index, "the mill fails.", "pull lever", [first.id])
    assert {first.id, second.id} == {"a", "b"}
    assert lookup(index, "?", "pull lever", ["a", "b"]) is None


def test_an_index_of_nothing_is_one_clear_line():
    with pytest.raises(ValueError, match="no text to index"):
        Index([])
