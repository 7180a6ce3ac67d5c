"""The walls of the house: who imports whom, which words the general code may not say, and who may ask an oracle."""

import ast
import functools
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from support import run_tiny, sealed, tiny_config

from ratchet.bootstrap import worlds
from ratchet.bootstrap.checks import GENERAL
from ratchet.bootstrap.config import Config, flat
from ratchet.bootstrap.signals import LIKELIHOODS, SHARES
from ratchet.bootstrap.worlds import ArithmeticConfig
from ratchet.bootstrap.worlds.lessons.language import CONTEXTS, GENRES

PACKAGES = ("launch", "bootstrap", "train", "models")
HOUSE = Path(worlds.__file__).parents[2]
BOOTSTRAP = HOUSE / "bootstrap"
MODULES = {
    ".".join(("ratchet", *p.relative_to(HOUSE).with_suffix("").parts)).removesuffix(".__init__"): p
    for package in PACKAGES
    for p in (HOUSE / package).rglob("*.py")
}
EMBEDDED = sorted(
    p.stem
    for p in (BOOTSTRAP / "worlds").iterdir()
    if p.name != "__pycache__" and (p.is_dir() or p.suffix == ".py")
)
SHARED = ("world", "bounds", "answers")
"""What is no world but serves all of them."""
NEVER = re.compile(
    r"options?|actions?|outcomes?|choices?|good|bad|(un)?wise|harm(ful)?|situations?|genres?|story|stories|fables?|told|sound"
    r"|digits?"
)
EXCEPTIONS = re.compile(r'\b(random|rng)\.choice\b|"choices"|"tool_choice"')
"""Functions of the standard library, and fields of servers' answers."""


@functools.cache
def imported(module: str) -> frozenset[str]:
    """Every module that a module imports anywhere in its file: ours, and others by their first name."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative path, which this test does not follow"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
    return frozenset(name if name.startswith("ratchet") else name.split(".")[0] for name in found)


def within(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in (f"ratchet.{p}" for p in packages))


def against(rule) -> list[str]:
    """Every import for which `rule(importing, imported)` is true, as "a imports b"."""
    pairs = [(a, b) for a in sorted(MODULES) for b in sorted(imported(a)) if within(b, *PACKAGES)]
    return [f"{a} imports {b}" for a, b in pairs if rule(a, b)]


def test_every_module_is_found_and_some_import_each_other():
    assert len(MODULES) > 60
    assert "ratchet.bootstrap.worlds.world" in imported("ratchet.bootstrap.loop") | imported("ratchet.bootstrap.run")
    assert "ratchet.bootstrap.stages.seed" in imported("ratchet.bootstrap.loop")
    assert "jax" in imported("ratchet.bootstrap.run")


def test_packages_import_one_way():
    floors = {f"ratchet.{name}": floor for floor, name in enumerate(PACKAGES)}
    floor_of = lambda module: floors[".".join(module.split(".")[:2])]
    assert against(lambda a, b: floor_of(b) < floor_of(a)) == []


def test_worlds_import_nothing_but_worlds():
    assert against(lambda a, b: within(a, "bootstrap.worlds") and not within(b, "bootstrap.worlds")) == []
    ours = [m for m in MODULES if within(m, "bootstrap.worlds")]
    assert [m for m in ours if {"jax", "flax", "numpy"} & imported(m)] == []
    protocol = imported("ratchet.bootstrap.worlds.world")
    assert protocol <= set(sys.stdlib_module_names), "the protocol needs the standard library alone"


def test_the_loop_imports_the_protocol_and_no_world():
    open_to_all = {"ratchet.bootstrap.worlds", *(f"ratchet.bootstrap.worlds.{name}" for name in SHARED)}
    general = lambda a: within(a, "bootstrap", "train", "models") and not within(a, "bootstrap.worlds")
    assert against(lambda a, b: general(a) and within(b, "bootstrap.worlds") and b not in open_to_all) == []


def test_no_world_imports_another():
    of = lambda module: module.split(".")[3] if module.count(".") > 2 else ""
    each = lambda a, b: of(a) and of(b) and of(b) not in (of(a), *SHARED)
    assert against(lambda a, b: within(a, "bootstrap.worlds") and within(b, "bootstrap.worlds") and each(a, b)) == []


def test_no_stage_imports_another():
    stage = lambda module: within(module, "bootstrap.stages")
    assert against(lambda a, b: stage(a) and stage(b)) == []


def test_only_the_loop_and_the_command_import_stages():
    above = lambda module: within(module, "bootstrap.loop", "launch")
    assert against(lambda a, b: within(b, "bootstrap.stages") and not above(a)) == []
    assert against(lambda a, b: within(b, "bootstrap.loop") and not above(a)) == []


def test_the_report_imports_nothing_of_the_loop():
    report = lambda module: within(module, "bootstrap.report")
    assert against(lambda a, b: report(a) and within(b, "bootstrap") and not report(b)) == []
    assert against(lambda a, b: report(b) and not report(a) and not within(a, "launch")) == []


def test_every_package_is_mapped_by_its_docstring():
    """Each file and folder is named there, so that whoever comes finds the way."""
    missing = []
    for module, path in MODULES.items():
        beside = [p for p in path.parent.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()]
        if path.name == "__init__.py" and within(module, "bootstrap"):
            named = set(re.findall(r"[\w./]+", ast.get_docstring(ast.parse(path.read_text()))))
            left = [p.name for p in beside if p != path and not {p.stem, p.name, p.name + "/"} & named]
            missing += [f"{module}: {name}" for name in left]
    assert missing == []


def general_files() -> list[Path]:
    """The files whose words are the loop's own."""
    parts = ("documents", "stages", "report", "teacher", "rollouts", "toolkit")
    places = [BOOTSTRAP, *(BOOTSTRAP / part for part in parts)]
    found = sorted(f for place in places for f in place.iterdir() if f.suffix in (".py", ".jinja"))
    return [f for f in found if f.name != "calculator.py"]  # whose numbers have digits


