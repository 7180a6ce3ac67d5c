"""What a command is asked, in words: options by tyro, and the recipe or file that a run's settings come from."""

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import itertools
import math
import os
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import tyro
from etils import epath
from rich.text import Text

from ratchet.bootstrap import config_files
from ratchet.bootstrap.config import Config, nearest, with_settings
from ratchet.bootstrap.worlds.documents import TALES
from ratchet.launch import HELP
from ratchet.launch.commands import COMMANDS
from ratchet.launch.lines import UserError, waiting
from ratchet.launch.recipes import RECIPES
from ratchet.launch.recipes.documents import fitted
from ratchet.launch.recipes.recipe import Recipe
from ratchet.models.extras import installing
from ratchet.train.buckets import place_of, reach
from ratchet.train.files import typed

Asked = TypeVar("Asked")
_OPTION = re.compile(r"--\w|-[a-zA-Z]$")
_MISTAKES = {
    r"Error parsing (--\S+): invalid literal for int\(\) with base 10: (.*)": r"\1 is \2; give a whole number",
    r"Error parsing (--\S+): could not convert string to float: (.*)": r"\1 is \2; give a number",
    r"Error parsing (--\S+): Could not find valid parse for arguments: \[(.*)\]": r"\1 is \2; give numbers",
    r"Error parsing (--\S+): no type matching .*(?:INT|FLOAT) could be instantiated from \[(.*)\]\.":
        r"\1 is \2; give a number",
    r"invalid choice ('.*') for argument '(--\S+)'\. Expected one of \((.*)\)\.": r"\2 is \1; give one of \3",
    r"Missing value for argument '(--\S+)'\..*": r"give \1 a value",
    r"Error parsing \w+: (.*)": r"\1",
}  # fmt: skip
"""What tyro says of values, and how that is said here."""
_EXAMPLES = {"preview": "documents tales", "submit": "tiny --to local"}
"""By command, what it may be given, where `tiny` alone is not enough."""
_TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")
"""Words that other programs take as the value of a switch."""
_WIDEST = 120
"""Columns that help takes at most. In more, tyro lays groups of options side by side."""
_POSITIONAL = get_args(tyro.conf.Positional[str])[1]


def described(kind: Any, text: str, **more: str) -> Any:
    """The type of an option that help describes with a text; tyro says what else there is, such as a `metavar`."""
    return Annotated[kind, tyro.conf.arg(help=text, **more)]


Directory = described(tyro.conf.Positional[str], "the directory of a run, such as runs/lessons", metavar="DIR")
Generation = described(int, "a finished generation; 0 is the seed model", metavar="N")
Json = described(bool, "print one JSON object, for programs")
AsLine = described(bool, "print where it answers as one JSON object, on a line of its own, for programs")
AsEvents = described(bool, "print what happens as one JSON object a line, the last one the result, for programs")
Settings = Annotated[Config, tyro.conf.arg(name="")]
File = described(str, "a YAML file of settings, such as a run's config.yaml; options win over it", name="config")

Join = described(
    str, "for one of several processes: HOST:PORT/COUNT/NUMBER, as 10.0.0.1:1234/4/0, or auto on TPUs, Slurm, JobSets"
)


def needed_for(what: str, extra: str, *libraries: str) -> None:
    """Raises UserError, which names the extra, unless all of the libraries are installed."""
    if missing := [name for name in libraries if not importlib.util.find_spec(name)]:
        raise UserError(f"{what}: it needs {missing[0]}; {installing(extra)}")


def parse(
    command: str, kind: type[Asked], words: Sequence[str], default: Asked | None = None, recipe: str = ""
) -> Asked:
    """The words of a command as a `kind`, a dataclass; options may stand in any place. Help names the recipe.

    Raises UserError for an option that is unknown, naming the nearest, and for what is missing or cannot be read;
    SystemExit after printing the help that was asked for.
    """
    if not asks_for_help(words):
        _refuse_unknown(kind, words, command)
    said, shown = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown), _no_wider(_WIDEST):
            parsed, left = tyro.cli(
                kind, args=list(words), prog=f"ratchet {command} {recipe}".strip(), return_unknown_args=True,
                **({"default": default} if default else {}),
            )  # fmt: skip
    except SystemExit as stopped:
        if not stopped.code:
            print(_folded(shown.getvalue()), end="")
            raise
        raise UserError(f"{command}: {_plain(said.getvalue()).removeprefix(f'{command}: ')}") from None
    if left:
        raise UserError(f"{command}: {_too_many(kind, words, left[0])}; see `ratchet {command} --help`")
    return parsed


