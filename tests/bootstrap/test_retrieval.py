import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap.retrieval import LONGEST_WORD, Index, passages_of
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


@pytest.mark.parametrize(
    "text",
    [
        "江水流过山谷，渔夫在船上唱歌。" * 400,
        "แมวนอนบนหลังคา" * 500,
        "see 手机 iPhone15手机 " * 300,
        "ACGT" * 50_000,
        '{"a":[1,2,3]},' * 2000,
        "。" * 9000,
    ],
)
def test_text_without_spaces_is_cut_into_passages_of_bounded_size_that_cover_it(text):
    made = passages_of([Document("d", text)], 60)
    assert len(made) > 1 and max(len(p.text) for p in made) <= 60 * LONGEST_WORD
    assert "".join("".join(p.text.split()) for p in made) == "".join(text.split())


def test_two_letters_of_a_script_without_spaces_count_as_a_word():
    made = passages_of([Document("d", "熊猫在竹林里，吃。 so it is")], 3)
    assert [p.text for p in made] == ["熊猫在竹林里，", "吃。 so it", "is"]


def test_long_addresses_among_words_do_not_change_where_passages_end():
    text = f"see https://example.com/{'x' * 90} " + "so it is " * 30
    assert [p.text for p in passages_of([Document("d", text)], 60)] == [
        " ".join(text.split()[:60]), " ".join(text.split()[60:])
    ]  # fmt: skip


def test_white_space_makes_no_passage_longer():
    (made,) = passages_of([Document("d", "so" + " " * 100_000 + "it")], 60)
    assert made.text == "so it"


SCRIPTS = {
    "zh": "熊猫在竹林里吃竹子。",
    "zh2": "海豚在大海里游泳。",
    "ja": "東京の夏はとても暑い。",
    "th": "โลมาว่ายน้ำในทะเล",
    "lo": "ຂ້ອຍຮັກເຈົ້າ",
    "km": "ខ្ញុំស្រឡាញ់អ្នក",
    "my": "ငါမင်းကိုချစ်တယ်",
    "en": "a kettle in the mill",
}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("熊猫", "zh"),
        ("猫", "zh"),
        ("海豚 大海", "zh2"),
        ("夏は暑い?", "ja"),
        ("ทะเล", "th"),
        ("ຮັກ", "lo"),
        ("ស្រឡាញ់", "km"),
        ("ချစ်", "my"),
        ("the kettle", "en"),
    ],
)
def test_a_script_without_spaces_is_found_by_its_letters(query, found):
    index = Index([Document(name, text) for name, text in SCRIPTS.items()])
    assert index.search(query, 1)[0].id == found


def test_spaced_text_is_scored_as_bm25s_scores_it(world):
    texts = [d.text for part in world.slices for d in part.documents]
    theirs, index = bm25s.BM25(), Index([Document(str(n), text) for n, text in enumerate(texts)])
    theirs.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    words = bm25s.tokenize(texts[3], stopwords="en", return_ids=False, show_progress=False)[0]
    best = np.argsort(-theirs.get_scores(words), kind="stable")
    assert [p.id for p in index.search(texts[3], len(texts))] == [str(n) for n in best]


@pytest.mark.parametrize("texts", [["a b", "x"], ["the a", "is it"], ["...", "!"], ["😀", "🎉"], ["mill", "oil"]])
@pytest.mark.parametrize("query", ["", "the", "!?", "😀", "kettle"])
def test_without_words_passages_are_found_in_their_order(texts, query):
    index = Index([Document(f"d{n}", text) for n, text in enumerate(texts)])
    assert [d.id for d in index.search(query, 2)] == ["d0", "d1"]
    assert [d.id for d in index.search(query, 1, skip=["d0"], within=0.5)] == ["d1"]


def test_an_id_of_a_passage_means_one_text():
    long = " ".join(f"long{n}" for n in range(130))
    given = [Document("a", long), Document("a#0", "of bees"), Document("a#1", long), Document("a#0#0", "of bread")]
    made = passages_of(given, 60)
    assert len({p.id for p in made}) == len(made) == 3 + 1 + 3 + 1
    assert [p.document_id for p in made] == ["a"] * 3 + ["a#0"] + ["a#1"] * 3 + ["a#0#0"]


def test_a_passage_knows_its_document_whatever_the_meta_of_that_says():
    given = Document("a", "one two three", {"document": "other"})
    assert [p.document_id for words in (2, 9) for p in passages_of([given], words)] == ["a"] * 3


def test_the_passages_of_a_document_are_ranked_among_themselves():
    index = Index([*passages_of([Document("a", "red lamp kettle mill so so"), Document("b", "kettle")], 2)])
    assert [p.id for p in index.of("a", "mill kettle")] == ["a#1", "a#0", "a#2"]
    assert [p.id for p in index.of("a", "?")] == ["a#0", "a#1", "a#2"] and index.of("gone", "kettle") == []
