import random

from ratchet.bootstrap.documents import duplicates
from ratchet.bootstrap.documents.duplicates import ALIKE, BATCH, firsts
from ratchet.bootstrap.worlds.world import Document


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(words, words[1:], words[2:], strict=False))


def versions(count: int) -> list[Document]:
    """Documents of a hundred words, each in four versions that differ in one, two and three words."""
    rng, made = random.Random(0), []
    for n in range(count):
        words = [f"w{rng.randrange(500)}" for _ in range(100)]
        for k in range(4):
            made.append(Document(f"{n} {k}", " ".join(words)))
            words[rng.randrange(100)] = f"x{k}"
    return made


def test_what_is_found_is_what_comparing_word_by_word_finds():
    made, expected = versions(15), []
    sets = [trigrams(d.text) for d in made]
    for n, own in enumerate(sets):
        near = [m for m in range(n) if expected[m] is None and len(own & sets[m]) >= ALIKE * len(own | sets[m])]
        expected.append(made[near[0]] if near else None)
    assert list(firsts(made)) == expected and 0 < sum(e is not None for e in expected) < 45


def test_documents_of_different_batches_are_compared(monkeypatch):
    made = versions(15)
    whole = list(firsts(made))
    monkeypatch.setattr(duplicates, "BATCH", 7)
    assert list(firsts(made)) == whole and len(made) < BATCH
    monkeypatch.setattr(duplicates, "LETTERS", 2 * len(made[0].text))
    assert list(firsts(made)) == whole and max(end - start for start, end in duplicates._batches(made)) == 2


def test_a_text_is_taken_apart_a_few_times_however_many_are_alike(monkeypatch):
    words = [f"w{n}" for n in range(300)]
    filled = lambda n: " ".join([*words[:60], f"x{n}", *words[60:120], f"y{n}", *words[120:200], f"z{n}", *words[200:]])
    apart, made = [], [Document(str(n), filled(n)) for n in range(90)]
    trigrams_of = duplicates._trigrams
    monkeypatch.setattr(duplicates, "_trigrams", lambda text: apart.append(text) or trigrams_of(text))
    assert list(firsts(made)) == [None] * 90, "so each of them is compared with all"
    assert len(apart) <= 3 * len(made)


def test_who_repeats_what_was_left_out_repeats_what_was_kept():
    words = [f"w{n}" for n in range(100)]
    near = [*words[:-1], "x"]
    made = [Document("a", " ".join(words)), Document("b", " ".join(near)), Document("c", " ".join(near).upper())]
    assert list(firsts(made)) == [None, made[0], made[0]]


def test_texts_without_words_repeat_what_is_the_same():
    texts = ("\u2803\u2817\u2801\u280a", "\u280d\u280a\u2807", "...", "!", " ...\n", "so", "∀∃⊢")
    found = list(firsts([Document(str(n), text) for n, text in enumerate(texts)]))
    assert [of and of.id for of in found] == [None, None, None, None, "2", None, None]
    assert list(firsts([])) == []
