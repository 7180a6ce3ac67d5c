"""Tokens to text: whole letters, up to a stop string, none of which is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.launch.serve import answers
from ratchet.launch.serve.words import Word, Words, spelled


class Bytes:
    """A tokenizer whose ids are bytes; 256 and 257 are special, 258 spells what 97 spells."""

    left_out = frozenset({256, 257})

    def spell(self, token):
        return b"a" if token == 258 else f"<{token}>".encode() if token > 255 else bytes([token])


def shown(text, stops, tokens=None, opening=None):
    """What is shown after each token that leaves no doubt whether it opens a call, and at the end."""
    words, parts = Words(Bytes(), stops, opening=opening), []
    for token in tokens or text.encode():
        words.add(token)
        parts += [] if words.unsure else [words.fresh()]
        if words.stopped or words.opened:
            break
    else:
        words.end()
    return [*parts, words.fresh(ended=True)], words


@given(st.text(alphabet="aé字🙂b", max_size=12), st.lists(st.text(alphabet="ab字", min_size=1, max_size=3), max_size=3))
def test_what_is_shown_part_by_part_is_the_text_up_to_the_first_stop_string(text, stops):
    parts, words = shown(text, stops)
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    want = text
    if ends:
        said = text[: ends[0]]
        want = said[: min(said.find(stop) for stop in stops if stop in said)]
    assert "".join(parts) == want == words.text and words.stopped == bool(ends)


def test_what_may_begin_a_stop_string_waits_and_is_shown_when_it_does_not():
    assert shown("xabab!", ["abc"])[0] == ["x", "", "", "ab", "", "ab!", ""]
    assert shown("xab", ["abc"])[0] == ["x", "", "", "ab"], "the end shows what waited"


def test_special_tokens_are_no_text_and_broken_letters_are_marked():
    assert "".join(shown("", [], [97, 256, 98])[0]) == "ab"
    assert "".join(shown("", [], [0xE5, 0xAD])[0]) == "\ufffd"
    whole = Words(Bytes(), whole=True)
    assert [whole.add(token) for token in (97, 256, 0xE5, 0xAD, 0x97, 98)] == [0, 1, 6, 6, 6, 7]
    assert whole.text == "a<256>字b"
    assert spelled(Bytes(), 0xE5) == "bytes:\\xe5" and spelled(Bytes(), 98) == "b"


@pytest.mark.parametrize("space", ["", " ", "\n\n"])
def test_a_symbol_opens_a_call_wherever_it_comes_and_space_before_it_is_not_shown(space):
    for said in ("", "a", "a b"):
        parts, words = shown("", ["x"], [*f"{said}{space}".encode(), 257, *b"xy"], opening=257)
        assert "".join(parts) == said and words.opened and not words.stopped
    assert "".join(shown(f"a{space}b{space}", [], opening=257)[0]) == f"a{space}b{space}"
    parts, words = shown("", ["x"], [*b"ax", 257], opening=257)
    assert "".join(parts) == "a" and words.stopped and not words.opened


@given(st.text(alphabet="{an \n", max_size=8))
def test_a_text_opens_a_call_at_the_beginning_alone(text):
    parts, words = shown(text, [], opening="{a")
    assert words.opened == text.lstrip().startswith("{a")
    assert "".join(parts) == ("" if words.opened else text)


@pytest.mark.parametrize("said", [97, 258, 98])
def test_tokens_that_are_spelled_alike_all_stay_in_the_likeliest(said):
    """A reader finds the likeliest of them under the spelling, and each token's own is there."""

    class Served:
        tokenizer = Bytes()

    likely = ((258, -0.1), (97, -2.5), (98, -4.0))
    own = dict(likely)[said]
    for count in (1, 2, 3):
        logs = answers.legacy(Served(), [Word(said, 0, own, likely)], count)
        top = logs["top_logprobs"][0]
        assert len(top) == len({258, 97, 98} & {said, *[i for i, _ in likely[:count]]})
        assert max(top.values()) == -0.1 == top["a"] and own in top.values()
        assert logs["token_logprobs"] == [own]


def test_no_number_is_infinite_in_json():
    class Served:
        tokenizer = Bytes()

    logs = answers.legacy(Served(), [Word(97, 0, float("-inf"), ((98, 0.0), (97, float("-inf"))))], 2)
    assert logs["token_logprobs"] == [-9999.0] and logs["top_logprobs"] == [{"b": 0.0, "a": -9999.0}]
