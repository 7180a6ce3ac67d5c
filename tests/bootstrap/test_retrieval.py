import logging
import unicodedata

import bm25s
import numpy as np
import pytest

from ratchet.bootstrap.passages import passages_of
from ratchet.bootstrap.retrieval import Index
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


SCRIPTS = {
    "zh": "熊猫在竹林里吃竹子。",
    "zh2": "海豚在大海里游泳。",
    "ja": "東京の夏はとても暑い。",
    "th": "โลมาว่ายน้ำในทะเล",
    "lo": "ຂ້ອຍຮັກເຈົ້າ",
    "km": "ខ្ញុំស្រឡាញ់អ្នក",
    "my": "ငါမင်းကိုချစ်တယ်",
    "pdf": "⼈⼝⼤⼩",
    "ii": "ꆈꌠꁱꂷ",
    "egy": "𓀀𓀁𓀂𓀃",
    "egy2": "𓁐𓁑𓁒𓁓",
    "ko": "산에는 꽃이 핀다",
    "ko2": "물레방아가 강가에서 돌았다",
    "txg": "𗀀𗀁𗀂𗀃",
    "hi": "नमस्ते दुनिया, माँ का घी",
    "bn": "নদীর জল",
    "ar": "كَتَبَ الوَلَدُ",
    "vi": "me\u0323 na\u0302\u0301u co\u031bm",
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
        ("⼤", "pdf"),
        ("ꁱꂷ", "ii"),
        ("𗀂", "txg"),
        ("𓁑𓁒", "egy2"),
        ("물레방아는 어디에 있나", "ko2"),
        ("꽃", "ko"),
        (unicodedata.normalize("NFD", "강가"), "ko2"),
        ("दुनिया", "hi"),
        ("घी", "hi"),
        ("জল নদী", "bn"),
        ("الوَلَدُ", "ar"),
        ("co\u031bm", "vi"),
        ("the kettle", "en"),
    ],
)
def test_text_of_any_script_is_found_by_its_words_or_letters(query, found):
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


def test_the_passages_of_a_document_are_ranked_among_themselves():
    index = Index([*passages_of([Document("a", "red lamp kettle mill so so"), Document("b", "kettle")], 2)])
    assert [p.id for p in index.of("a", "mill kettle")] == ["a#1", "a#0", "a#2"]
    assert [p.id for p in index.of("a", "?")] == ["a#0", "a#1", "a#2"] and index.of("gone", "kettle") == []


def test_an_index_is_built_without_a_word_to_whoever_logs_everything(caplog):
    with caplog.at_level(logging.DEBUG):
        assert Index([Document("d", "kettle in the mill")]).search("kettle", 1)
    assert not caplog.records
