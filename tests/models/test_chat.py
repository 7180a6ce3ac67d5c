"""Chat templates and tokenizer.json, against transformers."""

import json

import numpy as np
import pytest
import transformers
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from support import SPECIAL, write_chat
from templates import ENDS, LLAMA, QWEN, TEMPLATES, TOOLLESS, write_folder

from ratchet.models.architectures import FolderError
from ratchet.models.chat import WORDING, ChatTokenizer
from ratchet.models.tokenizer import load

MESSAGES = [
    {"role": "system", "content": "be brief"}, {"role": "user", "content": "what is 3 + 4?\n"},
    {"role": "assistant", "content": "  it is 7, é ☂.  "}, {"role": "user", "content": "and doubled?"},
    {"role": "assistant", "content": "\n14"},
]
QUERY = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
LOOKUP = {"type": "function", "function": {"name": "lookup", "description": "Finds.", "parameters": QUERY}}
ARGUMENTS, FOUND = '{"query": "what \\"it\\" is"}', 'it is "7"'
CALLS = [name for name in TEMPLATES if name not in TOOLLESS]


def called(arguments):
    call = {"id": "call00000", "type": "function", "function": {"name": "lookup", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def answer_of(text):
    return {"role": "tool", "tool_call_id": "call00000", "name": "lookup", "content": text}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def ours(folder):
    return ChatTokenizer.load(folder, 512)


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """By kind of template, our tokenizer and that of transformers."""
    places = {kind: write_folder(tmp_path_factory.mktemp(kind), kind) for kind in TEMPLATES}
    return {kind: (ChatTokenizer.load(place), transformers.AutoTokenizer.from_pretrained(place))
            for kind, place in places.items()}


def rendered(theirs, messages, **given):
    """Ids by transformers."""
    return list(theirs.apply_chat_template(messages, return_dict=True, enable_thinking=False, **given)["input_ids"])


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


@pytest.mark.parametrize("tools", [(), (LOOKUP,)])
@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_open_turn_after_messages_is_that_of_transformers(pairs, kind, tools):
    own, theirs = pairs[kind]
    for first in (0, 1):
        if kind == "gemma" and first == 0:
            continue
        messages = MESSAGES[first:4]
        assert own.render(messages, tools=tools) == rendered(
            theirs, messages, tools=list(tools) or None, add_generation_prompt=True
        )


@pytest.mark.parametrize("kind", CALLS)
def test_calls_and_their_answers_are_rendered_as_transformers_does(pairs, kind):
    own, theirs = pairs[kind]
    arguments = ARGUMENTS if kind == "deepseek" else json.loads(ARGUMENTS)
    want = [MESSAGES[1], called(arguments), answer_of(FOUND)]
    assert own.render([MESSAGES[1], called(ARGUMENTS), answer_of(FOUND)]) == rendered(
        theirs, want, add_generation_prompt=True
    )


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_and_its_answer_go_on_where_the_prompt_ends(pairs, kind):
    own, theirs = pairs[kind]
    history = [MESSAGES[1], called(ARGUMENTS), answer_of(FOUND)]
    at_once = own.render(history)
    if kind == "thinking":  # its own template leaves the empty thought out of what is past
        at_once = theirs.encode(theirs.decode(at_once).replace("t\n<tool_", "t\n<think>\n\n</think>\n\n<tool_"))
    call = own.call("lookup", ARGUMENTS)
    grown = [*own.render(history[:1]), *call, *own.answered(FOUND)]
    assert theirs.decode(grown) == theirs.decode(at_once)
    begin, end = own.calls("lookup"), own.call_end
    assert (call[: len(begin)], call[-len(end) :], end[-1]) == ([*begin], [*end], own.end)
    assert json.loads(own.decode(call[len(begin) : -len(end)])) == json.loads(ARGUMENTS)
    assert own.can_call and own.calls("other")[0] == begin[0] and own.calls("other") != begin


@pytest.mark.parametrize(
    ("kind", "first"),
    [("qwen", "<tool_call>"), ("smol", "<"), ("llama", '{"'), ("mistral", "[TOOL_CALLS]"), ("deepseek", "<|call|>")],
)
def test_a_call_begins_with_what_no_answer_begins_with(pairs, kind, first):
    own, _ = pairs[kind]
    assert own.piece(own.calls("lookup")[0]) == first


@pytest.mark.parametrize("kind", CALLS)
def test_calls_of_several_tools_begin_alike_and_go_on_with_their_names(pairs, kind):
    own, _ = pairs[kind]
    opening, leads = own.calling(["lookup", "look", "add"])
    assert own.calling(["add"]) == (own.calls("add"), {"add": ()}), "of one, all is known"
    for name, lead in leads.items():
        begin = own.calls(name)
        assert begin[: len(opening)] == opening and opening[0] == begin[0]
        spelled = "".join(part if isinstance(part, str) else own.decode([part]) for part in lead)
        assert own.decode(begin).endswith(spelled) and spelled[:2] in name and [*leads] == ["lookup", "look", "add"]


def test_tools_whose_calls_begin_differently_are_refused(tmp_path):
    """One has a symbol of its own."""
    before = """'\\n<tool_call>\\n{"name": "' + c.name + '", "arguments": '"""
    own = ChatTokenizer.load(write_folder(tmp_path, "qwen", QWEN.replace(before, "'\\n<' + c.name + '>'")))
    assert own.calling(["add", "lookup"]).opening == own.calling(["add", "erase"]).opening
    with pytest.raises(FolderError, match="calls of add, tool_call begin differently; use another model") as caught:
        own.calling(["add", "tool_call"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", TOOLLESS)
def test_a_template_without_tools_says_so_when_one_is_asked_for(pairs, kind):
    own, _ = pairs[kind]
    assert not own.can_call
    for asked in (lambda: own.calls("lookup"), lambda: own.call_end, lambda: own.call("lookup", "{}")):
        with pytest.raises(FolderError, match="cannot call tools: it writes no JSON of their arguments") as error:
            asked()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("'\\n<tool_call>\\n{", "'\\nCalling {", "begins as an ordinary answer may, with 'Calling"),
        ("{{ '<|im_end|>\\n' }}\n{%- elif m.role == 'tool'", "\n{%- elif m.role == 'tool'", "nothing ends the turn"),
        ("{{ '<|im_start|>assistant' }}\n", "{{ '<|im_start|>caller' }}\n", "in an open turn"),
    ],
)
def test_calls_that_cannot_be_told_from_answers_are_refused(tmp_path, old, new, named):
    template = QWEN.replace(old, new)
    assert template != QWEN
    own = ChatTokenizer.load(write_folder(tmp_path, "qwen", template))
    assert not own.can_call and own.render(MESSAGES[:2])
    with pytest.raises(FolderError, match=named):
        own.calls("lookup")


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_end_and_the_verdicts_are_the_templates_own(pairs, kind):
    own, theirs = pairs[kind]
    assert own.piece(own.end) == ENDS.get(kind, "<|im_end|>")
    assert [own.piece(i) for i in own.verdicts] == ["Yes", "No"]
    context, question = own.ask("is it so?", passages=["it is"], messages=MESSAGES[1:3])
    before, after = theirs.decode(own.render([{"role": "user", "content": "CONTENT"}])).split("CONTENT")
    content = theirs.decode([*context, *question]).removeprefix(before).removesuffix(after)
    assert content.startswith(WORDING["sources"]) and "is it so?" in content
    for word, verdict in zip(("Yes", "No"), own.verdicts, strict=True):
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": word}]
        whole = [*context, *question, verdict]
        assert theirs.decode(rendered(theirs, turns)).startswith(theirs.decode(whole))
        assert rendered(theirs, turns)[len(whole) - 1] == verdict


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_question_may_be_answered_by_other_words(pairs, kind):
    """What is spoken is the beginning of the assistant's turn, as transformers writes it."""
    own, theirs = pairs[kind]
    words = ("Supported", "not mentioned")
    context, question = own.ask("is it so?", passages=["it is"], words=words)
    before, after = theirs.decode(own.render([{"role": "user", "content": "CONTENT"}])).split("CONTENT")
    content = theirs.decode([*context, *question]).removeprefix(before).removesuffix(after)
    assert content.endswith(f"Answer with one of these, and nothing else: {', '.join(words)}.")
    for word in words:
        whole = [*context, *question, *own.spoken(word)]
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": word}]
        assert rendered(theirs, turns)[: len(whole)] == whole


def test_a_question_shows_sources_and_conversation_and_asks_for_one_word(pairs):
    own, _ = pairs["qwen"]
    messages = [MESSAGES[1], called(ARGUMENTS), answer_of(FOUND), MESSAGES[4]]
    context, question = own.ask("is it so?", passages=["the first", "the second"], messages=messages)
    told, asked = own.decode(context), own.decode(question)
    for shown in (WORDING["sources"], "Source 2:\n  the second", WORDING["conversation"], f"lookup {ARGUMENTS}", FOUND):
        assert shown in told
    assert asked.startswith("Question: is it so?\nAnswer with the one word") and "is it so" not in told
    assert own.ask("alone?")[0] == own.ask("or not?")[0]


@given(question=st.text(min_size=1, max_size=20), other=st.text(min_size=1, max_size=20))
def test_a_context_does_not_depend_on_the_question(pairs, question, other):
    own, _ = pairs["qwen"]
    given = {"passages": ["it is 7. " * 60] * 4, "messages": MESSAGES[1:2]}
    assert own.ask(question, **given)[0] == own.ask(other, **given)[0]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_passages_stand_before_the_instructions_and_are_marked(pairs, kind):
    own, theirs = pairs[kind]
    text = theirs.decode(own.render(MESSAGES[:2], passages=["the source says 7"]))
    places = [text.index(part) for part in (WORDING["sources"], "the source says 7", "be brief", "what is 3 + 4?")]
    assert places == sorted(places)
    if kind in ("qwen", "gemma"):
        assert f"{'system' if kind == 'qwen' else 'user'}\n{WORDING['sources']}" in text


def test_instructions_go_into_the_users_message_where_there_is_no_other(pairs):
    own, theirs = pairs["gemma"]
    folded = [{"role": "user", "content": "be brief\n\nwhat is 3 + 4?"}]
    assert own.render(MESSAGES[:2]) == rendered(theirs, folded, add_generation_prompt=True)


@pytest.mark.parametrize("kind", ["gemma", "qwen"])
@pytest.mark.parametrize("nothing", [{"content": None}, {"content": ""}, {}])
def test_instructions_without_words_add_none(pairs, kind, nothing):
    own, asked = pairs[kind][0], MESSAGES[1:2]
    silent = [{"role": "system", **nothing}, *asked]
    assert "None" not in own.decode(own.render(silent)) and (kind == "qwen" or own.render(silent) == own.render(asked))
    assert own.render(silent, passages=["it is 7"]) == own.render(asked, passages=["it is 7"])
    parts = [{"role": "system", "content": [{"type": "text", "text": "be brief"}]}, *asked]
    with pytest.raises(FolderError, match="the first message is in parts; give its content as one text"):
        own.render(parts, passages=["it is 7"])


def test_what_the_assistant_says_is_decoded_back(ours):
    chat = ours.chat(MESSAGES)
    assert ours.decode(chat.tokens[chat.said]) == "it is 7, é ☂.14"
    assert ours.decode([ours.end, *ours.encode("so"), ours.vocab_size + 3]) == "so"
    assert ours.piece(ours.vocab_size + 3) == "<unused>"
    assert ours.vocab_size <= 512
    with pytest.raises(FolderError, match="there are no messages"):
        ours.chat([])


@given(
    before=st.text(max_size=8), name=st.sampled_from(SPECIAL), after=st.text(max_size=8),
    role=st.sampled_from(["user", "assistant", "system"]),
)
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


@pytest.mark.parametrize("kind", TEMPLATES)
def test_no_text_that_comes_in_from_anywhere_is_taken_for_a_symbol(pairs, kind):
    own, theirs = pairs[kind]
    symbols = {theirs.convert_tokens_to_ids(name) for name in theirs.get_added_vocab()}
    count = lambda ids: sorted(i for i in ids if i in symbols)
    every = " ".join([*theirs.get_added_vocab(), "\ue002\U000f003c"])

    def all_of(text):
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}, MESSAGES[3]]
        given = [own.render(messages, passages=[text, text]), own.encode(text), own.document(text), own.prose(text)]
        given += own.ask(text, passages=[text], messages=messages)
        if own.can_call:
            given += [own.answered(text), own.call("lookup", json.dumps({text: text}, ensure_ascii=False))]
            given += [own.render([MESSAGES[1], called(json.dumps({text: text})), answer_of(text)])]
        return given

    for spelled, plain in zip(all_of(every), all_of("x"), strict=True):
        assert count(spelled) == count(plain)
    assert own.decode(own.encode(every)) == every


