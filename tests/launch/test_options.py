"""Help and options wherever they stand, recipes by name, and settings in files."""

import dataclasses
import importlib.metadata
import json
import os

import pytest
import yaml
from etils import epath
from rich.console import Console
from support import LLAMA, start, tiny_config, write_model

from ratchet.bootstrap import config_files
from ratchet.bootstrap.config import flat
from ratchet.bootstrap.config_changes import changed
from ratchet.launch import cli
from ratchet.launch.commands import look
from ratchet.launch.commands import start as starting
from ratchet.launch.options import parse_run
from ratchet.launch.recipes import RECIPES
from ratchet.models import pretrained


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """An empty directory to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def begun(monkeypatch):
    """What `ratchet run` and `resume` would begin: (directory, config) of each, of which the settings are written."""
    runs = []

    def begin(directory, config, as_events, together, given=None):
        config_files.save(directory, config)
        runs.append((str(directory), config))
        return 0

    monkeypatch.setattr(starting, "_go", begin)
    return runs


def ratchet(capsys, *words):
    """(exit code, stdout, stderr)"""
    code = cli.main([str(w) for w in words])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("words", [["{}", "--help"], ["--help", "{}"], ["help", "{}"], ["{}", "-h", "--json", "x"]])
def test_every_command_has_help_wherever_it_is_asked_for_and_does_nothing(capsys, somewhere, begun, command, words):
    code, out, err = ratchet(capsys, *(word.format(command) for word in words))
    assert code == 0 and not err and f"usage: ratchet {command}" in out
    assert not begun and not list(somewhere.iterdir())


@pytest.mark.parametrize("words", [["--version"], ["version"], ["-V"], ["run", "tiny", "--version"]])
def test_the_version_is_said_wherever_it_is_asked_for(capsys, somewhere, begun, words):
    assert ratchet(capsys, *words)[:2] == (0, f"ratchet {importlib.metadata.version('ratchet')}\n")
    assert not begun and not list(somewhere.iterdir())


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("command", ["compare", "serve", "watch", "resume"])
def test_help_is_no_wider_than_the_terminal(capsys, monkeypatch, command, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = ratchet(capsys, command, "--help")[1].splitlines()
    told = [line for line in lines if line[:1] not in tuple("│╭╰ -")]
    assert len(told) > 3 and max(map(len, told)) <= width


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_help_breaks_its_paragraphs_where_the_terminal_ends(capsys, monkeypatch, width):
    """Not where those of the source end, and with every setting above its own help."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = ratchet(capsys, "run", "documents", "--help")[1].splitlines()
    at, words = lines.index("  --base STR") + 1, []
    while not lines[at].startswith("  --"):
        if words:
            assert len(lines[at - 1]) + 1 + len(lines[at].split()[0]) > min(width, 120), "the word had room"
        words += lines[at].split()
        at += 1
    assert " ".join(words).startswith("A model to start from, not random weights: smollm2, a Hugging Face folder or")
    assert " ".join(words).endswith("chat template that of SentencePiece. (default: smollm2)")
    assert max(map(len, lines)) <= min(width, 120) and os.environ["COLUMNS"] == str(width)


def test_help_of_a_command_names_what_it_takes_and_no_more(capsys):
    resumed, submitted = ratchet(capsys, "resume", "--help")[1], ratchet(capsys, "submit", "tiny", "--help")[1]
    assert "--train.columns may be raised" in resumed and "--seed" not in resumed
    assert "(required)" in submitted.split("--to {")[1].split("  --out ")[0]
    assert "submit RECIPE --to PLATFORM --help" in ratchet(capsys, "submit", "--help")[1]
    listed = ratchet(capsys, "preview", "--help")[1]
    assert "  documents " in listed and "  lessons " not in listed


def test_help_of_compare_has_what_it_is_for(capsys):
    assert "--vary SETTING VALUE VALUE ..." in ratchet(capsys, "compare", "--help")[1]


def test_a_preview_without_its_recipe_is_told_of_one_that_it_can_show(capsys, somewhere):
    assert "as in `ratchet preview documents tales`" in ratchet(capsys, "preview")[2]
    assert "there is no recipe 'nowhere', and no run lies there" in ratchet(capsys, "preview", "nowhere")[2]


def test_help_of_a_recipe_says_what_it_makes_of_every_setting(capsys):
    code, out, _ = ratchet(capsys, "run", "--help", "arithmetic")
    assert code == 0 and "usage: ratchet run arithmetic" in out
    assert all(f"--{name.replace('_', '-')}" in out for name in flat(RECIPES["arithmetic"].config) if "." not in name)
    assert f"(default: {RECIPES['arithmetic'].config.train.steps})" in out


