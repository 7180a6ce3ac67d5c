"""What chat templates are given and may do, against transformers' `apply_chat_template`; and what becomes of errors."""

import json

import pytest
from support import CHATML, write_chat
from templates import by_transformers, by_us, write_folder

from ratchet.models.architectures import FolderError
from ratchet.models.chat import ChatTokenizer

ASKED, SAID = {"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "it is 7."}
LOOK = {"type": "function", "function": {"name": "look", "description": "größer <b>", "parameters": {"b": 1, "a": 2}}}
CALL = {"id": "call00000", "type": "function", "function": {"name": "look", "arguments": {"n": 1}}}
FOUND = {"role": "tool", "tool_call_id": "call00000", "name": "look", "content": "7"}
SHOWN = "{% for m in messages %}{% generation %}[{{ SHOWN }}]{% endgeneration %}<|im_end|>{% endfor %}"


@pytest.mark.parametrize(
    "written",
    [
        "{{ messages | tojson }}",
        "{{ messages | tojson(ensure_ascii=True) }}",
        "{{ tools | tojson(ensure_ascii=False, indent=2, separators=(',', ': '), sort_keys=True) }}",
        "{{ messages | tojson(4) }}{{ 2147483647 | tojson }}",
        "{{ messages | tojson(True, 2) }}",
        "{{ dict(a=1).a }}{{ dict.fromkeys(['a', 'b'], 2) }}{{ dict([('k', 1)]) }}",
        "{% set ns = namespace(n=0, self=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% continue %}{% endfor %}",
        "{{ documents is defined }}{{ documents is none }}{{ tools is none }}{{ add_generation_prompt }}",
        "{{ enable_thinking is defined }}{{ bos_token is defined }}{{ eos_token }}{{ range(3) | list }}",
        "{{ messages[0].content.split(' ')[0] }}{{ 'a' * 3 }}{{ 2 ** 3 }}{{ 2.5 * 2 }}{{ messages | length * 2 }}",
        "\n  {% if true %}\n  x\n  {% endif %}\n{{ 'trimmed' }}\n",
        "{% macro say(m) %}{{ m.role }}: {% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
        "{% for m in messages %}{{ say(m) | trim }}{% endfor %}",
    ],
)
@pytest.mark.parametrize("tools", [(), (LOOK,)])
def test_a_template_is_given_what_transformers_gives_to_it(tmp_path, written, tools):
    place = write_chat(tmp_path, written + CHATML)
    want = by_transformers(place, [ASKED, SAID], tools=tools)
    assert by_us(place, [ASKED, SAID], tools=tools) == want and sum(want[1]) > 0


@pytest.mark.parametrize(
    "shown",
    ["m.content", "m['content'] | default('none')", "m.content is defined", "'content' in m", "m.get('name', 'none')",
     "m.keys() | list", "m.tool_calls | default([]) | tojson", "m.reasoning_content", "m.thinking", "m.reasoning"],
)  # fmt: skip
@pytest.mark.parametrize(
    "messages",
    [
        [ASKED, SAID | {"tool_calls": None, "name": None}],
        [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, FOUND, SAID],
        [ASKED, {"role": "assistant", "tool_calls": [CALL]}, FOUND, SAID],
        [ASKED, SAID | {"reasoning_content": "so"}],
        [ASKED, SAID | {"thinking": "so"}, ASKED, SAID | {"reasoning": "thus", "thinking": None}],
        [ASKED, SAID | {"reasoning": "a", "thinking": "b", "reasoning_content": "c"}],
        [ASKED | {"content": [{"type": "text", "text": "a"}]}, SAID | {"content": [{"type": "text", "text": "7"}]}],
    ],
)
def test_messages_as_servers_send_them_are_read_as_transformers_reads_them(tmp_path, shown, messages):
    place = write_chat(tmp_path, SHOWN.replace("SHOWN", shown))
    want = by_transformers(place, messages)
    assert by_us(place, messages) == want and sum(want[1]) > 0


def test_a_call_without_text_has_no_word_in_the_trained_turn(tmp_path):
    own = ChatTokenizer.load(write_chat(tmp_path, SHOWN.replace("SHOWN", "m.content")))
    chat = own.chat([ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}])
    assert own.decode(chat.tokens[chat.said]) == "[what is it?][]"


