import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap.retrieval import Index, passages_of
from ratchet.bootstrap.worlds.world import Document


def test_the_passage_about_what_is_sought_is_found_among_all(world):
    index = Index([d for part in (world.seed, world.fresh, *world.slices) for d in part.documents])
    assert len(index.passages) == 20
    for part in (world.seed, world.fresh, *world.slices):
        for task in part.tasks:
            found = [index.search(task.question, 1, twice=sought)[0].id for sought in task.seek]
            assert found == list(task.document_ids)


def test_ties_go_to_the_earlier_passage_and_what_was_seen_is_skipped():
    same = [Document(f"d{i}", "kettle in the mill") for i in range(4)]
    index = Index([*same, Document("other", "nothing alike")])
    assert [d.id for d in index.search("kettle mill", 3)] == ["d0", "d1", "d2"]
    assert [d.id for d in index.search("kettle mill", 3, skip=["d0", "d2"])] == ["d1", "d3", "other"]
    assert [d.id for d in index.search("kettle mill", 1, skip=["other"])] == ["d0"]
    assert [d.id for d in index.search("unheard words", 2)] == ["d0", "d1"]
    assert [d.id for d in index.search("kettle mill", 5, within=0.95)] == ["d0", "d1", "d2", "d3"]


def test_many_ties_keep_their_order():
    index = Index([Document(str(i), "kettle in the mill") for i in range(100)])
    assert [d.id for d in index.search("kettle", 100)] == [str(i) for i in range(100)]


def test_an_index_of_nothing_is_one_clear_line():
    with pytest.raises(ValueError, match="documents: there is no text to index") as caught:
        Index([])
    assert "\n" not in str(caught.value)


@given(count=st.integers(0, 200), words=st.integers(1, 50))
def test_passages_cover_a_document_word_for_word(count, words):
    document = Document("d", "  ".join(f"w{i}" for i in range(count)), {"k": "v"})
    made = passages_of([document], words)
    assert [w for p in made for w in p.text.split()] == document.text.split()
    assert all(len(p.text.split()) <= words for p in made)
    if len(made) > 1:
        assert [p.id for p in made] == [f"d#{i}" for i in range(len(made))]
        assert all(p.meta == {"k": "v", "document": "d"} for p in made)
    else:
        assert made == [document]


def test_passages_of_several_documents_keep_their_order():
    made = passages_of([Document("a", "one two three"), Document("b", "four")], 2)
    assert [(p.id, p.text) for p in made] == [("a#0", "one two"), ("a#1", "three"), ("b", "four")]