@contextlib.contextmanager
def _no_wider(most: int) -> Iterator[None]:
    """Within, a wider terminal is taken for one of so many columns."""
    columns, given = shutil.get_terminal_size().columns, os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(min(columns, most))
    try:
        yield
    finally:
        os.environ.pop("COLUMNS") if given is None else os.environ.update(COLUMNS=given)


def _folded(text: str) -> str:
    """Help in plain text, its paragraphs broken where the terminal ends and not where their source does. Consecutive
    lines that begin in one column are one paragraph, also if they were meant for a list."""
    width, paragraphs = min(shutil.get_terminal_size().columns, _WIDEST), list[tuple[str, int]]()
    for line in map(str.rstrip, re.sub(r"\n{3,}", "\n\n", Text.from_ansi(text).plain).splitlines()):
        column = len(line) - len(line.lstrip())
        before = paragraphs[-1][0] if paragraphs else ""
        beneath = column == 0 or column > 4 and before[:column].endswith("  ")  # the text, or what it explains
        if line and beneath and before[column : column + 1].strip():
            paragraphs[-1] = f"{before} {line.strip()}", column
        else:
            paragraphs.append((line, column))
    fold = lambda line, column: textwrap.fill(line, width, subsequent_indent=" " * column, break_on_hyphens=False)
    return "".join(f"{fold(*paragraph)}\n" for paragraph in paragraphs)


def _too_many(kind: type, words: Sequence[str], word: str) -> str:
    """What is said of a word that nothing takes; where it was meant as the value of a switch, how that is set."""
    options, spelled = _options(kind), [part for given in words for part in given.split("=", 1)]
    before = [_unnegated(_name(named)) for named, value in itertools.pairwise(spelled) if value == word]
    if word.lower() not in _TRUTHS or not (switches := [name for name in before if options.get(name) == 0]):
        return f"{word!r} is one word too many"
    return f"--{switches[0]} takes no value; leave out {word!r}, and give --{_negated(switches[0])} to turn it off"


def located(place: str, may_be_file: bool = False) -> epath.Path:
    """A directory on a disk or in a bucket. Raises UserError when the library of the store is missing, or a file lies
    there that may not be one; StoreError when the bucket is missing or cannot be looked into."""
    path = place_of(place)
    try:
        with waiting(f"the store that {place} lies in"):
            reach(path)
    except ImportError as error:
        said = f"{place}: {str(error).splitlines()[0]}; {installing('buckets')}"
        raise UserError(f"{said}, or give a directory on a disk") from error
    if not may_be_file and path.exists() and not path.is_dir():
        raise UserError(f"{place} is a file; give a directory")
    return path


def parse_run(command: str, kind: type[Asked], words: Sequence[str]) -> Asked:
    """The words of a command that begins from a recipe or a file of settings, as a `kind` with the field `config`.

    Options win over the file, and the file over the recipe. Of the world of documents, the word after the recipe is
    the place that they are read from. With `--base`, settings that nobody gave are those that
    fit trained weights in place of the recipe's, which are for random ones.
    """
    origin = _origin(command, kind, words)
    usual = origin.recipe.config
    named = f"{usual.recipe} FOLDER" if usual.world == "documents" else usual.recipe
    asked = parse(command, kind, origin.options, kind(origin.over(usual)), named)
    if asked.config.base:
        usual = fitted(usual, asked.config.train.lora)
        asked = parse(command, kind, origin.options, kind(origin.over(usual)), named)
    if asked.config.recipe != usual.recipe:
        raise UserError(f"{command}: give the recipe without --recipe, as in `ratchet {command} tiny`")
    return asked


def lacks_documents(command: str, config: Config, more: str = "") -> str:
    """Why a run with these settings would have nothing to read, with an example of what to do, which ends with `more`;
    "" where it has something."""
    if config.documents.path or config.world != "documents":
        return ""
    said = f"say what to read, as in `ratchet {command} {config.recipe} FOLDER{more}`"
    return f"{command}: {said}; {TALES} are short texts of our own"