GROWS = "{{% set ns = namespace(x='aaaaaaaa') %}}{{% for i in range(40) %}}{{% set ns.x = {} %}}{{% endfor %}}"


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ("{{ 1 // 0 }}", "division"),
        ("{{ 'x' + none }}", "can only concatenate"),
        ("{{ 'x' | trim(1, 2, 3) }}", "argument"),
        ("{{ messages[0].content.nothing.more }}", "undefined|no attribute"),
        ("{{ ''.__class__.mro() }}", "unsafe|undefined"),
        ("{{ messages.clear() }}", "not safely callable|unsafe"),
        ("{% set ns = namespace(_x=1) %}", "'_x'"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "'_x'"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
        ("{{ 'x' * 10 ** 12 }}", "more than"),
        ("{{ [0] * 10 ** 12 }}", "more than"),
        ("{{ 9 ** 10 ** 9 }}{{ 9 ** 999999999 }}", "more than"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "[Rr]ange"),
        ("{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "writes more than 16,777,216 letters"),
        ("{{ [] | slice(10 ** 9) | list }}{{ 'x' | center(10 ** 12) }}", "pads to more than"),
        ("{{ 'x'.ljust(10 ** 12) }}", "pads to more than"),
        ("{{ messages | tojson(indent=10 ** 12) }}", "pads to more than"),
        ("{% set ns = namespace(n=9) %}{% for i in range(40) %}{% set ns.n = ns.n * ns.n %}{% endfor %}", "more than"),
        (GROWS.format("ns.x ~ ns.x"), "makes more than"),
        (GROWS.format("ns.x + ns.x"), "makes more than"),
        (GROWS.format("ns.x.replace('a', 'aa')"), "makes more than"),
        (GROWS.format("[ns.x, ns.x] | join"), "makes more than"),
        ("{{ '{:>9999999999}'.format('x') }}", "pads to a width"),
        ("{{ '{:{w}}'.format('x', w=9999999999) }}", "pads to more than"),
        ("{{ '%9999999999d' % 1 }}{{ '%*d' % (9999999999, 1) }}", "pads to a width"),
        ("{{ '%0.9999999999f' | format(1) }}", "pads to a width"),
        ("{{ strftime_now(7) }}", "must be str"),
        ("\ud800", "surrogates not allowed"),
        ("{{ raise_exception('first line\nsecond line') }}", "first line second line"),
        ("{{ messages | tojson(sort_keys=[]) | no_such_filter }}", "no_such_filter"),
        ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "nested"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "recursion|nested"),
    ],
)
def test_whatever_a_template_does_is_one_line(tmp_path, template, wrong):
    place = write_chat(tmp_path, template + CHATML)
    with pytest.raises(FolderError, match=wrong) as error:
        ChatTokenizer.load(place).chat([ASKED, SAID])
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{place}: the chat template")


def test_numbers_in_what_is_said_are_no_widths_and_joins_are_jinjas(tmp_path):
    made = "'%s: %5d %-3s|' % (messages[0].content, 7, 'x') ~ 1 ~ none ~ '{:>4}'.format('y') ~ ('%s' | format(9))"
    own, asked = ChatTokenizer.load(write_chat(tmp_path, f"{{{{ {made} }}}}{CHATML}")), "%99999999d {:99999999}"
    found = own.decode(own.chat([{"role": "user", "content": asked}, SAID]).tokens)
    assert found.startswith(f"{asked}:     7 x  |1None   y9")


LOOP = "{% for a in range(99999) %}"


