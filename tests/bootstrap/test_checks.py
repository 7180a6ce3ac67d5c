"""The general rules, each on answers that pass and on answers that fail."""

from dataclasses import replace

import little
import pytest
from support import transcript

from ratchet.bootstrap.checks import GENERAL, reject_repeated
from ratchet.bootstrap.transcript import Review
from ratchet.bootstrap.worlds.world import Case, Document, Task

NO = "no,"
SEEKING = Task("t", ("d",), ({"role": "user", "content": "what does it do?"},), seek=("red hall lamp",))
ASKING = replace(SEEKING, seek=())


def failed(name: str, text: str, task: Task = SEEKING, limit: float | None = None, **fields) -> str:
    """The reason for which a general criterion fails an answer, or ""."""
    given = {"before": "", "finished": True, "calls": (), "passages": ()} | fields
    case = Case(task, text, steps=little.steps(text), siblings=(text,), **given)
    return GENERAL[name](case, limit, NO)


@pytest.mark.parametrize("name", GENERAL)
def test_a_right_answer_passes_every_criterion(name, world):
    for task in world.seed.tasks:
        assert failed(name, task.answer, task, passages=world.seed.documents) == ""


def test_an_answer_that_was_cut_off_is_not_finished():
    reason = "cut off by the length limit or by a call, or its text does not show all of it"
    assert failed("finished", "the red", finished=False) == reason


@pytest.mark.parametrize(
    ("text", "before", "reason"),
    [
        ("no, it hums.", "it drips.", ""),
        ("it hums.", "it drips.", "the wrong thought is not interrupted once, at the beginning"),
        ("it hums. no, it drips.", "it roars.", "the wrong thought is not interrupted once, at the beginning"),
        ("no, it hums. no, it drips.", "it roars.", "the wrong thought is not interrupted once, at the beginning"),
        ("it hums. there is no, or little, light. casino, too.", "", ""),
        ("no, it hums.", "", "an interruption where none belongs"),
        ("it hums. no, it drips.", "", "an interruption where none belongs"),
    ],
)
def test_a_wrong_thought_is_interrupted_once_at_the_beginning_and_nothing_else_is(text, before, reason):
    assert failed("interrupts", text, before=before) == reason


def test_the_interruption_is_read_letter_for_letter():
    case = Case(ASKING, "n.o it hums. nao, it drips.", "it drips.", True, (), (), (), ())
    assert GENERAL["interrupts"](case, None, "n.o") == ""
    assert GENERAL["interrupts"](replace(case, text="nao it hums."), None, "n.o")


def test_lookups_are_for_what_the_task_seeks():
    call = lambda query, name="lookup": {"calls": ((name, {"query": query}),)}
    assert failed("seeks", "x", **call(" red hall lamp ")) == ""
    assert failed("seeks", "x", **call("weather")) == "looks up what nobody asked about: weather"
    assert failed("seeks", "x", **call("w" * 100)).endswith(": " + "w" * 60)
    assert failed("seeks", "x", **call("weather", "other")) == "", "a world's own tools are its own matter"


def test_where_a_task_names_nothing_to_seek_lookups_have_to_be_short():
    call = lambda words: {"calls": (("lookup", {"query": " ".join("abcdefghijklmnop"[:words])}),)}
    assert failed("seeks", "x", ASKING, **call(12)) == ""
    assert failed("seeks", "x", ASKING, **call(13)).startswith("looks up what nobody asked about")
    unspaced = lambda letters: {"calls": (("lookup", {"query": "乌鸦和水罐的简单故事里说了什么"[:letters]}),)}
    assert failed("seeks", "x", ASKING, **unspaced(12)) == "" != failed("seeks", "x", ASKING, **unspaced(13))


def test_no_call_is_made_twice_and_no_more_than_a_limit():
    calls = lambda *queries: {"calls": tuple(("lookup", {"query": query}) for query in queries)}
    assert failed("thrifty", "x", **calls("a", "b")) == failed("thrifty", "x") == ""
    assert failed("thrifty", "x", **calls("a", "b", "a")) == 'calls twice: ["lookup", {"query": "a"}]'
    assert failed("thrifty", "x", limit=2, **calls("a", "b", "c")) == "3 calls"