@pytest.mark.parametrize("command", ["run", "preflight"])
def test_a_missing_or_unknown_recipe_lists_them_with_what_they_do(capsys, somewhere, command):
    code, out, err = ratchet(capsys, command)
    assert code == 2 and not out and f"give a recipe, as in `ratchet {command} tiny`" in err
    assert all(f"  {name} " in err for name in RECIPES)
    assert max(map(len, ratchet(capsys, command, "--help")[1].splitlines())) <= 80
    code, out, err = ratchet(capsys, command, "lesons")
    assert code == 2 and err.splitlines()[0] == f"ratchet: {command}: there is no recipe 'lesons'; there are"
    assert err.splitlines()[1].startswith(f"  lessons     {RECIPES['lessons'].summary[:40]}")
    assert max(map(len, err.splitlines())) <= 80 and not list(somewhere.iterdir())


@pytest.mark.parametrize(
    ("words", "out", "set_to"),
    [
        (["--out=here", "tiny"], "here", {}),
        (["--out", "here", "tiny"], "here", {}),
        (["--controls.no-imitation", "tiny"], "runs/tiny", {"controls.imitation": False}),
        (["--train.steps", "3", "--controls.no-imitation", "tiny", "--seed", "5"], "runs/tiny",
         {"train.steps": 3, "controls.imitation": False, "seed": 5}),
        (["--train.seed_steps=4", "tiny", "--wrongthink.lambdas", "0.1", "0.2"], "runs/tiny",
         {"train.seed_steps": 4, "wrongthink.lambdas": (0.1, 0.2)}),
        (["tiny", "--documents.license", "stop,"], "runs/tiny", {"documents.license": "stop,"}),
    ],
)  # fmt: skip
def test_options_count_wherever_they_stand(capsys, begun, words, out, set_to):
    assert ratchet(capsys, "run", *words)[0] == 0
    directory, config = begun[0]
    assert directory == out and flat(config) == flat(tiny_config()) | set_to


@pytest.mark.parametrize(
    "words",
    [
        ["documents", "tales"],
        ["--out", "documents", "documents", "--seed", "-1", "tales"],
        ["documents", "tales", "--documents.globs", "a.txt", "*.txt"],
        ["--documents.globs", "a.txt", "*.txt", "--json", "documents", "tales"],
        ["--config", "mine.yaml", "tales"],
        ["documents", "tales", "--config", "mine.yaml"],
        ["lessons", "--world", "documents", "tales"],
    ],
)
def test_what_is_to_be_read_stands_after_the_recipe(somewhere, words):
    (somewhere / "mine.yaml").write_text("recipe: documents\ndocuments: {path: elsewhere}\n")
    config = parse_run("run", starting.New, words).config
    assert (config.world, config.documents.path) == ("documents", "tales")
    assert not config.documents.globs or config.documents.globs == ("a.txt", "*.txt")


def test_a_place_that_is_taken_for_a_recipe_is_told_from_one(capsys, somewhere):
    (somewhere / "notes").mkdir()
    code, _, err = ratchet(capsys, "run", "notes")
    assert code == 2 and "there is no recipe 'notes' (`ratchet run documents notes` reads what is there)" in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "--nonsense"], "unknown setting --nonsense; `ratchet run RECIPE --help` lists all"),
        (["run", "--nonsense", "tiny"], "unknown setting --nonsense"),
        (["preflight", "tiny", "--nonsense"], "--nonsense; `ratchet preflight RECIPE --help` lists all"),
        (["resume", "x", "--nonsense"], "unknown setting --nonsense; `ratchet run RECIPE --help` lists all"),
        (["run", "--no-imitation"], "the nearest is --controls.no-imitation"),
        (["run", "tiny", "lessons"], "'lessons' is one word too many"),
        (["run", "tiny", "--recipe", "x"], "give the recipe without --recipe"),
        (["run", "tiny", "--train.no-steps"], "unknown setting --train.no-steps; the nearest is --train.steps"),
        (["resume", "--generatons", "4", "x"], "unknown setting --generatons; the nearest is --generations"),
        (["resume", "x", "--out", "y"], "unknown setting --out"),
        (["evaluate", "x"], "evaluate: give --generation N, a finished generation"),
        (["export", "x", "--generation", "1"], "export: give --to"),
        (["compare", "--vary", "train.steps", "3"], "compare: give DIR"),
        (["compare", "x"], "compare: say what to vary"),
        (["compare", "x", "--vary", "train.steps", "3", "--vary"], "compare: say what to vary"),
        (["run", "tiny", "--train.optimizer.rate", "x"], "run: --train.optimizer.rate is 'x'; give a number"),
        (["run", "tiny", "--wrongthink.lambdas", "a", "b"], "run: --wrongthink.lambdas is 'a', 'b'; give numbers"),
        (["chat", "x", "--temperature", "hot"], "chat: --temperature is 'hot'; give a number"),
        (["run", "tiny", "--controls.imitation", "no"], "takes no value; leave out 'no', and give --controls.no-imit"),
        (["run", "tiny", "--controls.no-imitation=yes"], "--controls.imitation takes no value; leave out 'yes'"),
        (["run", "tiny", "--no-controls.imitation"], "the nearest is --controls.no-imitation"),
        (["status", "x", "y"], "status: 'y' is one word too many"),
        (["status", "-j", "x"], "unknown setting -j; this command has --json"),
        (["chat", "x", "--generatoin", "1"], "the nearest is --generation"),
        (["run", "documents", "x", "--documents.path", "y"], "x and --documents.path both say what to read; leave"),
        (["preview", "documents", "x", "--documents.path=y"], "x and --documents.path both say what to read; leave"),
        (["run", "documents", "x", "y"], "'y' is one word too many"),
        (["run", "documents"], "say what to read, as in `ratchet run documents FOLDER`"),
        (["run", "documents", "/nope", "--base", "gone"], "documents: there is no folder or file /nope; set --doc"),
        (["preview", "documents", "./nope"], "documents: there is no folder or file ./nope; set --documents.path"),
        (["preview", "documents"], "say what to read, as in `ratchet preview documents FOLDER`"),
        (["run", "lessons", "--documents.path", "x"], "the world lessons reads none; leave it out"),
    ],
)
def test_what_cannot_be_understood_is_one_line(capsys, somewhere, begun, words, named):
    code, out, err = ratchet(capsys, *words)
    assert code == 2 and named in err and err.count("\n") == 1 and not out
    assert not begun and not list(somewhere.iterdir())


