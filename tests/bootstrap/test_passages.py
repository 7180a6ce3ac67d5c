from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap.passages import LONGEST_REPEATED, LONGEST_WORD, REPEATED, passages_of
from ratchet.bootstrap.worlds.world import Document


def spans(made):
    return [(int(p.meta["start"]), int(p.meta["end"])) for p in made]


def covered(document: Document, made) -> bool:
    """Whether the passages go on through the document, cut nothing off but white space, and stand where they say."""
    text, places = document.text, spans(made)
    assert [text[start:end] for start, end in places] == [p.text for p in made]
    assert all(a < c and b < d for (a, b), (c, d) in zip(places, places[1:], strict=False)), (
        "each begins and ends later"
    )
    gaps = [text[b:c] for (_, b), (c, _) in zip([(0, 0), *places], [*places, (len(text), 0)], strict=True)]
    return not "".join(gaps).strip()


WORD = st.text("abcé漢字。.!?,;: \n\t", min_size=0, max_size=12)


@given(text=st.lists(WORD, max_size=60).map(" ".join), words=st.integers(1, 30))
def test_passages_cover_a_document_and_their_offsets_point_into_it(text, words):
    document = Document("d", text, {"k": "v"})
    made = passages_of([document], words)
    assert covered(document, made) and all(len(p.text.split()) <= words for p in made)
    assert len({p.id for p in made}) == len(made) and all(p.document_id == "d" and p.meta["k"] == "v" for p in made)
    if not text.strip() or len(made) == 1:
        assert made[0].text == text or made[0].text == text.strip()


def test_passages_of_several_documents_keep_their_order():
    made = passages_of([Document("a", "one two three"), Document("b", "four")], 2)
    assert [(p.id, p.text) for p in made] == [("a#0", "one two"), ("a#1", "three"), ("b", "four")]
    assert spans(made) == [(0, 7), (8, 13), (0, 4)]


STORY = (
    "A crow was thirsty. She found a pitcher with little water in it. Her beak was too short for it!\n\n"
    "She thought about it, and took a pebble.\nThen she took another. Pebble after pebble fell, until the\n"
    "water rose. The crow drank, and flew away. Mr. Fox, who had seen it, said nothing."
)


@pytest.mark.parametrize("words", [14, 18, 24, 30])
def test_passages_begin_and_end_with_sentences_and_say_the_last_ones_again(words):
    document = Document("crow", STORY)
    made = passages_of([document], words)
    assert covered(document, made) and len(made) > 1
    assert all(p.text[0].isupper() and p.text[-1] in ".!" for p in made)
    again = [max(0, b - c) for (_, b), (c, _) in zip(spans(made), spans(made)[1:], strict=False)]
    assert any(again), "they overlap"
    shared = [p.text[len(p.text) - n :].strip() for p, n in zip(made, again, strict=False) if n]
    assert all(len(said.split()) <= LONGEST_REPEATED * words for said in shared)
    assert all(said.count(".") + said.count("!") == 1 or len(said.split()) <= REPEATED * words for said in shared)


def test_a_line_that_no_sign_ends_goes_on_in_the_next():
    made = passages_of([Document("d", "one two\nthree four. five six\nseven eight. nine")], 4)
    assert [p.text for p in made] == ["one two\nthree four.", "five six\nseven eight.", "nine"]


def test_no_passage_begins_with_a_byte_order_mark():
    for text in ("one two three. \ufeffFour five six.", "甲乙丙丁戊己。\ufeff庚辛壬癸子丑。"):
        made = [p.text for p in passages_of([Document("d", text)], 3)]
        assert "".join("".join(made).split()) == "".join(text.replace("\ufeff", "").split())


def test_where_a_passage_does_not_fit_those_of_its_document_are_shorter():
    long = Document("long", "so it is, said he. " * 40)
    made = passages_of([long, Document("short", "so it is.")], 100, lambda text: len(text) <= 150)
    assert covered(long, made[:-1]) and max(len(p.text) for p in made) <= 150
    assert len({p.text for p in made}) < len(made) and made[-1].text == "so it is."
    (whole,) = passages_of([Document("d", "incomprehensibilities")], 100, lambda text: False)
    assert whole.text == "incomprehensibilities", "a word is not cut"


@pytest.mark.parametrize(
    "text",
    [
        "江水流过山谷，渔夫在船上唱歌。" * 400,
        "แมวนอนบนหลังคา" * 500,
        "𓀀𓀁𓀂𓀃" * 1000,
        "see 手机 iPhone15手机 " * 300,
        "ACGT" * 50_000,
        '{"a":[1,2,3]},' * 2000,
        "。" * 9000,
    ],
)
def test_text_without_spaces_is_cut_into_passages_of_bounded_size_that_cover_it(text):
    document = Document("d", text)
    made = passages_of([document], 60)
    assert len(made) > 1 and max(len(p.text) for p in made) <= 60 * LONGEST_WORD
    assert covered(document, made)


@pytest.mark.parametrize(
    "text",
    ["แมวนอนบนหลังคาและกินปลาในแม่น้ำ", "ແມວນອນຢູ່ເທິງຫຼັງຄາ", "ឆ្មា\u200bដេក\u200bលើ\u200bដំបូល", "ကြောင်သည်အမိုး",
     "か\u3099き\u3099"],
)  # fmt: skip
def test_no_passage_begins_with_a_mark_that_belongs_to_the_letter_before(text):
    document = Document("d", text * 200)
    made = passages_of([document], 20)
    assert covered(document, made) and len(made) >= 20
    assert not [p.text for p in made if category(p.text[0]) in ("Mn", "Mc")]


def test_two_letters_of_a_script_without_spaces_count_as_a_word():
    made = passages_of([Document("d", "熊猫在竹林里，吃。 so it is")], 3)
    assert [p.text for p in made] == ["熊猫在竹林里，", "吃。", "so it is"]


def test_long_addresses_among_words_do_not_change_where_passages_end():
    text = f"see https://example.com/{'x' * 90} " + "so it is " * 30
    assert [p.text for p in passages_of([Document("d", text)], 60)] == [
        " ".join(text.split()[:60]), " ".join(text.split()[60:])
    ]  # fmt: skip


def test_white_space_makes_no_passage_longer():
    made = passages_of([Document("d", "so" + " " * 100_000 + "it" + "\n" * 100_000)], 60)
    assert [p.text for p in made] == ["so", "it"]


def test_an_id_of_a_passage_means_one_text():
    long = " ".join(f"long{n}" for n in range(130))
    given = [Document("a", long), Document("a#0", "of bees"), Document("a#1", long), Document("a#0#0", "of bread")]
    made = passages_of(given, 60)
    assert len({p.id for p in made}) == len(made) == 3 + 1 + 3 + 1
    assert [p.document_id for p in made] == ["a"] * 3 + ["a#0"] + ["a#1"] * 3 + ["a#0#0"]


def test_a_passage_knows_its_document_whatever_the_meta_of_that_says():
    given = Document("a", "one two three", {"document": "other"})
    assert [p.document_id for words in (2, 9) for p in passages_of([given], words)] == ["a"] * 3