def words(text: str) -> set[str]:
    """The words of a text and of the names in it: `GoodTale` and `good_tale` are "good" and "tale"."""
    return set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower()))


def forbidden(text: str) -> list[str]:
    """Every word of the never-list in a text, in order of lines: names, strings and comments alike."""
    lines = EXCEPTIONS.sub("", text).splitlines()
    return [f"{n}: {word}" for n, line in enumerate(lines, 1) for word in sorted(words(line)) if NEVER.fullmatch(word)]


def test_the_words_of_a_world_are_found_in_names_strings_and_comments():
    text = '"""Tells a story."""\nwiseAnswer = rng.choice(x)  # of bad_things\nCHOICE = random.sample(f"{y} told")\n'
    assert forbidden(text) == ["1: story", "2: bad", "2: wise", "3: choice", "3: told"]


def test_general_code_says_no_word_of_a_world():
    found = [f"{file.relative_to(HOUSE)}:{one}" for file in general_files() for one in forbidden(file.read_text())]
    assert found == []


PLAIN_ENGLISH = {"report", "answers"}
"""A run's directory of that name, and what a page shows, not the context and the criterion."""


def names_of_worlds() -> set[str]:
    """Names that only a world or its rubric may know: criteria that are not general, contexts and genres."""
    rubrics = [yaml.safe_load(f.read_text()) for f in (BOOTSTRAP / "worlds").rglob("*.yaml")]
    criteria = {criterion["id"] for rubric in rubrics for criterion in rubric.get("criteria", ())}
    assert {"told", "sound", "spelled"} <= criteria
    return ((criteria - {*GENERAL, *SHARES, *LIKELIHOODS}) | {c.name for c in CONTEXTS} | set(GENRES)) - PLAIN_ENGLISH


