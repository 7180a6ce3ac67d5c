"""Where a chat template is found, and the templates and tokenizers that are refused at the start."""

import json

import pytest
from etils import epath
from support import CHATML, write_chat
from templates import write_folder

from ratchet.models.architectures import FolderError
from ratchet.models.chat import ChatTokenizer

MESSAGES = [{"role": "user", "content": "what is 3 + 4?"}, {"role": "assistant", "content": "it is 7"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat(tmp_path_factory.mktemp("chat"))


def test_a_template_in_a_file_of_its_own_or_given_is_used(tmp_path):
    place = write_chat(tmp_path, template=None)
    with pytest.raises(FolderError, match="no chat template"):
        ChatTokenizer.load(place, 512)
    assert ChatTokenizer.load(place, 512, CHATML).chat(MESSAGES).said.any()
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert ChatTokenizer.load(place, 512).chat(MESSAGES).said.any()
    (tmp_path / "chat_template.jinja").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    several = [{"name": "tool_use", "template": "{{ no }}"}, {"name": "default", "template": CHATML}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": several}))
    assert ChatTokenizer.load(place, 512).chat(MESSAGES).said.any()


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "closes an assistant's turn by no special token"),
        ("{% for m in messages %}{{ m['content'] }} so <|im_end|>{% endfor %}", "by no special token"),
        ("{% generation %}{% endgeneration %}{{ messages }}", "does not write each message once"),
        ("{% for m in messages %}{{ m['content'] * 2 }}<|im_end|>{% endfor %}", "does not write each message once"),
        ("{% for %}", "cannot be read"),
        ("{{ raise_exception('messages are not for me') }}", "refuses the messages: messages are not"),
        ("{{ messages.append(1) }}", "refuses the messages"),
        ("{{ messages[0]['content'] + 1 }}", "refuses the messages"),
    ],
)
def test_a_template_that_will_not_do_is_refused_at_start(folder, template, named):
    with pytest.raises(FolderError, match=named) as error:
        ChatTokenizer.load(folder, 512, template).check()
    assert "\n" not in str(error.value)


def test_a_tokenizer_in_which_yes_and_no_begin_alike_is_refused(tmp_path):
    place = write_folder(tmp_path, "qwen")
    whole = json.loads((place / "tokenizer.json").read_text())
    swap = [{"type": "Replace", "pattern": {"String": word}, "content": "x"} for word in ("Yes", "No")]
    whole["normalizer"] = {"type": "Sequence", "normalizers": swap}
    (place / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(FolderError, match="Yes and No begin with the same token"):
        ChatTokenizer.load(place).check()


def test_a_tokenizer_that_is_not_the_models_is_refused(folder, tmp_path):
    with pytest.raises(FolderError, match=r"has the id \d+, but the model's embedding has 64 rows"):
        ChatTokenizer.load(folder, 64)
    with pytest.raises(FolderError, match=r"no tokenizer.json"):
        ChatTokenizer.load(epath.Path(tmp_path), 64)
    place = write_chat(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(FolderError, match=r"tokenizer_config.json: cannot be read"):
        ChatTokenizer.load(place, 512)
    write_chat(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FolderError, match=r"tokenizer.json: cannot be read"):
        ChatTokenizer.load(epath.Path(tmp_path), 64)