def test_a_passage_is_not_pasted():
    words = "one two three four five six seven eight nine ten eleven twelve thirteen".split()
    passage = (Document("d", " ".join(words)),)
    assert failed("original", " ".join(["so", *words[:11]]), passages=passage) == ""
    assert failed("original", " ".join([*words[:12], "so"]), passages=passage) == f"pasted: {' '.join(words[:12])}"
    assert failed("original", " ".join(words[1:]), passages=passage).startswith("pasted: two three")
    assert failed("original", "a one, two! three b", passages=passage, limit=3) == "pasted: one two three"
    assert failed("original", "a one two b", passages=passage, limit=3) == ""
    assert failed("original", f"{' '.join(words)}.", passages=passage, limit=99) == f"pasted: {' '.join(words)}"
    assert failed("original", f"so {' '.join(words)}", passages=passage, limit=99) == ""


def test_a_passage_is_not_pasted_into_a_call():
    words = "one two three four five six seven eight nine ten eleven twelve thirteen".split()
    passage = (Document("d", " ".join(words)),)
    for given in ({"code": f"print('{' '.join(words)}')"}, {"notes": [{"of": 1, "text": " ".join(words[1:])}]}):
        assert failed("original", "so it is", passages=passage, calls=(("python", given),)).startswith("pasted: ")
    short = (("python", {"code": f"print('{' '.join(words[:11])}')", "count": 3}), ("lookup", {"query": "one two"}))
    assert failed("original", "so it is", passages=passage, calls=short) == ""


def accepted(t) -> Review:
    return Review(t.id, {}, True)


def test_a_repeated_sibling_is_rejected_with_its_reason(world):
    task = world.seed.tasks[0]
    twice = [transcript(task, task.answer, sibling=n) for n in range(2)]
    first, second = reject_repeated(twice, [accepted(t) for t in twice], None, True)
    assert first.accepted and not second.accepted
    assert second.verdicts["distinct"].reason == "repeats an accepted sibling"
    assert not second.verdicts["distinct"].passed and second.verdicts["distinct"].score == 0.0
    counted = reject_repeated(twice, [accepted(t) for t in twice], None, False)
    assert [r.accepted for r in counted] == [True, True] and counted[1].verdicts == second.verdicts


def test_other_words_other_tasks_and_rejected_siblings_are_left_alone(world):
    a, b = world.seed.tasks[:2]
    made = [
        transcript(a, a.answer),
        transcript(b, a.answer),
        transcript(a, "quite another thing is said here."),
        transcript(b, b.answer, sibling=1),
        transcript(b, b.answer, sibling=2),
    ]
    given = [replace(accepted(t), accepted=n != 3) for n, t in enumerate(made)]
    assert reject_repeated(made, given, None, True) == given


def test_how_alike_siblings_may_be_is_the_rubrics_to_say(world):
    task = world.seed.tasks[0]
    words = "it is said that on some nights the lamp of the old mill hums until the morning comes"
    made = [transcript(task, words), transcript(task, words.replace("morning", "evening"))]
    given = [accepted(t) for t in made]
    assert [r.accepted for r in reject_repeated(made, given, 0.95, True)] == [True, True]
    assert [r.accepted for r in reject_repeated(made, given, 0.5, True)] == [True, False]


def test_a_sibling_that_looked_it_up_repeats_none_that_was_shown_it(world):
    task = world.seed.tasks[0]
    calls = ((), ((3, 6),), ((3, 7),))
    made = [transcript(task, task.answer, sibling=n, called=called) for n, called in enumerate(calls)]
    assert [r.accepted for r in reject_repeated(made, [accepted(t) for t in made], None, True)] == [True, True, False]


RIVER = "老磨坊主每天傍晚都会走到河边数一数系船的绳子"


def test_a_clause_of_a_script_without_spaces_counts_by_its_letters():
    source = (Document("d", f"从前，{RIVER}，直到雨来。"),)
    assert failed("original", f"他说：{RIVER}。", passages=source).startswith("pasted: ")
    assert failed("original", f"他说：{RIVER[:11]}。", passages=source) == ""
    assert failed("original", f"他说：{RIVER[:6]}。", passages=source, limit=6).startswith("pasted: ")


def test_a_sibling_in_a_script_without_spaces_repeats_when_a_letter_differs():
    def repeated(*texts: str) -> list[bool]:
        made = [transcript(ASKING, text, sibling=n) for n, text in enumerate(texts)]
        return [not r.accepted for r in reject_repeated(made, [Review(t.id, {}, True) for t in made], 0.7, True)]

    assert repeated(RIVER, f"{RIVER}。", "绳子被雨水打湿了") == [False, True, False]


def test_an_interruption_is_found_after_the_marks_of_every_script():
    assert failed("interrupts", "它响。no, 它滴水。") == "an interruption where none belongs"
