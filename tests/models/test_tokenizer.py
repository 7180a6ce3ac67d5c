import io

import little
import pytest
import sentencepiece
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from support import train_tokenizer

from ratchet.models.tokenizer import CONTROLS, Tokenizer, load

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=60)
"""All but the letter that SentencePiece writes for a space."""
QUESTION, ANSWER = {"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "it is so."}


def pieces(tokenizer, ids):
    return [tokenizer.piece(i) for i in ids]


def text(tokenizer, words):
    return pieces(tokenizer, tokenizer.encode(words))


@given(TEXTS)
def test_text_comes_back_letter_for_letter_even_in_letters_never_seen(tokenizer, words):
    assert tokenizer.decode(tokenizer.encode(words)) == words.removeprefix(" ")


def test_capitals_line_breaks_indents_and_powers_are_kept(tokenizer):
    words = "Mr. X² said:\n\n    if a:\n\tb = ½…\n"
    assert tokenizer.decode(tokenizer.encode(words)) == words
    assert tokenizer.encode("It") != tokenizer.encode("it")


def test_a_space_before_text_is_understood(tokenizer):
    assert tokenizer.encode(" it is") == tokenizer.encode("it is")
    assert tokenizer.decode([*tokenizer.encode("it is"), *tokenizer.encode("so")]) == "it is so"
    assert tokenizer.encode("") == tokenizer.encode(" ") == []


def test_half_a_letter_is_refused_in_one_line(tokenizer):
    for text in ("\ud800", "what \udce9?", " \udfff"):
        with pytest.raises(ValueError, match=r"^tokenizer: no piece spells half a letter \(.*; give whole letters$"):
            tokenizer.render([{"role": "user", "content": text}])


def test_every_digit_is_a_piece_of_its_own():
    made = Tokenizer.train([f"{n} + {n} = {2 * n}." for n in range(1000, 1500)], 400)
    assert pieces(made, made.encode("1234 + 1")) == [" ", "1", "2", "3", "4", " +", " ", "1"]


def test_texts_of_any_length_are_learned_from():
    made = Tokenizer.train([" ".join(["zebra quartz"] * 1000), "so"], 330)
    assert text(made, "zebra quartz") == [" zebra", " quartz"]


def test_a_text_with_the_sign_of_what_has_no_piece_is_learned_from():
    """As progress bars have it; SentencePiece passes over a whole text that holds it."""
    tokenizer = Tokenizer.train(["the hall lamp blinks ▅▅ and the barn lamp hums. " * 40, "a"], 400)
    assert len(tokenizer.encode("the hall lamp blinks and the barn lamp hums")) <= 12
    assert tokenizer.decode(tokenizer.encode("so ▅ it is")) == "so ▅ it is"


def test_a_text_longer_than_is_read_at_a_time_is_read_to_its_end(monkeypatch):
    monkeypatch.setattr("ratchet.models.tokenizer.LONGEST", 1000)
    made = Tokenizer.train(["so " * 2000 + "zebra quartz " * 100, "so"], 330)
    assert text(made, "zebra quartz") == [" zebra", " quartz"]


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_symbol_spelled_in_text_stays_text(tokenizer, name):
    words = f"all pass <|{name}|> <pad> <unk> <0x41> so"
    ids = tokenizer.encode(words)
    assert not {f"<|{name}|>", "<pad>", "<unk>"} & {*pieces(tokenizer, ids)}
    assert tokenizer.decode(ids) == words
    asked = tokenizer.render([{"role": "user", "content": words}], passages=[words])
    assert pieces(tokenizer, asked).count(f"<|{name}|>") == (name in ("document", "user", "end", "assistant"))


def test_messages_are_turns_and_sources_go_before_them(tokenizer):
    system = {"role": "system", "content": "so."}
    asked = pieces(tokenizer, tokenizer.render([system, QUESTION], passages=["one", "two"]))
    assert asked == [
        "<|document|>", *text(tokenizer, "one"), "<|document|>", *text(tokenizer, "two"),
        "<|system|>", *text(tokenizer, "so."), "<|end|>",
        "<|user|>", *text(tokenizer, "what is it?"), "<|end|>", "<|assistant|>",
    ]
    assert tokenizer.render([QUESTION], tools=[{"type": "function"}]) == tokenizer.render([QUESTION])
    assert tokenizer.end == tokenizer.render([QUESTION])[-2]


def test_a_question_is_asked_after_what_it_is_about(tokenizer):
    context, question = tokenizer.ask("is it so?", passages=["one"], messages=[QUESTION, ANSWER])
    assert pieces(tokenizer, question) == ["<|ask|>", *text(tokenizer, "is it so?")]
    assert pieces(tokenizer, context) == [
        "<|document|>", *text(tokenizer, "one"), "<|user|>", *text(tokenizer, "what is it?"), "<|end|>",
        "<|assistant|>", *text(tokenizer, "it is so."), "<|end|>",
    ]
    assert context == tokenizer.ask("or not?", passages=["one"], messages=[QUESTION, ANSWER])[0]
    assert pieces(tokenizer, tokenizer.verdicts) == ["<|yes|>", "<|no|>"]


def test_a_call_and_its_answer_go_on_where_the_prompt_ends(tokenizer):
    call = tokenizer.call("lookup", '{"query":"it"}')
    assert pieces(tokenizer, call) == ["<|call|>", *text(tokenizer, '{"query":"it"}'), "<|end|>"]
    assert call == [*tokenizer.calls("lookup"), *tokenizer.encode('{"query":"it"}'), *tokenizer.call_end]
    function = {"name": "lookup", "arguments": '{"query":"it"}'}
    history = [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "a", "content": "it is so."},
    ]
    assert [*tokenizer.render([QUESTION]), *call, *tokenizer.answered("it is so.")] == tokenizer.render(history)
    assert tokenizer.can_call


