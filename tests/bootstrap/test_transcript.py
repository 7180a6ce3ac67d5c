import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support import distributions

from ratchet.bootstrap.transcript import (
    Capture,
    Review,
    Transcript,
    Verdict,
    certain,
    review_from_json,
    to_json,
    transcript_from_json,
)

IDS = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)
MASSES = st.floats(2**-10, 1, width=32)


def capture_of(first_N, masses_N3) -> Capture:
    """Two kept ids a token, one after the other, and the tail."""
    probs_N3 = masses_N3 / masses_N3.sum(axis=1, keepdims=True)
    return Capture(np.stack([first_N, first_N + 1], axis=1), probs_N3[:, :2], probs_N3[:, 2])


CAPTURES = st.integers(1, 3).flatmap(
    lambda n: st.builds(
        capture_of,
        arrays.arrays(np.int32, (n,), elements=st.integers(0, 2**20)),
        arrays.arrays(np.float32, (n, 3), elements=MASSES),
    )
)
CALL = {"id": "c", "type": "function", "function": {"name": "lookup", "arguments": '{"query":" a \\"b\\""}'}}
MESSAGES = ({"role": "user", "content": "é <|yes|>\n"}, {"role": "assistant", "tool_calls": [CALL]})
TRANSCRIPTS = st.builds(
    Transcript,
    id=st.text(),
    task_id=st.text(),
    generation=st.integers(),
    sibling=st.integers(),
    source=st.sampled_from(["answer", "inverted", "spoiled"]),
    prompt=IDS,
    student_prompt=IDS,
    tokens=IDS,
    text=st.text(),
    passages=st.lists(st.text(), max_size=2).map(tuple),
    finished=st.booleans(),
    capture=CAPTURES,
    forced=IDS,
    forced_text=st.text(),
    fault=st.text(),
    called=st.lists(st.tuples(st.integers(), st.integers()), max_size=2).map(tuple),
    messages=st.just(MESSAGES),
)


@given(TRANSCRIPTS)
def test_a_transcript_comes_back_from_json_as_it_was(transcript):
    found = transcript_from_json(to_json(transcript))
    for name, value in vars(transcript).items():
        if name != "capture":
            assert getattr(found, name) == value, name
    np.testing.assert_allclose(found.capture.tail_N, transcript.capture.tail_N, atol=2e-3)
    for kept, expected in zip(distributions(found.capture), distributions(transcript.capture), strict=True):
        assert kept == pytest.approx(expected, abs=2e-3), "log-probabilities are kept in float16"


@given(st.dictionaries(st.text(), st.builds(Verdict, st.floats(0, 1), st.booleans(), st.text()), max_size=3))
def test_a_review_comes_back_from_json_as_it_was(verdicts):
    review = Review("id", verdicts, False)
    assert review_from_json(to_json(review)) == review


def test_a_file_of_transcripts_opens_in_any_chat_tool():
    made = transcript()
    assert json.loads(to_json(made))["messages"] == list(MESSAGES)


def transcript() -> Transcript:
    none = certain((7,))
    return Transcript("i", "t", 0, 0, "answer", (), (), (7,), "right.", (), True, none, messages=MESSAGES)


def test_the_answer_includes_what_was_put_in_its_mouth():
    made = transcript()
    assert made.answer == "right."
    assert dataclasses.replace(made, forced_text="wrong.").answer == "wrong. right."


def test_calls_are_read_from_the_messages():
    assert transcript().calls == (("lookup", {"query": ' a "b"'}),)


def test_certain_distributions_put_everything_on_the_given_tokens():
    found = certain((7, 9), 3)
    assert found.ids_NK.shape == found.probs_NK.shape == (2, 3)
    np.testing.assert_array_equal(found.ids_NK[:, 0], [7, 9])
    np.testing.assert_array_equal(found.probs_NK, [[1, 0, 0]] * 2)
    np.testing.assert_array_equal(found.tail_N, [0, 0])