def test_hidden_names_leave_the_mask_where_it_was(ours):
    chat = ours.chat([MESSAGES[1], {"role": "assistant", "content": "say <|im_end|> twice"}])
    assert ours.decode(chat.tokens[chat.said]) == "say <|im_end|> twice"
    assert chat.tokens[chat.said][-1] == SPECIAL.index("<|im_end|>") and (chat.tokens == 2).sum() == 2


def test_space_that_a_symbol_takes_up_is_gone_with_hidden_names_too(tmp_path):
    own = ChatTokenizer.load(write_folder(tmp_path, "zephyr", rstrip=True))
    around = [len(own.render([{"role": "user", "content": t}])) - len(own.encode(t)) for t in ("so </s> it", "so it")]
    assert around[0] == around[1]


@pytest.mark.parametrize("metaspace", ["", "always", "first", "prepend"])
def test_text_within_a_turn_is_encoded_as_it_stands(tmp_path, metaspace):
    own = ChatTokenizer.load(write_folder(tmp_path, "zephyr", metaspace=metaspace))
    for parts in (["what is", " it"], ["sys", "tem"], ["a", "\n", "  b"], ['{"query": ', '"it"}']):
        assert own.decode([i for part in parts for i in own.encode(part)]) == "".join(parts)
    assert own.encode("") == []