def test_documents_and_prose_go_on(tokenizer):
    assert pieces(tokenizer, tokenizer.document("it is")) == ["<|document|>", *text(tokenizer, "it is")]
    assert pieces(tokenizer, tokenizer.prose("it is")) == ["<|system|>", *text(tokenizer, "it is")]


def test_training_is_deterministic_and_the_hash_tells_models_apart(tokenizer):
    assert train_tokenizer(little.create()).model == tokenizer.model
    assert train_tokenizer(little.create(1)).hash != tokenizer.hash


def test_ids_that_no_piece_uses_decode_to_nothing(tokenizer):
    beyond = tokenizer.vocab_size + 3
    assert tokenizer.decode([*tokenizer.encode("so"), tokenizer.end, beyond, 0]) == "so"
    assert tokenizer.piece(beyond) == "<unused>"


def test_what_is_saved_is_loaded_again(tokenizer, tmp_path):
    tokenizer.save(epath.Path(tmp_path) / "tokenizer")
    again = load(epath.Path(tmp_path) / "tokenizer")
    assert isinstance(again, Tokenizer) and (again.hash, again.model) == (tokenizer.hash, tokenizer.model)
    assert [p.name for p in (tmp_path / "tokenizer").iterdir()] == ["model.spm"]


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model.spm and no tokenizer.json; give the directory"):
        load(epath.Path(tmp_path))


def test_a_model_without_the_control_symbols_is_refused():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f"] * 20), model_writer=out, vocab_size=300, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )
    with pytest.raises(ValueError, match="lacks the control symbols"):
        Tokenizer(out.getvalue())


def test_too_few_pieces_are_refused_with_the_setting_to_raise():
    with pytest.raises(ValueError, match=r"100 pieces cannot hold .*raise --model\.vocab-size") as caught:
        Tokenizer.train(["abc"], 100)
    assert "\n" not in str(caught.value)
