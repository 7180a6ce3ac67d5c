"""What a Hugging Face folder says of its chat beside tokenizer.json: templates, special tokens, and a run's day."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from ratchet.models.added import LISTED, Added, additions
from ratchet.models.architectures import FolderError, present
from ratchet.models.spacing import AS_IT_IS, Reading
from ratchet.models.template import asks_for_the_date

_SETTINGS = "tokenizer_config.json"
_ALONE, _OTHERS = "chat_template.jinja", "additional_chat_templates"
_SPLIT = "split_special_tokens"
_NOW, _LATE = "chat_date.txt", "late_tokens.json"
_MAP, _LEGACY = "special_tokens_map.json", "added_tokens.json"
_STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_END_OF_TEXT = "<|endoftext|>"
_OF_CLASS = {
    "Gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>",
              "mask_token": "<mask>"},
    "GPT2": {"bos_token": _END_OF_TEXT, "eos_token": _END_OF_TEXT, "unk_token": _END_OF_TEXT},
    "Qwen2": {"eos_token": _END_OF_TEXT, "unk_token": _END_OF_TEXT, "pad_token": _END_OF_TEXT},
}
"""Special tokens that transformers' tokenizer classes have without being told."""
_ALWAYS = {"qwen2": "Qwen2", "mistral": ""}
"""By a model's type, the class that transformers takes whatever is named; "" is the one that adds nothing."""
_UNNAMED = {"qwen3": "Qwen2", "gemma2": "Gemma", "gemma3_text": "Gemma"}
"""By a model's type, the class that transformers takes where none is named."""


class NoTemplate(FolderError):
    """A folder's tokenizer has no chat template."""


@dataclass(frozen=True)
class ChatSettings:
    """`default` is the chat template, `with_tools` the one for messages that come with tools, the same in most folders.
    `named` holds special tokens by the name that templates call them, such as `bos_token`. `now` is the time that a
    template is told, None in a folder that records none. `others` are settings that only transformers reads, and
    `added` what they and other files add to the tokens of tokenizer.json; `reading` is how transformers reads that.
    `late` are tokens of a run's tokenizer.json that its base's has not.
    """

    default: str
    with_tools: str
    named: Mapping[str, str]
    others: Mapping[str, Any]
    now: datetime.datetime | None = None
    added: tuple[Added, ...] = ()
    reading: Reading = AS_IT_IS
    late: tuple[str, ...] = ()

    @property
    def dated(self) -> bool:
        """Whether what the templates write depends on the day."""
        return asks_for_the_date(self.default) or asks_for_the_date(self.with_tools)

    def write(self, folder: epath.Path, now: datetime.datetime | None, late: Mapping[str, int]) -> None:
        """Writes the files that `read` and transformers read. `now` is recorded for templates that ask for the date,
        and `late` tokens, ids by name, where there are any."""
        (folder / _ALONE).write_text(self.default)
        if self.with_tools != self.default:
            (folder / _OTHERS).mkdir(exist_ok=True)
            (folder / _OTHERS / "tool_use.jinja").write_text(self.with_tools)
        (folder / _SETTINGS).write_text(json.dumps({**self.others, **self.named}, indent=1))
        if now and self.dated:
            (folder / _NOW).write_text(now.isoformat())
        if late:
            (folder / _LATE).write_text(json.dumps(dict(late)))


