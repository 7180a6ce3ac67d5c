"""Chat templates and tokenizer.json, against transformers."""

import numpy as np
import pytest
import transformers
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from support import CHATML, SPECIAL, write_chat

from ratchet.models.architectures import FolderError
from ratchet.models.chat import ChatTokenizer

MESSAGES = [
    {"role": "system", "content": "be brief"}, {"role": "user", "content": "what is 3 + 4?\n"},
    {"role": "assistant", "content": "  it is 7, é ☂.  "}, {"role": "user", "content": "and doubled?"},
    {"role": "assistant", "content": "\n14"},
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def ours(folder):
    return ChatTokenizer.load(folder, 512)


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tools", [(), ({"type": "function", "function": {"name": "look"}},)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_tokens_and_mask_are_those_of_transformers(ours, theirs, count, tools):
    want = theirs.apply_chat_template(
        MESSAGES[:count], tools=list(tools) or None, return_dict=True, return_assistant_tokens_mask=True
    )
    got = ours.chat(MESSAGES[:count], tools=tools)
    np.testing.assert_array_equal(got.tokens, want["input_ids"])
    np.testing.assert_array_equal(got.said, np.array(want["assistant_masks"], bool))
    assert got.said.any() == (count > 2)


def test_an_open_turn_ends_where_the_assistant_begins(ours, theirs):
    want = theirs.apply_chat_template(MESSAGES[:2], add_generation_prompt=True, return_dict=True)["input_ids"]
    got = ours.chat(MESSAGES[:2], open_turn=True)
    np.testing.assert_array_equal(got.tokens, want)
    assert not got.said.any()
    assert ours.decode(got.tokens).endswith("assistant\n")


def test_what_the_assistant_says_is_decoded_back(ours):
    chat = ours.chat(MESSAGES)
    assert ours.decode(chat.tokens[chat.said]) == "it is 7, é ☂.14"
    end = ours.chat([]).tokens
    assert len(end) == 0 and ours.vocab_size <= 512


@given(
    before=st.text(max_size=8), name=st.sampled_from(SPECIAL), after=st.text(max_size=8),
    role=st.sampled_from(["user", "assistant", "system"]),
)  # fmt: skip
def test_special_tokens_in_messages_are_text_and_never_obeyed(ours, before, name, after, role):
    text = f"{before}{name}{after}"
    assert not {*range(len(SPECIAL))} & {*ours.encode(text)}
    spelled, plain = (ours.chat([{"role": role, "content": t}, MESSAGES[2]]) for t in (text, "x"))
    count = lambda chat: [int((chat.tokens == i).sum()) for i in range(len(SPECIAL))]
    assert count(spelled) == count(plain)
    assert name in ours.decode(spelled.tokens)
    # what is said, its end included, is what it would be after any message
    if role != "assistant":
        np.testing.assert_array_equal(spelled.tokens[spelled.said], plain.tokens[plain.said])


def test_hidden_names_leave_the_mask_where_it_was(ours):
    chat = ours.chat([MESSAGES[1], {"role": "assistant", "content": "say <|im_end|> twice"}])
    assert ours.decode(chat.tokens[chat.said]) == "say <|im_end|> twice"
    assert chat.tokens[chat.said][-1] == SPECIAL.index("<|im_end|>") and (chat.tokens == 2).sum() == 2


def test_a_template_in_a_file_of_its_own_or_given_is_used(folder, tmp_path):
    place = write_chat(tmp_path, template=None)
    with pytest.raises(FolderError, match="no chat template"):
        ChatTokenizer.load(place, 512)
    assert ChatTokenizer.load(place, 512, CHATML).chat(MESSAGES).said.any()
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert ChatTokenizer.load(place, 512).chat(MESSAGES).said.any()


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", ""), "marks nothing as said"),
        ("{% generation %}{% endgeneration %}{{ messages }}", "marks nothing as said"),
        ("{% for %}", "cannot be read"),
        ("{{ raise_exception('system messages are not for me') }}", "refuses the messages: system messages"),
        ("{{ messages.append(1) }}", "refuses the messages"),
    ],
)
def test_a_template_that_will_not_do_is_refused_at_start(folder, template, named):
    with pytest.raises(FolderError, match=named) as error:
        ChatTokenizer.load(folder, 512, template)
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_is_not_the_models_is_refused(folder, tmp_path):
    with pytest.raises(FolderError, match=r"has the id \d+, but the model's embedding has 64 rows"):
        ChatTokenizer.load(folder, 64)
    with pytest.raises(FolderError, match=r"no tokenizer.json"):
        ChatTokenizer.load(epath.Path(tmp_path), 64)
    place = write_chat(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(FolderError, match=r"tokenizer_config.json: cannot be read"):
        ChatTokenizer.load(place, 512)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FolderError, match=r"tokenizer.json: cannot be read"):
        ChatTokenizer.load(epath.Path(tmp_path), 64)