def lacks_place(config: Config) -> str:
    """Why documents cannot lie where these settings say, as far as that is known before anything is read: a path that
    begins like none of a dataset's name is not there; "" otherwise."""
    path = config.documents.path
    if not path.startswith(("/", ".", "~")) or place_of(path).exists():
        return ""
    return f"documents: there is no folder or file {path}; set --documents.path to one that there is"


def lacks_base(config: Config) -> str:
    """Why a run with these settings would have no model to begin with, and what to do; "" where it has one. Documents
    have no worked tasks, from which alone a model from scratch learns to answer."""
    if config.base or config.world != "documents":
        return ""
    return f"the recipe {config.recipe} brings no weights, and a run about documents begins with some; give a --base"


class _Origin(NamedTuple):
    """Where the settings of a run come from: a recipe, the settings of a file by dotted name, and options."""

    recipe: Recipe
    path: str
    given: dict[str, Any]
    options: list[str]

    def over(self, usual: Config) -> Config:
        """The usual settings with those of the file. Raises UserError, naming the file, where they do not go."""
        try:
            return with_settings(usual, self.given)
        except ValueError as error:
            raise UserError(f"{self.path}: {str(error).removeprefix('config: ')}") from error


def _origin(command: str, kind: type, words: Sequence[str]) -> _Origin:
    """The recipe is named in the words or in the file; what is to be read may stand after it."""
    places, given = _loose(kind, words, command), {}
    own, rest = [words[n] for n in places], [word for n, word in enumerate(words) if n not in places]
    if path := value_of("--config", rest):
        given = config_files.read(place_of(path))
        written = str(given.pop("recipe", "" if own else "documents"))
        if written and own[:1] != [written]:
            if own and own[0] in RECIPES:
                raise UserError(f"{command}: {path} is of the recipe {written}; leave out {own[0]}")
            own.insert(0, written)
    named, *others = own or [""]
    if named not in RECIPES:
        _no_recipe(command, named, asks_for_help(words))
    world = value_of("--world", rest) or given.get("world", RECIPES[named].config.world)
    if others and world == "documents":
        if value_of("--documents.path", rest):
            raise UserError(f"{command}: {others[0]} and --documents.path both say what to read; leave out one")
        rest.append(f"--documents.path={others.pop(0)}")
    # What stands beside the settings, such as `out`, is given to tyro as an option that others overrule.
    beside = {f.name for f in dataclasses.fields(kind) if f.name != "json"} & given.keys()
    options = [*(f"--{name}={given.pop(name)}" for name in sorted(beside)), *rest, *others]
    return _Origin(RECIPES[named], path, given, options)


def _no_recipe(command: str, named: str, wants_help: bool) -> None:
    """Lists the recipes, the nearest first, as help or as a mistake."""
    takes, example = COMMANDS[command][1], _EXAMPLES.get(command, "tiny")
    alike = lambda name: difflib.SequenceMatcher(None, named, name).ratio()
    there = [name for name in RECIPES if command != "preview" or RECIPES[name].config.world == "documents"]
    lines = (f"  {name:<12}{RECIPES[name].summary}" for name in sorted(there, key=alike, reverse=True))
    listed = "\n".join(textwrap.fill(line, 80, subsequent_indent=" " * 14) for line in lines)
    if not wants_help:
        said = f"there is no recipe {named!r}" if named else f"give a recipe, as in `ratchet {command} {example}`"
        if named and "|DIR" in takes:
            said += ", and no run lies there"
        if named and place_of(named).exists():
            said += f" (`ratchet {command} documents {typed(named)}` reads what is there)"
        raise UserError(f"{command}: {said}; there are", listed.splitlines())
    fold = lambda text, indent="": textwrap.fill(text, 80, subsequent_indent=indent, break_on_hyphens=False)
    print(fold(f"usage: ratchet {command} {takes}", " " * 8))
    print(f"\n{listed}\n")
    where = " --to PLATFORM" if command == "submit" else ""
    print(fold(f"`ratchet {command} RECIPE{where} --help` lists every setting and what the recipe makes of it."))
    raise SystemExit(0)