@pytest.mark.parametrize("recipe", ["documents", "pod-0.6b"])
@pytest.mark.parametrize(("command", "more"), [("run", ""), ("preview", ""), ("submit", " --to local")])
def test_that_there_is_nothing_to_read_is_said_before_what_the_model_lacks(
    capsys, somewhere, begun, monkeypatch, command, more, recipe
):
    monkeypatch.setattr(pretrained, "PACKAGES", {"smollm2": "no_such_package"})
    code, out, err = ratchet(capsys, command, recipe, *more.split())
    assert (code, out) == (2, "") and not begun and not list(somewhere.iterdir())
    example = f"`ratchet {command} {recipe} FOLDER{more}`"
    assert err == f"ratchet: {command}: say what to read, as in {example}; tales are short texts of our own\n"
    if command != "submit":
        assert "say what to read" not in ratchet(capsys, command, recipe, "tales")[2]


def test_a_mistake_is_plain_text_on_a_terminal_too(capsys, monkeypatch):
    """tyro draws boxes in colours there."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for words in (["run", "tiny", "--train.steps", "many"], ["status"]):
        err = ratchet(capsys, *words)[2]
        assert err.count("\n") == 1 and "\x1b" not in err and not set("│─╭╰") & set(err)


def test_a_runs_own_file_gives_the_same_run(capsys, begun, somewhere):
    given = ["--seed", "3", "--train.optimizer.rate", "1e-5", "--documents.license", "1e5", "--review.rubric", ""]
    assert ratchet(capsys, "run", "lessons", "--out", "first", *given)[0] == 0
    assert ratchet(capsys, "run", "--config", "first/config.yaml", "--out", "second")[0] == 0
    assert ratchet(capsys, "run", "--config=first/config.yaml", "--out=third", "--seed", "4", "lessons")[0] == 0
    (_, first), (_, second), (_, third) = begun
    assert first == second and changed(first, third) == ["seed: 3 → 4"]
    assert config_files.saved(epath.Path("second")) == first
    assert yaml.safe_load((somewhere / "first" / "config.yaml").read_text())["train"]["steps"] == first.train.steps


WRITTEN = """
recipe: tiny
seed: 7
train.steps: 5
train:
  seed-steps: 6
  optimizer: {rate: 1e-3, kind: adamw}
wrongthink: {lambdas: [0.5, 1]}
controls:
  imitation: false
