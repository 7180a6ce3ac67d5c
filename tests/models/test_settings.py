"""Which template, which special tokens and which day a folder's files mean, against transformers."""

import datetime
import json

import pytest
import transformers
from etils import epath
from support import CHATML, write_chat
from templates import by_transformers, by_us, write_folder
from tokenizers import Tokenizer, pre_tokenizers

from ratchet.models.architectures import FolderError
from ratchet.models.chat import ChatTokenizer

MESSAGES = [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "it is 7."}]
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}}
SHOWN = "{{ [bos_token, eos_token, pad_token, unk_token, mask_token, image_token, voice] | join(',') }}"
DATED = "{{ strftime_now('%d %b %Y') }} " + CHATML
THEN, LATER = datetime.datetime(2026, 2, 3, 4, 5), datetime.datetime(2027, 8, 9)


def named(name):
    return f"{name} {CHATML}"


def folder(place, settings, **files):
    """A folder with these settings in place of its own, and files by name."""
    place.mkdir(exist_ok=True)
    write_chat(place)
    own = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps(own | settings))
    for name, text in files.items():
        path = place / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return epath.Path(place)


NAMED = {"default": named("plain"), "tool_use": named("tools"), "rag": "{{ no }}"}
BY_NAME = {"chat_template": NAMED}
BY_LIST = {"chat_template": [{"name": name, "template": template} for name, template in NAMED.items()]}
ALONE, TOOL_USE = "chat_template_dot_jinja", "additional_chat_templates__tool_use_dot_jinja"


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        (BY_LIST, {}),
        (BY_NAME, {}),
        (BY_LIST, {ALONE: named("file")}),
        ({}, {ALONE: named("file"), TOOL_USE: named("others")}),
        (BY_LIST, {ALONE: named("file"), "additional_chat_templates__rag_dot_jinja": named("rag")}),
        ({}, {"additional_chat_templates__default_dot_jinja": named("plain")}),
        ({"chat_template": CHATML}, {"chat_template_dot_json": json.dumps({"chat_template": named("processor")})}),
    ],
)
@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_the_template_is_the_one_that_transformers_takes(tmp_path, settings, files, tools):
    place = folder(tmp_path, settings, **files)
    want = by_transformers(place, MESSAGES, tools=tools)
    assert by_us(place, MESSAGES, tools=tools) == want and sum(want[1]) > 0
    ChatTokenizer.load(place).save(place / "again")
    for read in (by_us, by_transformers):
        assert read(place / "again", MESSAGES, tools=tools) == want


@pytest.mark.parametrize(
    ("settings", "mapped"),
    [
        ({"bos_token": "<a>", "eos_token": None, "pad_token": "<p>"}, None),
        ({"bos_token": {"__type": "AddedToken", "content": "<a>", "lstrip": False}}, None),
        ({"bos_token": "<a>", "add_bos_token": True}, {"bos_token": "<m>", "unk_token": {"content": "<u>"}}),
        ({"bos_token": "<a>", "added_tokens_decoder": {}}, {"bos_token": "<m>"}),
        ({"image_token": "<i>"}, {"pad_token": "<m>"}),
        ({"extra_special_tokens": {"image_token": "<i>", "voice": "<v>"}}, None),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ({"tokenizer_class": "LlamaTokenizerFast", "eos_token": "<e>"}, {"bos_token": "<m>"}),
        ({"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<p>"}, None),
        ({"tokenizer_class": "GemmaTokenizerFast"}, None),
        ({"tokenizer_class": "GPT2Tokenizer", "bos_token": "<a>"}, None),
    ],
)
def test_special_tokens_are_those_of_the_files_that_transformers_reads(tmp_path, settings, mapped):
    files = {} if mapped is None else {"special_tokens_map_dot_json": json.dumps(mapped)}
    place = folder(tmp_path, {"chat_template": SHOWN} | settings, **files)
    ChatTokenizer.load(place).save(place / "again")
    for where in (place, place / "again"):
        theirs = transformers.AutoTokenizer.from_pretrained(where)
        chat = ChatTokenizer.load(where).chat(MESSAGES)
        assert theirs.decode(chat.tokens) == theirs.apply_chat_template(MESSAGES, tokenize=False)


