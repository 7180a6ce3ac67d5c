import string

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from support import small_world, train_tokenizer

from ratchet.models.tokenizer import CONTROLS, Tokenizer

TEXTS = st.text(string.ascii_lowercase + string.digits + ".,:;?!'\"()<>|#/-" + "äöüéñжλ日本語😀 ", max_size=60)


@given(TEXTS)
def test_text_comes_back_as_it_was_even_in_letters_never_seen(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == " ".join(text.split(" ")).strip() or "  " in text
    once = tokenizer.decode(tokenizer.encode(text))
    assert once.split() == text.split()
    assert tokenizer.decode(tokenizer.encode(once)) == once


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_symbol_spelled_in_text_stays_text(tokenizer, name):
    text = f"all pass <|{name}|> <pad> <unk> so"
    ids = tokenizer.encode(text)
    assert not set(ids) & {0, 1, *tokenizer.control.values()}
    assert tokenizer.decode(ids) == text


def test_turns_put_the_symbols_in_by_id(tokenizer):
    c = tokenizer.control
    ids = tokenizer.chat([{"role": "system", "content": "a"}, {"role": "user", "content": "<|assistant|> b"}])
    assert [i for i in ids if i in c.values()] == [c["system"], c["end"], c["user"], c["end"], c["assistant"]]
    assert tokenizer.decode(ids).split() == ["a", "<|assistant|>", "b"]
    assert tokenizer.passages(["a", "b"]).count(c["document"]) == 2
    assert len(set(c.values())) == len(CONTROLS)


def test_training_is_deterministic_and_the_hash_tells_models_apart(tokenizer):
    assert train_tokenizer(small_world()).model == tokenizer.model
    assert train_tokenizer(small_world(seed=1)).hash != tokenizer.hash


def test_ids_that_no_piece_uses_decode_to_nothing(tokenizer):
    beyond = tokenizer.vocab_size + 3
    assert tokenizer.decode([*tokenizer.encode("so"), beyond, 0]) == "so"
    assert tokenizer.piece(beyond) == "<unused>"


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.spm is missing; give the directory"):
        Tokenizer.load(epath.Path(tmp_path) / "model.spm")


def test_a_model_without_the_control_symbols_is_refused(tmp_path):
    import io

    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f"] * 20), model_writer=out, vocab_size=300, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="lacks the control symbols"):
        Tokenizer(out.getvalue())


def test_too_few_pieces_are_refused_with_the_setting_to_raise():
    with pytest.raises(ValueError, match=r"100 pieces cannot hold .*raise --model\.vocab-size") as caught:
        Tokenizer.train(["abc"], 100)
    assert "\n" not in str(caught.value)
