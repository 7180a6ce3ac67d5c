import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap.worlds.answers import f1, grade, holds, normalised


def squad_f1(said: str, known: str) -> float:
    """As SQuAD's own script computes it (Rajpurkar et al. 2016)."""

    def plain(text):
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(w for w in text.split() if w not in ("a", "an", "the")).split()

    a, b = plain(said), plain(known)
    same = sum((Counter(a) & Counter(b)).values())
    if not same:
        return 0.0
    precision, recall = same / len(a), same / len(b)
    return 2 * precision * recall / (precision + recall)


WORDS = "the a an Crow crow's U.S. US 1,990 1990 drank, (water) well-known in".split()
TEXT = st.lists(st.sampled_from(WORDS), min_size=1)


@given(said=TEXT.map(" ".join), known=TEXT.map(" ".join))
def test_words_in_common_are_counted_as_squad_counts_them(said, known):
    if set(normalised(known)) - {"the", "a", "an"} and set(normalised(said)) - {"the", "a", "an"}:
        assert f1(said, [known]) == pytest.approx(squad_f1(said, known))


@pytest.mark.parametrize(
    ("said", "known", "label"),
    [
        ("The crow dropped a pebble into the pitcher.", ["a pebble"], "holds"),
        ("It was the U.S., in 1,990.", ["us"], "holds"),
        ("They party.", ["art"], "wrong"),
        ("Vitamin A.", ["A"], "holds"),
        ("It is vitamin C.", ["vitamin A"], "wrong"),
        ("They chose the other plan, of which we know nothing.", ["Plan A"], "wrong"),
        ("He wrote A Tale of Two Cities.", ["a tale of two cities"], "holds"),
        ("A crow did.", ["the crow"], "holds"),
        ("It was about 35.", ["3.5"], "wrong"),
        ("It was about 3.5.", ["5"], "wrong"),
        ("It cost 150 dollars in all.", ["$1.50"], "wrong"),
        ("It cost 1.50 dollars.", ["$1.50"], "holds"),
        ("They left at 1230.", ["12:30"], "wrong"),
        ("It was 5 degrees outside.", ["-5"], "wrong"),
        ("It was -5 degrees outside.", ["5"], "wrong"),
        ("It was \u22125 degrees.", ["-5"], "holds"),
        ("It is written in C.", ["C#"], "wrong"),
        ("It is written in C++.", ["C"], "wrong"),
        ("It is written in C#.", ["c#"], "holds"),
        ("From 1990\u20131995.", ["1990-1995"], "holds"),
        ("There were twenty four.", ["twenty-four"], "holds"),
        ("It is non\u2011stop.", ["nonstop"], "holds"),
        ("It sold 1,000 of them.", ["1000"], "holds"),
        ("It is 1,5 km away.", ["1.5 km"], "holds"),
        ("It is 1,5 km away.", ["15 km"], "wrong"),
        ("It was minus 5 degrees.", ["-5"], "holds"),
        ("It was \u20135 degrees.", ["-5"], "holds"),
        ("It was \u20135 degrees.", ["5"], "wrong"),
        ("It is a non-violent protest.", ["violent"], "wrong"),
        ("The ex-king of all France came.", ["the king"], "wrong"),
        ("It is 3/4 of a mile.", ["4"], "wrong"),
        ("They won 3-2.", ["2"], "wrong"),
        ("They won 3-2.", ["3:2"], "holds"),
        ("It lasted from 1990-1995.", ["1995"], "wrong"),
        ("It was well known to all of them.", ["well-known"], "holds"),
        ("They chose plan a here.", ["Plan A"], "holds"),
        ("It is vitamin a which helps.", ["Vitamin A"], "holds"),
        ("a", ["A"], "holds"),
        ("General Subutai", ["Subutai and Jebe"], "wrong"),
        ("Generals Subutai and Jebe of Khan", ["Subutai, Jebe"], "overlaps"),
        ("I do not know.", ["x", "do not know"], "holds"),
        ("在1990年，他们喝了水。", ["1990年"], "holds"),
        ("他们喝了水", ["喝水"], "overlaps"),
        ("", ["crow"], "wrong"),
        ("...", ["crow"], "wrong"),
        ("The sign of shares is %.", ["%"], "holds"),
        ("It is a share.", ["%"], "wrong"),
        ("It is a share.", [" "], "wrong"),
    ],
)
def test_an_answer_is_right_when_it_holds_a_known_one_or_shares_half_its_words(said, known, label):
    assert (grade(said, known).label, grade(said, known).right) == (label, label != "wrong")


def test_the_best_of_several_known_answers_counts():
    assert f1("the crow", ["a fox", "crow"]) == 1.0 and f1("the crow", ["a fox", "a dog"]) == 0.0


def test_words_are_held_whole_and_in_a_row():
    assert holds("one two three", "two three")
    assert not holds("one two three", "one three") and not holds("twofold", "two")