@pytest.mark.parametrize("metaspace", ["always", "first", "prepend"])
def test_hidden_names_change_nothing_else_in_tokenizers_that_put_spaces_before(tmp_path, metaspace):
    place = write_folder(tmp_path, "zephyr", metaspace=metaspace)
    own, theirs = ChatTokenizer.load(place), transformers.AutoTokenizer.from_pretrained(place)
    messages = [{"role": "user", "content": "what </s>"}, MESSAGES[3]]
    plain = [{"role": "user", "content": "what is"}, MESSAGES[3]]
    tail = rendered(theirs, plain, add_generation_prompt=True)
    assert own.render(plain) == tail
    spelled, after = own.render(messages), tail[tail.index(own.end) :]
    assert spelled[-len(after) :] == after and spelled[:3] == tail[:3]
    assert theirs.decode(spelled).count("</s>") == 3


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_plain_text_begins_as_the_tokenizer_begins_it(pairs, kind):
    own, theirs = pairs[kind]
    assert own.document("what is it") == own.prose("what is it") == theirs("what is it")["input_ids"]
    assert (own.document("a")[0] == theirs.bos_token_id) == (kind == "llama")


@pytest.mark.parametrize("kind", TEMPLATES)
def test_what_is_saved_is_loaded_again_here_and_in_transformers(pairs, tmp_path, kind):
    own, _ = pairs[kind]
    own.save(epath.Path(tmp_path) / "tokenizer")
    again = load(epath.Path(tmp_path) / "tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert isinstance(again, ChatTokenizer) and again.hash == own.hash
    asked = again.render(MESSAGES[1:2], tools=[LOOKUP])
    assert asked == own.render(MESSAGES[1:2], tools=[LOOKUP])
    assert asked == rendered(theirs, MESSAGES[1:2], tools=[LOOKUP], add_generation_prompt=True)
    written = {p.name for p in (tmp_path / "tokenizer").iterdir()}
    assert written - {"chat_date.txt"} == {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    assert ("chat_date.txt" in written) == (kind == "llama")


def test_the_hash_tells_apart_what_gives_other_ids(tmp_path):
    own = ChatTokenizer.load(write_folder(tmp_path / "a", "llama"))
    others = [
        ChatTokenizer.load(write_folder(tmp_path / "b", "llama", LLAMA + "\n")),
        ChatTokenizer.load(write_folder(tmp_path / "c", "mistral", LLAMA.replace("<|eot_id|>", "</s>"))),
    ]
    settings = json.loads((tmp_path / "a" / "tokenizer_config.json").read_text())
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "</s>"}))
    others.append(ChatTokenizer.load(epath.Path(tmp_path / "a")))
    assert len({own.hash, *(other.hash for other in others)}) == 4
