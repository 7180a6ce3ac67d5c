"""Copies of texts in what the loss reads, however they are hidden, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap.copies import GRAM, PIECE, Texts, copied, copied_and_pieces
from ratchet.bootstrap.examples import example, one_hot
from ratchet.bootstrap.transcript import Capture

STORY = list(range(100, 130))
"""A text of thirty different tokens, beside another that shares none with it."""
TEXTS = Texts([STORY, range(200, 220)])


def student(trained, prompt=(1, 2), targets=None, **lineage):
    return example(prompt, trained, targets or one_hot(trained), "student", lineage)


def found_in(*given):
    """Copies and pieces together."""
    return sum(copied_and_pieces(*given))


def soft(said, taught, share):
    """Targets with a share of the mass on what is taught, and the rest on what is said."""
    ids = np.stack([said, taught], 1).astype(np.int32)
    mass = np.tile(np.array([[1 - share, share]], np.float32), (len(said), 1))
    return Capture(ids, mass, np.zeros(len(said), np.float32))


def test_a_text_is_a_copy_of_itself_and_other_tokens_are_none():
    given = [student(STORY), student(range(300, 330)), student([*range(300, 330), *STORY])]
    assert found_in(given, TEXTS).tolist() == [30, 0, 30]
    assert found_in([], TEXTS).tolist() == [] and found_in([student(STORY)], Texts([])).tolist() == [0]


def test_a_quotation_within_an_answer_is_no_copy_until_it_is_long():
    said = lambda count: student([*range(300, 320), *STORY[:count], *range(320, 340)])
    assert found_in([said(GRAM - 1)], TEXTS).tolist() == [0] and found_in([said(GRAM)], TEXTS).tolist() == [GRAM]


@pytest.mark.parametrize("length", range(PIECE, GRAM))
def test_a_text_cut_into_examples_is_found_and_so_is_one_with_something_between(length):
    parts = [STORY[i : i + length] for i in range(0, len(STORY), length)]
    parts = [p for p in parts if len(p) >= PIECE]
    assert found_in([student(p) for p in parts], TEXTS).tolist() == list(map(len, parts))
    padded = [student([*p, 300 + n]) for n, p in enumerate(parts)]
    assert found_in(padded, TEXTS).tolist() == list(map(len, parts))
    assert not found_in([student(p) for p in parts[::2]], TEXTS).any(), "pieces that do not meet are phrases"


def test_copies_and_pieces_are_told_apart():
    whole, cut = [student(STORY)], [student(STORY[i : i + 6]) for i in range(0, 30, 6)]
    assert [found.tolist() for found in copied_and_pieces(whole, TEXTS)] == [[30], [0]]
    assert [found.tolist() for found in copied_and_pieces(cut, TEXTS)] == [[0] * 5, [6] * 5]
    assert copied(whole, TEXTS).tolist() == [30] and copied(cut, TEXTS).tolist() == [0] * 5


def test_tokens_of_next_to_no_weight_hide_no_piece():
    cut = []
    for i in range(0, 30, 6):
        e = student([*STORY[i : i + 6], *range(300, 310)])
        weights = np.where(e.tokens >= 300, 1e-9, e.weights).astype(np.float32)
        cut.append(type(e).create(e.tokens, weights, e.ids, e.probs, e.tail, origin="student", lineage={}))
    assert copied_and_pieces(cut, TEXTS)[1].tolist() == [6] * 5


def test_targets_are_read_under_the_names_that_they_had():
    said, pairs = list(range(300, 330)), [[token, token + 400] for token in STORY[::3]]
    exchanged = [t + 400 if n % 3 == 0 else t for n, t in enumerate(STORY)]
    assert found_in([student(said, targets=soft(said, exchanged, 0.99), renamed=pairs)], TEXTS).tolist() == [30]


def test_pieces_of_long_answers_are_quotations():
    parts = [student([*STORY[i : i + 5], *range(300, 310)]) for i in range(0, 30, 5)]
    assert not found_in(parts, TEXTS).any()


def test_a_continuation_of_a_beginning_in_the_prompt_is_found():
    found = found_in([student(STORY[n:], prompt=[1, *STORY[:n]]) for n in (10, 25, 29)], TEXTS)
    assert found.tolist() == [20, 5, 1]
    assert not found_in([student([300], prompt=[1, *STORY])], TEXTS).any(), "a prompt is not trained on"


def test_holes_in_the_weights_hide_nothing():
    whole = student(STORY)
    weights = whole.weights.copy()
    weights[2::GRAM] = 0
    holed = type(whole).create(
        whole.tokens, weights, *one_hot(whole.tokens[weights > 0]), origin="student", lineage={}
    )
    assert found_in([holed], TEXTS).tolist() == [int((weights > 0).sum())]


@pytest.mark.parametrize(("share", "found"), [(0.99, 30), (0.5, 30), (0.3, 30), (0.05, 0)])
def test_a_text_in_the_targets_is_found_from_a_likely_share_on(share, found):
    said = list(range(300, 330))
    assert found_in([student(said, targets=soft(said, STORY, share))], TEXTS).tolist() == [found]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_text_is_found_though_its_ids_are_likely_in_turns(every):
    """Here the likeliest id is the text's, there the second: no reading by rank has it whole."""
    said = [t if n % (every + 1) else 300 + n for n, t in enumerate(STORY)]
    taught = [300 + n if n % (every + 1) else t for n, t in enumerate(STORY)]
    assert found_in([student(said, targets=soft(said, taught, 0.4))], TEXTS).tolist() == [30]
    assert found_in([student(range(300, 330), targets=soft(range(300, 330), taught, 0.4))], TEXTS).tolist() == [0]


def test_readings_grow_no_faster_than_what_is_found():
    said = list(range(300, 330)) * 200
    targets = Capture(
        np.array([[s, 1000 + n, 9000 + n, 20000 + n] for n, s in enumerate(said)], np.int32),
        np.full((len(said), 4), 0.25, np.float32),
        np.zeros(len(said), np.float32),
    )
    assert found_in([student(said, targets=targets)], TEXTS).tolist() == [0]


def test_other_names_hide_no_text_and_a_false_claim_of_them_neither():
    pairs = [[token, token + 400] for token in STORY[::3]]
    exchanged = [t + 400 if n % 3 == 0 else t for n, t in enumerate(STORY)]
    assert found_in([student(exchanged, renamed=pairs)], TEXTS).tolist() == [30]
    assert found_in([student(STORY, renamed=pairs)], TEXTS).tolist() == [30]


def test_what_is_allowed_is_no_copy():
    assert not found_in([student(STORY)], TEXTS, [Texts([STORY])]).any()
    assert found_in([student(STORY)], TEXTS, [Texts([STORY[:20]])]).tolist() == [17], "the last are in no other"


@given(st.lists(st.lists(st.integers(2, 5), max_size=20), max_size=4), st.lists(st.integers(2, 5), max_size=20))
def test_windows_are_found_where_a_plain_search_finds_them(texts, said):
    said = [9, *said]
    grams = {tuple(t[i : i + GRAM]) for t in texts for i in range(len(t) - GRAM + 1)}
    inside = {i + k for i in range(len(said)) if tuple(said[i : i + GRAM]) in grams for k in range(GRAM)}
    padded = [*said, *range(100, 100 + 2 * len(said))]  # so long that pieces are quotations
    assert found_in([student(padded)], Texts(texts)).tolist() == [len(inside)]
