import contextlib
import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap.documents.account import NoText
from ratchet.bootstrap.documents.encodings import BLOCK, clean, decoded, opened

SENTENCES = {
    "un café": ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1", "cp1252"),
    "Ça été déjà vu à Noël, dit le corbeau.": ("utf-8", "utf-16-be", "latin-1"),
    "Der Bär läuft über die Straße und trägt Grün.": ("latin-1",),
    "“Quoted” – it’s €5…": ("utf-8", "cp1252"),
    "Zażółć gęślą jaźń i kruk": ("cp1250",),
    "Привет мир, это простой текст о вороне и кувшине с водой.": ("cp1251", "utf-16-le"),
    "これは日本語の文章です。カラスは水差しに小石を落とした。": ("shift_jis", "utf-8"),
    "这是一个关于乌鸦和水罐的简单故事。\n第二行": ("gb18030", "utf-16-le", "utf-16-be"),
    "plain": ("ascii", "utf-16", "utf-16-le", "utf-16-be"),
}
CASES = [(text, form) for text, forms in SENTENCES.items() for form in forms]


@pytest.mark.parametrize(("text", "form"), CASES)
def test_a_text_is_read_in_whatever_it_is_encoded_in(text, form):
    assert clean(decoded(text.encode(form), "a.txt")) == text


@pytest.mark.parametrize(("text", "form"), CASES)
def test_lines_are_read_in_whatever_they_are_encoded_in(text, form):
    lines = [line.strip("\ufeff\r\n") for line in opened(io.BytesIO(f"{text}\r\n{text}".encode(form)), "a.csv")]
    assert lines == [*text.splitlines(), *text.splitlines()]


def test_what_comes_after_the_first_block_counts_too():
    plain = b"so it is.\n" * (BLOCK // 10 + 1)
    assert list(opened(io.BytesIO(plain + "un café".encode("latin-1")), "a"))[-1] == "un café"
    assert list(opened(io.BytesIO(plain + "un café".encode()), "a"))[-1] == "un café"


def test_a_damaged_or_torn_letter_does_not_change_what_the_others_mean():
    text = "mein Bär über Größe. " * 20
    assert decoded(text.encode() + b"\xff so", "a").startswith(text)
    assert decoded("Grüße é".encode()[:-1], "a").startswith("Grüße ")
    assert clean(decoded(b"so it is. " * 100 + b"\0", "a")) == "so it is. " * 100


def test_one_stray_byte_does_not_make_another_encoding_of_what_is_utf8():
    text = "It is told of a crow that it did what others do not. " * 20 + "He don’t. " * 3
    assert decoded(text.encode() + b"price \xa3 5", "a") == text + "price \ufffd 5"
    plain = b"so it is.\n" * (BLOCK // 10 + 1)
    said = list(opened(io.BytesIO("un café naïf\n".encode() + plain + b"un caf\xe9\n"), "a"))
    assert (said[0], said[-1]) == ("un café naïf\n", "un caf\ufffd\n"), "of all blocks together"


@pytest.mark.parametrize("name", ["été", "Élève", "à été", "øl", "à", "Å", "a é", "Günther Grün"])
def test_a_name_of_a_few_letters_may_have_many_accents(name):
    assert decoded(name.encode("cp1252"), "a") == name


@pytest.mark.parametrize("declared", ["iso-8859-1", "Latin1", "us-ascii", "windows-1252"])
def test_latin_is_what_browsers_take_it_for(declared):
    text = "He said “don’t” — and left the café."
    assert decoded(text.encode("cp1252"), "a", declared) == text
    assert decoded(text.encode(), "a", declared) == text, "nothing else is UTF-8 without a fault by chance"


@pytest.mark.parametrize("text", ["I don\ufffdt know", "\ufffd", "so it was\0", "\x1b so", "na\ufffdve, “so” it was"])
def test_faultless_utf8_is_utf8_whatever_signs_it_holds(text):
    assert decoded(text.encode(), "a") == text
    assert list(opened(io.BytesIO(text.encode()), "a")) == [text]


def test_what_a_page_declares_is_believed_when_it_can_be():
    text = "Кувшин".encode("koi8-r")
    assert decoded(text, "a", "koi8-r") == "Кувшин"
    for nonsense in ("klingon", "rot13", "hex", "utf-8", "undefined"):
        assert decoded("un café".encode("latin-1"), "a", nonsense) == "un café"


def test_marks_and_control_characters_are_no_part_of_a_text_and_lines_end_alike():
    assert (clean(" \n\ufefftwo \ufeff"), clean(" \n two")) == (" \ntwo ", " \n two")
    for before in ("\x00", "\x07\x1a", "\ufeff\x00\ufeff", "\ufeff\x07\n\ufeff"):
        assert clean(f"{before}\ufefftwo").lstrip() == "two", "a mark behind what is no part of a text either"
    assert clean("one\n\ufefftwo\r\n\ufeff\ufeffthree") == "one\ntwo\nthree", "files that were put together"
    assert clean("half \ud800 a letter, and 😀") == "half \ufffd a letter, and 😀"
    assert clean("\ufeff\ufeffone\r\ntwo\rthree\x00\x07 in\ufeffside\tx") == "one\ntwo\nthree in\ufeffside\tx"


PICTURE = bytes([137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 2, 0])


@pytest.mark.parametrize("content", [PICTURE, bytes(range(256)) * 4, b"\0" * 100, b"\x01\x02\x03\x04"])
def test_what_is_no_text_is_said_to_be_none(content):
    with pytest.raises(NoText, match="^is no text in any encoding$"):
        decoded(content, "a.txt")


@given(st.binary(max_size=80))
def test_no_bytes_are_too_much(content):
    with contextlib.suppress(NoText):
        assert isinstance(decoded(content, "a.txt"), str)


def test_bytes_at_random_are_no_text():
    with pytest.raises(NoText, match="no text"):
        decoded(random.Random(0).randbytes(4000), "a.txt")
