"""What reads, writes and talks to models: `import`, `export` and `chat`."""

import contextlib
import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from ratchet.launch import api, export_data, folders
from ratchet.launch.lines import UserError, say, tell
from ratchet.launch.options import Directory, Json, described, located, parse
from ratchet.launch.output import make_console, print_json, quiet
from ratchet.models import architectures
from ratchet.train.buckets import place_of

Named = described(tyro.conf.Positional[str], "a Hugging Face folder, a GGUF file, or smollm2", metavar="MODEL")
Exported = Annotated[folders.Export, tyro.conf.arg(name="")]
Promoted = described(int | None, "generation that answers", metavar="N", help_behavior_hint="(default: the newest)")
Answers = described(bool, "print each question and its answer as one JSON object a line, for programs")
HOTTEST = 2.0
"""The highest temperature, as of servers: above it, what is sampled says nothing."""
Warmth = described(float | None, "how freely it is sampled", metavar="T", help_behavior_hint="(default: the run's own)")


@dataclass(frozen=True)
class Import:
    """Reads a model that others trained over all devices and says what it is."""

    model: Named
    template: str = ""
    """A chat template (Jinja) in place of its own."""
    json: Json = False


@dataclass(frozen=True)
class Export:
    """Writes a generation as a folder that transformers loads: of runs with --base and of the recipes qwen3-*."""

    directory: Directory
    of: Exported
    data: bool = False
    """Also write data/, the accepted transcripts as parquet and JSON lines: prompts, answers, sources, soft targets,
    verdicts, licences. Of a decoder that transformers does not have, it is written alone."""
    json: Json = False


@dataclass(frozen=True)
class Chat:
    """Talks to a generation of a run, which answers each line of standard input without sources."""

    directory: Directory
    generation: Promoted = None
    temperature: Warmth = None
    json: Answers = False


def import_model(words: list[str]) -> int:
    asked = parse("import", Import, words)
    quiet()
    found = folders.read(str(located(asked.model, may_be_file=True)), asked.template)
    if asked.json:
        print_json(found)
    else:
        make_console().print(folders.table(found))
    return 0


def export(words: list[str]) -> int:
    asked = parse("export", Export, words)
    quiet()
    model = api.load(located(asked.directory), asked.of.generation)
    if asked.data:
        export_data.check(model.run, asked.of.generation)
    written, there = {}, place_of(asked.of.to).exists()
    if not asked.data or architectures.is_known(model.run.config.model):
        written["folder"] = str(folders.write(model.run, asked.of))
    if asked.data:
        place = located(asked.of.to) / "data"
        try:
            written["data"] = str(export_data.write(model.run, asked.of.generation, place))
        except BaseException:
            if not there:  # half an export would be taken for a whole one
                place.parent.rmtree(missing_ok=True)
            raise
    print_json(written) if asked.json else print("\n".join(written.values()))
    return 0


def chat(words: list[str]) -> int:
    asked = parse("chat", Chat, words)
    if not 0 <= (asked.temperature or 0) <= HOTTEST:
        raise UserError(f"chat: --temperature is {asked.temperature:g}; give 0, which is greedy, to {HOTTEST:g}")
    quiet()
    model = api.load(located(asked.directory), asked.generation)
    remembers, at_terminal = bool(model.run.config.base), sys.stdin.isatty()
    if at_terminal:
        scope = "it remembers what was said" if remembers else "each line is a question of its own, as in training"
        tell(f"generation {model.number} of {asked.directory}; {scope}; Ctrl-D ends")
    said: list[dict] = []
    with contextlib.suppress(EOFError):
        while True:
            if line := input("> " if at_terminal else "").strip():
                said = _exchange(model, said if remembers else [], line, asked)
    if at_terminal:
        print()  # the shell's prompt stands on a line of its own
    return 0


def _exchange(model: api.Model, said: list[dict], line: str, chat: Chat) -> list[dict]:
    """Prints the answer to a line; returns the conversation with both, less its beginning where there is no room."""
    asked = [*said, {"role": "user", "content": line}]
    try:
        while len(asked) > 1 and not model.fits(asked):
            asked = asked[2:]
        answer = model.answer(asked, temperature=chat.temperature, seed=len(asked))
    except ValueError as error:  # a line that is too long, or that the template refuses: the next one may be answered
        say(str(error))
        return said
    print(json.dumps({"question": line, "answer": answer}) if chat.json else answer, flush=True)
    return [*asked, {"role": "assistant", "content": answer}]