def test_general_code_spells_no_name_of_a_criterion_context_or_genre():
    """As whole strings: the words themselves are plain English."""
    names, found = names_of_worlds(), []
    for file in general_files():
        text = file.read_text()
        if file.suffix == ".py":
            whole = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
        else:
            whole = set(re.findall(r"""["'](\w+)["']""", text))
        found += [f"{file.relative_to(HOUSE)}: {name!r}" for name in sorted(whole & names)]
    assert found == []


def importers(module: str) -> set[str]:
    return {a for a in MODULES if module in imported(a)}


def test_an_oracle_is_asked_by_the_judge_of_evaluations_and_by_the_audit_alone():
    """Of every world: general code reads `World.oracle` in two places, which nothing that trains or reviews reaches."""
    asking = set()
    for module, path in MODULES.items():
        if within(module, "bootstrap") and not within(module, "bootstrap.worlds"):
            names = [n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)]
            asking |= {module} if "oracle" in names else set()
    assert asking == {"ratchet.bootstrap.judge", "ratchet.bootstrap.stages.audit"}
    assert importers("ratchet.bootstrap.judge") == {"ratchet.bootstrap.recovery", "ratchet.bootstrap.stages.evaluate"}
    assert importers("ratchet.bootstrap.recovery") == {"ratchet.bootstrap.stages.evaluate"}
    asked_by = {"ratchet.bootstrap.loop", "ratchet.launch.api"}
    assert importers("ratchet.bootstrap.stages.evaluate") == asked_by
    assert importers("ratchet.bootstrap.stages.audit") == {"ratchet.bootstrap.loop"}


SUMS = tiny_config(
    world="arithmetic",
    generations=1,
    arithmetic=ArithmeticConfig(columns=1, worked=12, slice=6, pages=1, asked=2),
    wrongthink__first_generation=1,
    controls__imitation=False,
)
"""A short run in the embedded world that the recipe `tiny` does not read."""
WRITTEN = ("evaluation", "audit", "funnel", "decision")


def test_embedded_worlds_are_run_from_documents_to_promotion_with_their_oracles_sealed(tiny_run, tmp_path):
    """`run_tiny` seals them: it would have failed had anybody else asked."""
    assert set(EMBEDDED) == {"arithmetic", "lessons", "documents", "world", "bounds", "answers", "tales", "__init__"}
    for directory in (tiny_run, run_tiny(tmp_path / "sums", SUMS)):
        found = {name: json.loads((directory / "gen-001" / f"{name}.json").read_text()) for name in WRITTEN}
        assert found["evaluation"]["judge"] == "oracle" and "precision" in found["audit"]["oracle"]
        assert found["funnel"]["trained"] > 0 and found["decision"]["promoted"] in (True, False)


def test_a_seal_holds(world):
    task, worked = world.slices[0].tasks[0], world.seed.tasks[0]
    assert sealed(world).known(worked, worked.answer, "") == world.known(worked, worked.answer, "")
    with pytest.raises(AssertionError, match="outside of evaluation and audit"):
        sealed(world).oracle(task, "", "")
    with pytest.raises(AssertionError, match="not worked"):
        sealed(world).known(task, "", "")


def test_every_setting_is_read():
    """A setting that nothing reads would be accepted and change nothing."""
    nodes = [node for path in MODULES.values() for node in ast.walk(ast.parse(path.read_text()))]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    settings = set(flat(Config()))
    assert {name for name in settings if name.rpartition(".")[2] not in read} == set() and len(settings) > 100


def test_no_file_and_no_function_is_longer_than_a_reader_takes_in():
    long = [f"{name}: {lines} lines" for name, p in MODULES.items() if (lines := len(p.read_text().splitlines())) > 400]
    for name, path in MODULES.items():
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        functions = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, kinds))
        long += [f"{name}: {f.name}" for f in functions if f.end_lineno - f.lineno >= 60]
    assert long == []