DONE = {"content": "<done>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
SPECIAL, END = DONE | {"special": True}, {"2": DONE | {"content": "<|im_end|>", "special": True}}
FILES = {
    "listed": ({"added_tokens_decoder": {"700": SPECIAL, "9": DONE | {"content": "<more>", "special": False}}}, {}),
    "listed otherwise": ({"added_tokens_decoder": {"700": SPECIAL, "2": END["2"] | {"rstrip": True}}}, {}),
    "end": ({"eos_token": "<done>"}, {}),
    "pad before": ({"pad_token": "<pad>", "eos_token": "<done>"}, {}),
    "own name": ({"done_token": "<done>"}, {}),
    "named": ({"extra_special_tokens": {"done": "<done>"}}, {}),
    "list": ({"extra_special_tokens": ["<more>", "<done>"]}, {}),
    "list of old": ({"additional_special_tokens": [{"__type": "AddedToken"} | SPECIAL]}, {}),
    "map": ({}, {"special_tokens_map_dot_json": json.dumps({"additional_special_tokens": ["<done>"]})}),
    "beside": ({}, {"added_tokens_dot_json": json.dumps({"<done>": 700, "<|im_end|>": 2})}),
    "beside and special": ({"eos_token": "<done>"}, {"added_tokens_dot_json": json.dumps({"<done>": 700})}),
}


@pytest.mark.parametrize("kind", FILES)
def test_tokens_that_other_files_add_are_those_that_transformers_adds(tmp_path, kind):
    settings, files = FILES[kind]
    template = CHATML.replace("<|im_end|>", "<done>").replace("\n", "\n ") + "<|im_end|> "
    place = folder(tmp_path, {"chat_template": template} | settings, **files)
    want = by_transformers(place, MESSAGES)
    plain = ChatTokenizer.load(folder(tmp_path / "plain", {"chat_template": template}))
    assert len(want[0]) < len(plain.chat(MESSAGES).tokens) and sum(want[1]) > 0
    ChatTokenizer.load(place).save(place / "again")
    for where in (place, place / "again"):
        assert by_us(where, MESSAGES) == want == by_transformers(where, MESSAGES)
    assert ChatTokenizer.load(place / "again").hash == ChatTokenizer.load(place).hash != plain.hash


def test_a_token_of_the_vocabulary_that_is_named_alone_is_a_symbol(tmp_path):
    place = folder(tmp_path, {"eos_token": "<|im_end|>"})
    whole = json.loads((place / "tokenizer.json").read_text())
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] != "<|im_end|>"]
    (place / "tokenizer.json").write_text(json.dumps(whole))
    assert by_us(place, MESSAGES) == by_transformers(place, MESSAGES)
    assert ChatTokenizer.load(place).end == whole["model"]["vocab"]["<|im_end|>"]


def test_a_named_token_without_a_row_in_the_model_is_left_out_unless_the_template_writes_it(tmp_path):
    plain = ChatTokenizer.load(folder(tmp_path / "plain", {}))
    padded = ChatTokenizer.load(folder(tmp_path / "padded", {"pad_token": "<pad>"}), plain.vocab_size)
    assert (padded.vocab_size, padded.hash != plain.hash) == (plain.vocab_size, True)
    place = folder(tmp_path / "ended", {"eos_token": "<done>", "chat_template": CHATML + "{{ eos_token }}"})
    with pytest.raises(FolderError, match=f"has the id {plain.vocab_size}, but the model's embedding has"):
        ChatTokenizer.load(place, plain.vocab_size)


CUTS = {
    "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "spaced": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
}


@pytest.mark.parametrize("space", [None, True, False])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("named", ["Qwen2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", None])
def test_a_space_stands_before_words_where_the_class_that_transformers_takes_puts_one(tmp_path, named, cut, space):
    settings = {"tokenizer_class": named, **({} if space is None else {"add_prefix_space": space})}
    messages = [*MESSAGES, {"role": "user", "content": "Brief,\nand doubled: system!  Yes"}]
    place = folder(tmp_path, settings)
    made = Tokenizer.from_file(str(place / "tokenizer.json"))
    made.pre_tokenizer = CUTS[cut]
    made.save(str(place / "tokenizer.json"))
    for model in ("llama", "qwen2", "qwen3", "mistral"):
        for where in (place, again := place / model):
            where.mkdir(exist_ok=True)
            (where / "config.json").write_text(json.dumps({"model_type": model}))
        want = by_transformers(place, messages)
        text = transformers.AutoTokenizer.from_pretrained(place).encode("Yes, it is")
        own = ChatTokenizer.load(place)
        assert by_us(place, messages) == want and sum(want[1]) > 0 and own.whole("Yes, it is", True) == text
        own.save(again)
        assert by_us(again, messages) == want == by_transformers(again, messages)


