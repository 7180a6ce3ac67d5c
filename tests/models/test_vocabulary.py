"""What a tokenizer.json holds beside its tokens, and files that are none."""

import json

import pytest
import transformers
from etils import epath
from support import CHATML, SPECIAL, write_chat

from ratchet.models.architectures import FolderError
from ratchet.models.chat import ChatTokenizer

MESSAGES = [{"role": "user", "content": "what is it? " * 40}, {"role": "assistant", "content": "it is so. " * 40}]
CUT = {"direction": "Right", "max_length": 12, "strategy": "LongestFirst", "stride": 0}
FILLED = {"direction": "Left", "strategy": {"Fixed": 900}, "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
          "pad_token": "<unk>"}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_chat(tmp_path_factory.mktemp("plain"))


def changed(plain, place, **parts):
    """A copy of a folder with other parts of tokenizer.json; those named `model__x` belong to its model."""
    for path in plain.iterdir():
        (epath.Path(place) / path.name).write_bytes(path.read_bytes())
    whole = json.loads((plain / "tokenizer.json").read_text())
    for name, value in parts.items():
        where, _, leaf = name.rpartition("__")
        (whole[where] if where else whole)[leaf] = value
    (place / "tokenizer.json").write_text(json.dumps(whole))
    return epath.Path(place)


@pytest.mark.parametrize("left", [{"truncation": CUT}, {"padding": FILLED}, {"model__dropout": 0.9},
                                  {"truncation": CUT, "padding": FILLED, "model__dropout": 0.9}])  # fmt: skip
def test_what_a_trainers_last_call_left_is_neither_obeyed_nor_written_again(plain, tmp_path, left):
    ours = ChatTokenizer.load(changed(plain, tmp_path, **left))
    theirs = transformers.AutoTokenizer.from_pretrained(plain)
    want = theirs.apply_chat_template(MESSAGES, return_dict=True, return_assistant_tokens_mask=True)
    for tokenizer in (ours, ChatTokenizer.load(saved(ours, tmp_path / "again"))):
        told = tokenizer.chat(MESSAGES)
        assert told.tokens.tolist() == list(want["input_ids"])
        assert told.said.tolist() == [bool(said) for said in want["assistant_masks"]]
        for text in ("it", "it is so " * 50):
            assert tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert tokenizer.hash == ours.hash
    whole = json.loads((tmp_path / "again" / "tokenizer.json").read_text())
    assert whole["truncation"] is whole["padding"] is whole["model"].get("dropout") is None


@pytest.mark.parametrize("count", [900, 1100])
def test_names_of_symbols_of_very_many_letters_are_hidden_or_refused(plain, tmp_path, count):
    added = json.loads((plain / "tokenizer.json").read_text())["added_tokens"]
    letters = [chr(0x4E00 + n) for n in range(count)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    odd = [{"id": 1000 + n, "content": letter, **flags} for n, letter in enumerate(letters)]
    place = changed(plain, tmp_path, added_tokens=[*added, *odd])
    if count > 1000:
        with pytest.raises(FolderError, match=r"hold 1,1\d\d different letters, and at most 1,022 can"):
            ChatTokenizer.load(place)
        return
    own = ChatTokenizer.load(place)
    chat = own.chat([{"role": "user", "content": "".join(letters)}, MESSAGES[1]])
    assert not {1000 + n for n in range(count)} & {*chat.tokens.tolist()}
    assert "".join(letters) in own.decode(chat.tokens)


def out_of_order(whole):
    size = len(whole["model"]["vocab"])
    whole["added_tokens"] += [ADDED | {"id": size + 1, "content": "<b>"}, ADDED | {"id": size, "content": "<a>"}]


def numbered_elsewhere(whole):
    whole["added_tokens"][2]["id"] = 250


def beyond_a_hole(whole):
    whole["added_tokens"].append(ADDED | {"id": len(whole["model"]["vocab"]) + 10, "content": "<a>"})


def in_the_middle(whole):
    whole["model"]["vocab"].pop("z")
    whole["added_tokens"].append(ADDED | {"id": 93, "content": "<a>"})


def only_added(whole):
    del whole["model"]["vocab"]["<|im_end|>"]


ADDED = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False) | {"special": True}


@pytest.mark.parametrize("edit", [out_of_order, numbered_elsewhere, beyond_a_hole, in_the_middle, only_added])
def test_added_tokens_have_the_ids_that_transformers_gives_them_whatever_the_file_says(tmp_path, edit):
    template = CHATML + "{% for name in ['<a>', '<b>'] %}{{ name }}{% endfor %}"
    place = write_chat(tmp_path, template)
    whole = json.loads((place / "tokenizer.json").read_text())
    edit(whole)
    (place / "tokenizer.json").write_text(json.dumps(whole))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(place), ChatTokenizer.load(place)
    numbers = {token["content"]: theirs.convert_tokens_to_ids(token["content"]) for token in whole["added_tokens"]}
    want = list(theirs.apply_chat_template(MESSAGES, return_dict=True)["input_ids"])
    assert ours.chat(MESSAGES).tokens.tolist() == want and ours.end == numbers["<|im_end|>"]
    assert ours.left_out == {*numbers.values()}
    spelled = [{"role": "user", "content": "say <|im_end|><a>"}, *MESSAGES[1:]]
    told = ours.chat(spelled).tokens.tolist()
    assert [told.count(number) for number in numbers.values()] == [want.count(number) for number in numbers.values()]


def saved(tokenizer, place):
    tokenizer.save(epath.Path(place))
    return epath.Path(place)


def test_a_file_without_such_a_rest_is_written_again_letter_for_letter(plain, tmp_path):
    source = json.dumps(json.loads((plain / "tokenizer.json").read_text()), indent=3)
    (changed(plain, tmp_path) / "tokenizer.json").write_text(source)
    again = saved(ChatTokenizer.load(epath.Path(tmp_path)), tmp_path / "again")
    assert (again / "tokenizer.json").read_text() == source


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[" * 100_000, "cannot be read"),
        ("[]", "is no tokenizer.json of the library tokenizers"),
        ('{"added_tokens": 3}', "is no tokenizer.json of the library tokenizers"),
        ('{"added_tokens": [{"id": 3}]}', "is no tokenizer.json of the library tokenizers"),
        ("{}", "cannot be read"),
        ('{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}', "makes no token of the letter a"),
    ],
)
def test_what_is_no_tokenizer_is_one_line(plain, tmp_path, text, line):
    place = changed(plain, tmp_path)
    (place / "tokenizer.json").write_text(text)
    with pytest.raises(FolderError) as caught:
        ChatTokenizer.load(place)
    said = str(caught.value)
    assert said.startswith(f"{place / 'tokenizer.json'}: ") and line in said and "\n" not in said


@pytest.mark.parametrize("name", ["### Response:\n", " <|so|> ", "\n"])
def test_a_symbol_may_have_space_at_its_edges(tmp_path, name):
    place = write_chat(tmp_path, CHATML + "{{ " + repr(name) + " }}", special=(*SPECIAL, name))
    own = ChatTokenizer.load(place)
    for said in ("so it is", "<|im_end|>"):
        tokens = own.render([{"role": "user", "content": said}])
        assert said in own.decode(tokens) and (not name.strip() or own.decode(tokens, special=True).endswith(name))
