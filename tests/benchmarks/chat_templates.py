"""Chat templates that other libraries ship, rendered and tokenized by transformers and by us.

`pip install trl oumi` (`--no-deps` will do) into the environment of the tests, then run this. Eight conversations go
through each template. It prints what differs and writes how many are equal, in tokens and in the mask of templates
that mark what the assistant says, to results/chat-templates.json.
"""

import importlib.metadata
import json
import re
import sys
import tempfile
from pathlib import Path

from etils import epath
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer, logging

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from templates import by_transformers, by_us  # noqa: E402

from ratchet.models.architectures import FolderError  # noqa: E402

RESULT = HERE / "results" / "chat-templates.json"
PACKAGES = ("trl", "oumi")
SYMBOL = re.compile(r"<[|｜][^<>'\"{}\s]{1,40}[|｜]>|</?(?:tool_call|start_of_turn|end_of_turn)>|\[/?[A-Z_]+\]")
COUNT = {"type": "object", "properties": {"n": {"type": "integer", "description": "größer"}}, "required": ["n"]}
LOOK = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": COUNT}}
CALL = {"id": "call00000", "type": "function", "function": {"name": "look", "arguments": {"n": 1}}}
FOUND = {"role": "tool", "tool_call_id": "call00000", "name": "look", "content": 'it is "7"'}
BRIEF = {"role": "system", "content": "be brief"}


def user(content) -> dict:
    return {"role": "user", "content": content}


def assistant(content, **more) -> dict:
    return {"role": "assistant", "content": content, **more}


def part(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]


CHATS = {
    "system": ([BRIEF, user("what?"), assistant("it is 7.")], {}),
    "turns": ([user("what? "), assistant(" 7\n"), user("and?"), assistant("14"), user("so"), assistant("yes")], {}),
    "calls": ([user("look"), assistant("so", tool_calls=[CALL]), FOUND, assistant("7")], {"tools": [LOOK]}),
    "null": ([user("look"), assistant(None, tool_calls=[CALL]), FOUND, assistant("7")], {"tools": [LOOK]}),
    "reasoning": (
        [user("what?"), assistant("7", reasoning_content="it"), user("so"), assistant("14", reasoning="twice")], {},
    ),
    "parts": ([user(part("what?")), assistant(part("it is 7."))], {}),
    "unicode": ([user("é ☂ 漢字 😀"), assistant("größer ☂")], {}),
    "open": ([BRIEF, user("what?")], {"open_turn": True}),
}  # fmt: skip


def write_folder(place: Path, template: str) -> None:
    """A byte-level tokenizer with the symbols that a template writes."""
    made = FastTokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = dict.fromkeys(["<s>", "</s>", *sorted(SYMBOL.findall(template))])
    special = [AddedToken(name, special=True, normalized=False) for name in names]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["Yes No what is it"], trainer)
    made.save(str(place / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (place / "tokenizer_config.json").write_text(json.dumps({**named, "chat_template": template}))


def difference(place: Path, marked: bool, messages: list, given: dict) -> str:
    """What is not the same, "" when all is. Where transformers refuses, we have to refuse too."""
    try:
        theirs = by_transformers(place, messages, **given)
    except Exception as error:  # whatever a template raises
        theirs = error
    try:
        ours = by_us(place, messages, **given)
    except FolderError as error:
        ours = error
    if isinstance(theirs, Exception) or isinstance(ours, Exception):
        both = isinstance(theirs, Exception) and isinstance(ours, Exception)
        return "" if both else f"{theirs!r} against {ours!r}"[:300]
    if ours[0] != theirs[0]:
        decode = AutoTokenizer.from_pretrained(place).decode
        return f"{decode(theirs[0])!r} against {decode(ours[0])!r}"
    return "the mask" if marked and ours[1] != theirs[1] else ""


def main() -> None:
    logging.set_verbosity_error()
    found = {"transformers": importlib.metadata.version("transformers")}
    for package in PACKAGES:
        files = [path for path in importlib.metadata.files(package) if path.suffix == ".jinja"]
        equal = 0
        for path in files:
            template = path.locate().read_text()
            with tempfile.TemporaryDirectory() as place:
                write_folder(epath.Path(place), template)
                for name, (messages, given) in CHATS.items():
                    told = difference(epath.Path(place), "generation %}" in template, messages, given)
                    equal += not told
                    if told:
                        print(path.name, name, told)
        version = importlib.metadata.version(package)
        found[package] = {"version": version, "templates": len(files), "chats": len(files) * len(CHATS), "equal": equal}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