def read(folder: epath.Path, template: str = "") -> ChatSettings:
    """What a folder says, where transformers looks for it; `template` replaces its own templates.

    Raises FolderError for files that cannot be read, NoTemplate for a folder without a chat template.
    """
    settings = _mapping(folder / _SETTINGS)
    if settings.get(_SPLIT):
        what = f"{_SPLIT} has the special tokens of chat templates spelled letter by letter"
        raise FolderError(f"{folder / _SETTINGS}: {what}; set it to false")
    own = settings.pop("chat_template", None)
    templates = {"default": template} if template else _templates(folder, own)
    if not templates:
        raise NoTemplate(f"{folder}: no chat template ({_ALONE}, or in {_SETTINGS})")
    if "default" not in templates:
        raise FolderError(f"{folder}: several chat templates, of which none is named default; write it to {_ALONE}")
    default = templates["default"]
    with_tools = templates.get("tool_use", default)
    mapped, of_class = {} if LISTED in settings else _mapping(folder / _MAP), _class_of(folder, settings)
    named = _named(folder, {**_OF_CLASS.get(of_class, {}), **settings}, mapped)
    legacy, markup = _mapping(folder / _LEGACY), default + with_tools
    is_written = lambda token: token in markup or any(n in markup for n, t in named.items() if t == token)
    try:
        added = additions(mapped | settings, legacy, named, is_written)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FolderError(f"{folder / _SETTINGS}: lists tokens that are none ({error}); fetch it again") from error
    reading = Reading(of_class, settings.get("add_prefix_space"), bool(settings.get("legacy")))
    now, late = _now(folder / _NOW), tuple(_mapping(folder / _LATE))
    return ChatSettings(default, with_tools, named, settings, now, added, reading, late)


def text_of(path: epath.Path) -> str:
    """A file's text. Raises FolderError for one that cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"{path}: cannot be read ({error}); fetch it again") from error


def _templates(folder: epath.Path, given: Any) -> dict[str, str]:
    """Chat templates by name. Files of their own take the place of what tokenizer_config.json holds."""
    alone, others = folder / _ALONE, folder / _OTHERS
    files = {path.stem: path for path in sorted(others.glob("*.jinja"))} if others.is_dir() else {}
    files |= {"default": alone} if present(alone) else {}
    if files:
        return {name: text_of(path) for name, path in files.items()}
    if isinstance(given, list):
        try:
            given = {one["name"]: one["template"] for one in given}
        except (TypeError, KeyError) as error:
            raise FolderError(f"{folder / _SETTINGS}: chat_template is no list of names and templates") from error
    made = {"default": given} if isinstance(given, str) else {} if given is None else given
    if not isinstance(made, dict) or not all(isinstance(one, str) for one in made.values()):
        raise FolderError(f"{folder / _SETTINGS}: chat_template is no text; write the template to {_ALONE}")
    return made


def _named(folder: epath.Path, settings: Mapping[str, Any], mapped: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name. What special_tokens_map.json has `mapped` has the last word."""
    given = dict(settings)
    if isinstance(extra := settings.get("extra_special_tokens"), dict):
        given |= extra
    given |= mapped
    spelled = {name: value.get("content") if isinstance(value, dict) else value for name, value in given.items()}
    for name in _STANDARD:
        if not isinstance(spelled.get(name), str | None):
            raise FolderError(f"{folder / _SETTINGS}: {name} is no text")
    names = (*_STANDARD, *(name for name in spelled if name.endswith("_token") or name in (extra or ())))
    return {name: spelled[name] for name in names if isinstance(spelled.get(name), str)}


def _class_of(folder: epath.Path, settings: Mapping[str, Any]) -> str:
    """The class that transformers reads the tokenizer with, without what all of their names have."""
    kind = str(_mapping(folder / "config.json").get("model_type"))
    named = settings.get("tokenizer_class")
    usual = _UNNAMED.get(kind, "") if named is None else str(named)
    return _ALWAYS.get(kind, usual).removesuffix("Fast").removesuffix("Tokenizer")


def _mapping(path: epath.Path) -> dict[str, Any]:
    """A file's JSON object, {} where there is no file."""
    if not present(path):
        return {}
    text = text_of(path)
    try:
        made = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path}: cannot be read ({error}); fetch it again") from error
    if not isinstance(made, dict):
        raise FolderError(f"{path}: holds no JSON object; fetch it again")
    return made


def _now(path: epath.Path) -> datetime.datetime | None:
    if not path.exists():
        return None
    try:
        return datetime.datetime.fromisoformat(text_of(path).strip())
    except ValueError as error:
        raise FolderError(f"{path}: holds no date ({error})") from error
