import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap.transcript import (
    Capture,
    Review,
    Transcript,
    Verdict,
    content_id,
    review_from_json,
    to_json,
    transcript_from_json,
)

IDS = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)
CAPTURES = st.integers(0, 3).flatmap(
    lambda n: st.builds(
        Capture,
        ids=st.just(tuple((i, i + 1) for i in range(n))),
        probs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=n, max_size=n).map(tuple),
        tail=st.lists(st.floats(0, 1), min_size=n, max_size=n).map(tuple),
    )
)
TRANSCRIPTS = st.builds(
    Transcript, id=st.text(), task_id=st.text(), generation=st.integers(), sibling=st.integers(), prompt=IDS,
    student_prompt=IDS, tokens=IDS, text=st.text(), passages=st.lists(st.text(), max_size=2).map(tuple),
    finished=st.booleans(), capture=CAPTURES, forced=IDS, forced_text=st.text(),
    called=st.lists(st.tuples(st.integers(), st.integers()), max_size=2).map(tuple),
    messages=st.just(({"role": "user", "content": "é <|yes|>\n"},)),
)  # fmt: skip


@given(TRANSCRIPTS)
def test_a_transcript_comes_back_from_json_as_it_was(transcript):
    assert transcript_from_json(to_json(transcript)) == transcript


@given(st.dictionaries(st.text(), st.builds(Verdict, st.floats(0, 1), st.booleans(), st.text()), max_size=3))
def test_a_review_comes_back_from_json_as_it_was(verdicts):
    review = Review("id", verdicts, False)
    assert review_from_json(to_json(review)) == review


def test_identity_is_the_content():
    assert content_id("a", 1) == content_id("a", 1) != content_id("a", "1")
    assert content_id(["ab", "c"]) != content_id(["a", "bc"])
    assert content_id({"a": 1, "b": 2}) == content_id({"b": 2, "a": 1})
    assert len(content_id()) == 16


def test_the_answer_includes_what_was_put_in_its_mouth():
    made = Transcript("i", "t", 0, 0, (), (), (), "right.", (), True)
    assert made.answer == "right."
    assert dataclasses.replace(made, forced_text="wrong.").answer == "wrong. right."