def first_word(kind: type, words: Sequence[str]) -> str:
    """The first word that is neither an option of a command nor the value of one, "" where there is none. Raises
    UserError for an option that is unknown, unless help is asked for."""
    return next((words[place] for place in _loose(kind, words)), "")


def _loose(kind: type, words: Sequence[str], command: str = "run") -> list[int]:
    """The places of the words that are neither options of a command nor values of one."""
    if not asks_for_help(words):
        _refuse_unknown(kind, words, command)
    options, found, taken = _options(kind), [], 0.0
    for place, word in enumerate(words):
        if _OPTION.match(word):
            alone = word in HELP or "=" in word or options.get(_unnegated(_name(word))) == 0
            taken = 0 if alone else options.get(_name(word), 1)
        elif taken:
            taken -= 1
        else:
            found.append(place)
    return found


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether help is asked for, in place of what the other words ask."""
    return not set(HELP).isdisjoint(words)


def value_of(option: str, words: Sequence[str]) -> str:
    """The value of an option that takes one, "" where it was not given; the last one counts."""
    spelled = [part for word in words for part in (word.split("=", 1) if word.startswith(f"{option}=") else [word])]
    return next((value for name, value in reversed(list(itertools.pairwise(spelled))) if name == option), "")


def _options(kind: type, prefix: str = "", nested: bool = False) -> dict[str, float]:
    """The options of a command by name, as `train.seed-steps`, and how many words each takes: none, one, or all up to
    the next option (infinity)."""
    found, hints, described_as = {}, get_type_hints(kind), get_type_hints(kind, include_extras=True)
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            found |= _options(hint, f"{prefix}{name}." if nested else "", True)
        elif _POSITIONAL not in getattr(described_as[name], "__metadata__", ()):
            name = "config" if name == "file" and not nested else name
            many = get_origin(hint) is tuple
            found[(prefix + name).replace("_", "-")] = math.inf if many else float(hint is not bool)
    return found


def _refuse_unknown(kind: type, words: Sequence[str], command: str) -> None:
    """Raises UserError for an option that is unknown. All settings stand in the help of a recipe."""
    options, begins = _options(kind), command if command in ("preview", "preflight", "submit") else "run"
    for word in words:
        name = _name(word)
        if _OPTION.match(word) and name not in options and options.get(_unnegated(name)) != 0:
            plain = _unnegated(re.sub(r"^no-(?=.*\.)", "", name))
            close = difflib.get_close_matches(name, [n for n in options if "." not in n], n=1)
            settings = any("." in n for n in options)
            if not close and settings and (found := nearest(plain.replace("-", "_"))):
                close = [found.replace("_", "-")]
            if name != plain and close and options.get(close[0]) == 0:
                close = [_negated(close[0])]
            listed = f"this command has --{', --'.join(options)}"
            if settings:
                listed = f"`ratchet {begins} RECIPE --help` lists all"
            there = f"the nearest is --{close[0]}" if close else listed
            raise UserError(f"unknown setting {word}; {there}")


def _name(word: str) -> str:
    """`train.seed-steps` of `--train.seed_steps=3`."""
    return word.split("=")[0].lstrip("-").replace("_", "-")


def _unnegated(name: str) -> str:
    """`controls.imitation` of `controls.no-imitation`."""
    return re.sub(r"(^|\.)no-(?=[^.]*$)", r"\1", name)


def _negated(name: str) -> str:
    """`controls.no-imitation` of `controls.imitation`."""
    return re.sub(r"([^.]+)$", r"no-\1", name)


def _plain(box: str) -> str:
    """What tyro says in a box, up to its first rule, as one line in our words; of what is missing, the first, and of
    what settings refuse, their own words."""
    lines = [line.strip("│ ") for line in Text.from_ansi(box).plain.splitlines()[1:]]
    rule = lambda line: not line.strip("─-╰╯")
    said = " ".join(itertools.takewhile(lambda line: not rule(line), itertools.dropwhile(rule, lines)))
    if missing := re.fullmatch(r"Missing from [^:]*: ((?:--\S+ )?\S+) (.*?) ?\(required\).*", said):
        return f"give {missing[1]}, {missing[2][0].lower()}{missing[2][1:].rstrip('.')}"
    meant = (re.sub(found, ours, said) for found, ours in _MISTAKES.items() if re.fullmatch(found, said))
    return next(meant, said)
