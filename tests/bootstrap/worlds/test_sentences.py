"""Where sentences end, and what words are, in whatever script."""

from random import Random

import pytest

from ratchet.bootstrap.worlds.world import Task, sentences, swapped, words


@pytest.mark.parametrize(
    "parts",
    [
        ["他来了！", "他走了。", "你呢？", "“好。”", "他说。"],
        ["価格は3.5円です。", "次です．", "終わり"],
        ["قال نعم.", "ذهب؟", "لا۔"],
        ["यह है।", "वह नहीं॥"],
        ["አንድ ነው።", "ሁለት ነው፧"],
        ["ฉันไปตลาด", "เขาอยู่บ้าน 3.5 บาท"],
        ["It is 3.5 m.", "It is red!", "Is it?!", "So..."],
        ["Dr. Smith met J. R. Tolkien at 5 p.m. on Monday.", "He left."],
        ["See example.com/a?b=c, e.g. Paris (cf. fig. 3), etc. and v1.2.3.", "Go."],
        ["He said \"Stop.\"", "Then (he left.)", "Done"],
        ["no. 5 is it.", "no.", "so i tap."],
        ["the lamp hums.", "it drips.", "no, it hums."],
        ["Well… maybe.", "Wait…", "No."],
        ["..."],
        [],
    ],
)
@pytest.mark.parametrize("between", [" ", "\n"])
def test_each_sentence_is_a_step_without_the_space_around_it(parts, between):
    text = f" {between.join(parts)} \n"
    assert [text[s.start : s.end] for s in sentences(text)] == parts


def test_a_line_of_a_list_keeps_its_number():
    text = "1. Tap it.\n2. Seal it. It was 5. So."
    assert [text[s.start : s.end] for s in sentences(text)] == ["1. Tap it.", "2. Seal it.", "It was 5.", "So."]


def test_scripts_without_spaces_need_none_after_a_mark():
    text = "他来了！他走了。“好。”次です.終わり"
    assert [text[s.start : s.end] for s in sentences(text)] == ["他来了！", "他走了。", "“好。”", "次です.", "終わり"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It's 3.5 m_2!", ["It", "s", "3", "5", "m_2"]),
        ("दुनिया, घी।", ["दुनिया", "घी"]),
        ("كَتَبَ", ["كَتَبَ"]),
        ("cafe\u0301 au", ["cafe\u0301", "au"]),
        ("熊猫。iPhone15手机", ["熊", "猫", "iPhone15", "手", "机"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("\u0301 ❤\ufe0f", []),
    ],
)
def test_a_word_keeps_the_marks_on_its_letters(text, found):
    assert words(text) == found


def wrong_steps(answer, *heard):
    """What may stand in place of the steps of an answer, over many draws."""
    return {(s.step, s.text) for n in range(30) for s in swapped(Task("t", (), ()), answer, heard, Random(n))}


@pytest.mark.parametrize(
    ("answer", "heard", "wrong"),
    [
        ("1. Put it into the tray.\n2. Call the clerk.", ("5 francs",), set()),
        ("1. Give him 3 francs.", ("5 francs",), {(0, f"1. Give him {n} francs.") for n in "15"}),
        ("It cost 900 francs.", ("900.0", "1,900", "1900"), {(0, f"It cost {n} francs.") for n in ("1,900", "1900")}),
        ("It cost 1,900 francs.", ("1900.00",), set()),
        ("Anna told me that Ann fell.", ("and Tom",), {(0, "Anna told me that Tom fell.")}),
        ("In 1984, 84 came.", ("7",), {(0, "In 7, 84 came.")}),
        ("他1984年来了。", ("他1990年来了。",), {(0, "他1990年来了。")}),
        ("It is 1.5km away.", ("7",), {(0, "It is 7km away.")}),
        ("On the 5th, v1.2.3 came.", ("7",), set()),
    ],
)
def test_a_swapped_name_or_number_makes_a_step_wrong(answer, heard, wrong):
    assert wrong_steps(answer, *heard) == wrong