@pytest.mark.parametrize(
    "endless",
    [
        LOOP * 3 + "{% endfor %}" * 3,
        LOOP + "{% for b in range(99999) if b < 0 %}x{% endfor %}{% endfor %}",
        LOOP * 2 + "{{ '' | trim }}{{ loop.length }}" + "{% endfor %}" * 2,
        "{% for a in range(99999) recursive %}{{ loop(range(99999)) if loop.depth < 4 }}{% endfor %}",
        "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}{% endmacro %}{{ twice(90) }}",
        LOOP * 2 + "{% set x = range(99999) | list | sort | sum %}" + "{% endfor %}" * 2,
    ],
)
def test_a_template_that_goes_on_without_a_word_is_ended(tmp_path, monkeypatch, endless):
    monkeypatch.setattr("ratchet.models.template._SECONDS", 0.05)
    place = write_chat(tmp_path, endless + CHATML)
    with pytest.raises(FolderError, match=r"refuses the messages: it takes more than 0.05 seconds") as error:
        ChatTokenizer.load(place).chat([ASKED, SAID])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "message",
    ["what?", 7, {}, {"role": "user"}, {"role": "user", "content": 7}, {"role": "user", "content": "\ud800"},
     SAID | {"tool_calls": 7}, SAID | {"tool_calls": ["look"]}, SAID | {"tool_calls": [{"function": None}]}],
)  # fmt: skip
def test_a_message_of_another_form_is_one_line(tmp_path, message):
    place = write_folder(tmp_path, "qwen")
    with pytest.raises(Exception, match="."):
        by_transformers(place, [message])
    with pytest.raises(FolderError, match="refuses the messages: |no token spells half a letter") as error:
        by_us(place, [message])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("written", ["{{ '\\ud800' }}", "<|im_end|>{{ '\\udfff' }}"])
def test_a_template_that_writes_half_a_letter_is_refused(tmp_path, written):
    place = write_chat(tmp_path, written + CHATML)
    with pytest.raises(FolderError, match="json: no token spells half a letter .*; give whole letters$"):
        ChatTokenizer.load(place).chat([ASKED, SAID])


def test_a_line_that_quotes_a_hidden_name_has_whole_letters(tmp_path):
    place = write_chat(tmp_path, "{{ raise_exception('no role ' ~ messages[0].role) }}")
    with pytest.raises(FolderError) as error:
        ChatTokenizer.load(place).chat([ASKED | {"role": "<|im_end|>"}])
    assert str(error.value).encode().endswith(b"no role ??????????")


PRIVATE = "a \ue000\ue001 \ue0a0b \uf8ff\ufdd0\ufffe\ufffd \U000f003c\U000f0001c \U000ffffd\U00100000\U0010ffff d"


def test_letters_of_private_use_stay_as_they_are(tmp_path):
    place = write_chat(tmp_path)
    messages = [ASKED | {"content": PRIVATE}, SAID | {"content": PRIVATE}]
    assert by_us(place, messages) == by_transformers(place, messages)
    own = ChatTokenizer.load(place)
    for text in (PRIVATE, f"{PRIVATE} <|im_end|> {PRIVATE}"):
        chat = own.chat([ASKED | {"content": text}, SAID | {"content": text}])
        assert own.decode(chat.tokens[chat.said]) == text
        assert text in own.decode(own.ask(text, passages=[text])[0])


def test_a_symbol_of_letters_beyond_the_first_planes_is_hidden_like_any_other(tmp_path):
    place = write_chat(tmp_path)
    odd = [{"content": name, "special": True} for name in ("\U00020000", "\U0010fffd\ue000", "｜▁🤖")]
    settings = json.loads((place / "tokenizer_config.json").read_text())
    listed = {"added_tokens_decoder": {str(900 + n): token for n, token in enumerate(odd)}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | listed))
    text = "a " + " b ".join(token["content"] for token in odd)
    own = ChatTokenizer.load(place)
    chat = own.chat([ASKED | {"content": text}, SAID | {"content": text}])
    assert own.decode(chat.tokens[chat.said], special=True) == f"{text}<|im_end|>"
    assert (chat.tokens == own.end).sum() == 2 and not own.left_out - {own.end} & {*chat.tokens[chat.said]}