out: mine
"""


def test_a_file_has_the_names_of_the_options_nested_or_not_and_options_win(capsys, begun, somewhere):
    (somewhere / "mine.yaml").write_text(WRITTEN)
    assert ratchet(capsys, "run", "--config", "mine.yaml", "--seed", "8")[0] == 0
    directory, config = begun[0]
    assert directory == "mine"
    assert flat(config) == flat(tiny_config()) | {
        "seed": 8, "train.steps": 5, "train.seed_steps": 6, "train.optimizer.rate": 1e-3, "controls.imitation": False,
        "train.optimizer.kind": "adamw", "wrongthink.lambdas": (0.5, 1.0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("train: {stepz: 3}", "mine.yaml: unknown setting train.stepz; nearest is train.steps"),
        ("train.steps: many", "mine.yaml: train.steps is 'many'; it must be of type int"),
        ("train: 3", "mine.yaml: unknown setting train; it holds settings, such as train.seed"),
        ("wrongthink: {sources: spoiled}", "mine.yaml: wrongthink.sources is 'spoiled'; it must be a list"),
        ("train: {steps: 0}", "mine.yaml: train.steps is 0; it must be at least 1"),
        ("train: {steps: 3}\ntrain.steps: 3", "mine.yaml: train.steps is given twice"),
        ("train: {steps: 3", "mine.yaml, line 1:"),
        ("- 3", "mine.yaml: holds a list"),
        ("\x00", "mine.yaml cannot be read"),
        ("recipe: lesons", "no recipe 'lesons'"),
        ("recipe: lessons", "mine.yaml is of the recipe lessons; leave out tiny"),
    ],
)
def test_a_mistake_in_a_file_is_a_line_with_its_name(capsys, begun, somewhere, text, named):
    (somewhere / "mine.yaml").write_text(text)
    words = ["run", "--config", "mine.yaml"] + ([] if "lesons" in text else ["tiny"])
    code, _, err = ratchet(capsys, *words)
    assert code == 2 and named in err and (err.count("\n") == 1 or "lesons" in text)
    assert not begun and len(list(somewhere.iterdir())) == 1


def test_resume_reads_the_runs_own_settings(capsys, begun, somewhere):
    config = tiny_config(seed=9)
    start(somewhere / "run", config)
    assert ratchet(capsys, "resume", "--seed", "9", "run")[0] == 0
    assert begun == [("run", config)]


@pytest.mark.parametrize(
    ("words", "rate"), [([], 1e-5), (["--train.lora", "4"], 1e-4), (["--train.optimizer.rate", "3e-6"], 3e-6)]
)
def test_trained_weights_get_settings_that_fit_them_unless_others_are_given(capsys, begun, somewhere, words, rate):
    """The recipes from scratch start with Muon at 0.03, which would undo what a base knows."""
    (somewhere / "base").mkdir()
    folder = write_model(somewhere / "base")
    given = ["--base", str(folder), "--simulate.calls", "0", *words]
    assert ratchet(capsys, "run", "lessons", "--out", "first", *given)[0] == 0
    config = begun[0][1]
    optimizer = config.train.optimizer
    assert optimizer.kind == "adamw" and optimizer.rate == pytest.approx(rate)
    assert min(config.model.max_length, config.train.columns) >= 1024 and config.model.width == LLAMA.width
    assert ratchet(capsys, "run", "--config", "first/config.yaml", "--out", "second")[0] == 0
    assert begun[1][1] == config


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train.optimizer.kind", "muon"], "train.optimizer.kind is muon, which is for whole matrices; adapters"),
        (["--train.optimizer.average", "0.2"], "train.optimizer.average is not 0; the mean of adapters is not that"),
    ],
)
def test_adapters_are_trained_by_adamw_and_no_average_is_taken_of_them(capsys, somewhere, words, said):
    (somewhere / "base").mkdir()
    given = ["--base", str(write_model(somewhere / "base")), "--train.lora", "4", "--simulate.calls", "0"]
    code, _, err = ratchet(capsys, "run", "lessons", "--out", "run", *given, *words)
    assert code == 2 and said in err and not (somewhere / "run").exists()


@pytest.mark.parametrize("width", [40, 80])
def test_recipes_are_whole_on_every_width(capsys, monkeypatch, width):
    monkeypatch.setattr(look, "make_console", lambda: Console(width=width))
    out = ratchet(capsys, "recipes")[1]
    assert "…" not in out and max(map(len, out.splitlines())) <= width
    assert {line.split()[0] for line in out.splitlines() if line[1:2].strip()} >= RECIPES.keys()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_settings_of_every_recipe_go_through_a_file(somewhere, recipe):
    config = RECIPES[recipe].config
    config_files.save(epath.Path(somewhere / "run"), config)
    assert parse_run("run", starting.New, ["--config", "run/config.yaml"]).config == config


def test_what_programs_read_is_one_object(capsys):
    code, out, _ = ratchet(capsys, "recipes", "--json")
    found = json.loads(out)
    assert code == 0 and found["recipes"]["tiny"]["summary"] == RECIPES["tiny"].summary
    settings = found["recipes"]["lessons"]["config"]
    assert settings == json.loads(json.dumps(dataclasses.asdict(RECIPES["lessons"].config)))
