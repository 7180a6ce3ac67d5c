import pytest
from support import told

from ratchet.bootstrap.config import SimulateConfig
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.simulate import shown_passages
from ratchet.bootstrap.tools import lookup
from ratchet.bootstrap.transcript import Document
from ratchet.bootstrap.worlds.language import CONTEXTS, options_of


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
    assert [d.id for d in index.search("kettle mill", 5, within=0.95)] == ["d0", "d1", "d2", "d3"]


def test_siblings_see_different_passages_that_tell_an_option_as_well(world):
    index, config, varied = Index(world.documents()), SimulateConfig(withhold=0.0, passages=2), 0
    two = [s for s in world.situations if len(s.actions) == 2]
    for s in two:
        task = world.task(s, CONTEXTS[0])
        shown = [shown_passages(index, task, sibling, config, "salt") for sibling in range(8)]
        assert all(any(o in p.text for p in passages) for passages in shown for o in options_of(task.question))
        varied += len({frozenset(p.id for p in passages) for passages in shown}) > 1
    assert varied >= len(two) / 4
    task = world.task(two[0], CONTEXTS[0])
    assert shown_passages(index, task, 1, config, "salt") == shown_passages(index, task, 1, config, "salt")


def test_lookup_never_shows_the_same_passage_again():
    index = Index([Document("a", "pull lever, roof leaks."), Document("b", "pull lever at noon.")])
    first = lookup(index, "the mill fails.", "pull lever", [])
    second = lookup(index, "the mill fails.", "pull lever", [first.id])
    assert {first.id, second.id} == {"a", "b"}
    assert lookup(index, "?", "pull lever", ["a", "b"]) is None


def test_a_lookup_of_what_is_known_finds_what_is_not():
    texts = {
        "shown": "mill fan: ida did seal hatch, road warms.",
        "again": "mill fan news: road warms after seal hatch.",
        "elsewhere": "our quarry tractor. i seal hatch: floor heals.",
        "new": "mill fan. why herd burns? drop pipe!",
    }
    index = Index([Document(i, text) for i, text in texts.items()])
    question = "the mill fan fails. seal hatch or drop pipe?"
    assert lookup(index, question, "drop pipe", ["shown"]).id == "new"
    assert lookup(index, question, "seal hatch", ["shown"]).id == "new"
    assert lookup(index, question, "seal hatch", ["shown", "new"]) is None, "the others repeat or are of another place"


def test_an_index_of_nothing_is_one_clear_line():
    with pytest.raises(ValueError, match="no text to index"):
        Index([])