@pytest.mark.parametrize("scheme", ["prepend", "first", "always", "never", ""])
@pytest.mark.parametrize("named", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_llamas_class_marks_spaces_by_its_settings_unless_the_file_is_of_bytes(tmp_path, named, scheme):
    messages = [*MESSAGES, {"role": "user", "content": "Yes,  two spaces:\n system é"}]
    asked = [(space, legacy) for space in (None, True, False) for legacy in (None, True, False)]
    seen = set()
    for at, (space, legacy) in enumerate(asked):
        place = write_folder(tmp_path / str(at), ("zephyr", "mistral")[at % 2], metaspace=scheme)
        own = json.loads((place / "tokenizer_config.json").read_text()) | {"tokenizer_class": named}
        own |= {} if space is None else {"add_prefix_space": space}
        own |= {} if legacy is None else {"legacy": legacy}
        (place / "tokenizer_config.json").write_text(json.dumps(own))
        (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
        reference, read = transformers.AutoTokenizer.from_pretrained(place), ChatTokenizer.load(place)
        want = reference.apply_chat_template(messages)["input_ids"]
        assert read.chat(messages).tokens.tolist() == want
        for text in ("Yes, it is", " it", "it</s>is <s> it", ""):
            ids = reference.encode(text)
            assert read.whole(text, True) == ids and read.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        read.save(place / "again")
        assert ChatTokenizer.load(place / "again").chat(messages).tokens.tolist() == want
        seen.add(tuple(want))
    assert len(seen) > 2 or not scheme  # what is asked for makes a difference


def test_a_template_that_asks_for_the_date_is_told_todays_as_transformers_tells_it(tmp_path):
    place = folder(tmp_path, {"chat_template": DATED})
    before = datetime.date.today()
    want, got = by_transformers(place, MESSAGES), by_us(place, MESSAGES)
    assert got == want or datetime.date.today() > before


def test_a_resumed_run_is_told_the_day_on_which_it_began(tmp_path):
    place = folder(tmp_path, {"chat_template": DATED})
    began = ChatTokenizer.load(place, now=THEN)
    began.save(place / "run")
    resumed, other = ChatTokenizer.load(place / "run", now=LATER), ChatTokenizer.load(place, now=LATER)
    told = lambda own: own.decode(own.chat(MESSAGES).tokens)
    assert told(resumed) == told(began) and told(resumed).startswith("03 Feb 2026")
    assert told(other).startswith("09 Aug 2027")
    assert resumed.hash == began.hash != other.hash


def test_a_folder_for_other_programs_records_no_day(tmp_path):
    place = folder(tmp_path, {"chat_template": DATED})
    ChatTokenizer.load(place, now=THEN).save(place / "out", of_run=False)
    assert ChatTokenizer.load(place / "out", now=LATER).hash == ChatTokenizer.load(place, now=LATER).hash


def test_the_day_is_nothing_to_a_template_that_does_not_ask_for_it(tmp_path):
    place = folder(tmp_path, {})
    began = ChatTokenizer.load(place, now=THEN)
    began.save(place / "run")
    assert began.hash == ChatTokenizer.load(place, now=LATER).hash
    assert not (place / "run" / "chat_date.txt").exists()


def test_a_tokenizer_that_spells_the_templates_own_tokens_is_refused(tmp_path):
    place = folder(tmp_path, {"split_special_tokens": True})
    text = transformers.AutoTokenizer.from_pretrained(place).apply_chat_template(MESSAGES, tokenize=False)
    letters = ChatTokenizer.load(folder(tmp_path / "plain", {"split_special_tokens": False})).encode(text)
    assert by_transformers(place, MESSAGES)[0] == letters  # no token of the template is left
    with pytest.raises(FolderError, match="tokenizer_config.json: split_special_tokens has .*; set it to false"):
        ChatTokenizer.load(place)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"chat_template": 7}, "chat_template is no text"),
        ({"chat_template": {"default": 7}}, "chat_template is no text"),
        ({"chat_template": {"tool_use": CHATML}}, "none is named default"),
        ({"chat_template": [CHATML]}, "no list of names and templates"),
        ({"chat_template": [{"template": CHATML}]}, "no list of names and templates"),
        ({"chat_template": [{"name": ["default"], "template": CHATML}]}, "no list of names and templates"),
        ({"chat_template": [{"name": "default", "template": None}]}, "chat_template is no text"),
        ({"chat_template": []}, "no chat template"),
        ({"chat_template": None}, "no chat template"),
        ({"bos_token": 7}, "bos_token is no text"),
        ({"eos_token": ["</s>"]}, "eos_token is no text"),
        ({"pad_token": {"content": 1}}, "pad_token is no text"),
        ({"added_tokens_decoder": ["<a>"]}, "lists tokens that are none"),
        ({"added_tokens_decoder": {"a": {"content": "<a>"}}}, "lists tokens that are none"),
        ({"added_tokens_decoder": {"7": "<a>"}}, "lists tokens that are none"),
        ({"added_tokens_decoder": {"7": {"content": 7}}}, "lists tokens that are none"),
        ({"extra_special_tokens": [7]}, "lists tokens that are none"),
        ({"additional_special_tokens": [{"text": "<a>"}]}, "lists tokens that are none"),
    ],
)
def test_a_setting_of_another_type_is_one_line_that_names_it(tmp_path, settings, wrong):
    with pytest.raises(FolderError, match=wrong) as error:
        ChatTokenizer.load(folder(tmp_path, settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"{n}.json", c) for n in ("tokenizer_config", "special_tokens_map", "added_tokens", "late_tokens")
          for c in (b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000)),
        ("chat_template.jinja", b"\xff\xfe"), ("chat_date.txt", b"yesterday"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line_that_names_it(tmp_path, name, content):
    place = folder(tmp_path, {})
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FolderError, match=f"{name}: ") as error:
        ChatTokenizer.load(place)
    assert "\n" not in str(error.value) and str(error.value).count("; fetch it again") <= 1


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"],
)
def test_a_link_to_nothing_is_named_and_no_other_file_takes_its_place(tmp_path, name):
    place = folder(tmp_path, {})
    (place / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("gone")
    with pytest.raises(FolderError, match=f"{name}: is a link to gone, which is not there; fetch it again"):
        ChatTokenizer.load(place)
