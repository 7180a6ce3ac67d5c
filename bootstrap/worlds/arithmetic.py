"""Sums that grow by a column a generation, with an exact oracle. Copy this file to make a world of your own.

A number is written in columns from the right, each with a letter of its own, by which a small model finds its way (the
index hints of arXiv 2310.16028): "add r2+9 m1+3 g8+1." is 812 + 139. The answer works column by column and ends in the
sum: "r=11. m=5. g=9. so r1 m5 g9."
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ratchet.bootstrap.worlds.bounds import bounded, check
from ratchet.bootstrap.worlds.world import (
    Case,
    Document,
    Grade,
    Item,
    Material,
    Metric,
    Spoiled,
    Step,
    Task,
    Tool,
    World,
    content_id,
)

Problem = tuple[tuple[str, int, int], ...]
"""Columns from the right, as (letter, upper digit, lower digit): (("r", 2, 9), ("m", 1, 3), ("g", 8, 1))."""
SIZES = "no one two three four five six seven eight nine ten eleven twelve".split()
COLOURS = "red blue green white black brown grey pink".split()
TREES = "oak elm ash fir yew lime pine birch".split()
"""Names of pages."""
OF_TASKS, OF_PAGES = "abcdefghijklm", "nopqrstuvwxyz"
"""Letters of problems and of pages: a page shows the method, and no column of a problem."""
COLUMN = re.compile(r"([a-z])([0-9])\+([0-9])")
STEP = re.compile(r"([a-z])=(0|[1-9][0-9]*)\.|so((?: [a-z](?:0|[1-9][0-9]*))+)\.")
"""A worked column, or the sum."""


@dataclass(frozen=True)
class ArithmeticConfig:
    """The embedded arithmetic world."""

    columns: int = bounded(6, "at least 1")
    """Columns of the largest worked sums; generation g reads sums of g more."""
    worked: int = bounded(6000, "at least 1")
    """Worked sums of the seed, of one column to `columns`."""
    slice: int = bounded(400, "at least 1")
    """Sums that each generation reads."""
    pages: int = bounded(12, "at least 1")
    """Pages that show the method for each size."""
    asked: int = bounded(48, "at least 1")
    """Sums of each size that an evaluation asks, and that are fresh; of the newest size it asks eight times as many."""
    fixed: bool = False
    """Control: every generation reads sums as large as the first one does."""


USUAL = ArithmeticConfig()
"""What a copy of this file is made with."""


def create(seed: int, generations: int, config: ArithmeticConfig = USUAL) -> World:
    """Makes the world. Raises ValueError when a setting is out of its bound, the sums would be too large or the pages
    too many."""
    check(config, "arithmetic.")
    largest = config.columns + (1 if config.fixed else generations)
    if largest >= len(SIZES) - 1:
        raise ValueError(f"arithmetic: sums of {largest} columns are too large; lower --generations")
    if config.pages > len(COLOURS) * len(TREES):
        raise ValueError(f"arithmetic: there are no names for {config.pages} pages; lower --arithmetic.pages")
    sizes = [config.columns + (1 if config.fixed else g) for g in range(1, generations + 1)]
    of_seed = list(range(1, config.columns + 1))
    fresh = list(range(config.columns + 1, config.columns + 4))
    return World(
        name="arithmetic",
        slices=tuple(_material([n], config.slice, config, f"slice {seed} {g}") for g, n in enumerate(sizes, 1)),
        rubric=Path(__file__).with_name("arithmetic.yaml").read_text(),
        fresh=_material(fresh, config.asked, config, f"fresh {seed}"),
        seed=_material(of_seed, -(-config.worked // len(of_seed)), config, f"seed {seed}", worked=True),
        prose=tuple(_table(OF_TASKS + OF_PAGES, seed, 4000)),
        control=tuple(_table(OF_TASKS, seed + 1, 64)),
        checks=CHECKS,
        steps=steps,
        spoil=spoil,
        interruption="no,",
        known=grade,
        oracle=grade,
        items=lambda tasks: _items(tasks, config, seed),
        metrics=(
            Metric("accuracy", "sums of the sizes that were read", "acc", guard=True),
            Metric("newest", "sums of the newest size", "newest"),
            Metric("longer", "sums of one column more than was read", "longer"),
            Metric("recovery", "wrong starts by rule that end in the right sum", "recov"),
        ),
        tools=(CALCULATE,),
    )


def _material(sizes: Sequence[int], count: int, config: ArithmeticConfig, salt: str, worked: bool = False) -> Material:
    """So many tasks of each size, and pages that show the method for it."""
    rng, documents, tasks = Random(f"arithmetic {salt}"), [], []
    for size in sizes:
        pages = []
        for number in rng.sample(range(len(COLOURS) * len(TREES)), config.pages):
            p, name = draw(size, OF_PAGES, rng), f"{COLOURS[number // len(TREES)]} {TREES[number % len(TREES)]}"
            text = f"{name}. how {written(p)} are added: {answer(p)}"
            meta = {"name": name, "source": "arithmetic world", "license": "CC0-1.0"}
            pages.append(Document(content_id(text), text, meta))
        documents += pages
        tasks += [_task(draw(size, OF_TASKS, rng), rng.choice(pages), worked) for _ in range(count)]
    rng.shuffle(tasks)
    return Material(tuple(documents), tuple(tasks))


def _task(p: Problem, page: Document | None = None, worked: bool = False) -> Task:
    """A problem to add, and the page that a teacher may read beside it."""
    messages = ({"role": "user", "content": f"add {written(p)}."},)
    own, seek = ((page.id,), (page.meta["name"],)) if page else ((), ())
    return Task(content_id(messages), own, messages, seek=seek, answer=answer(p) if worked else "")


def draw(size: int, letters: str, rng: Random) -> Problem:
    """A problem of so many columns; no letter comes twice."""
    return tuple((letter, rng.randrange(10), rng.randrange(10)) for letter in rng.sample(letters, size))


def written(p: Problem) -> str:
    return " ".join(f"{letter}{upper}+{lower}" for letter, upper, lower in p)


def worked_out(p: Problem) -> list[str]:
    """The steps of the right answer: one for each column, and the sum."""
    found, digits, carry = [], [], 0
    for number, (letter, upper, lower) in enumerate(p, 1):
        total = upper + lower + carry
        found.append(f"{letter}={total}.")
        digits.append(f"{letter}{total if number == len(p) else total % 10}")
        carry = total // 10
    return [*found, f"so {' '.join(digits)}."]


def answer(p: Problem) -> str:
    return " ".join(worked_out(p))


def asked_of(task: Task) -> Problem:
    """The problem that a task asks about."""
    return tuple((letter, int(upper), int(lower)) for letter, upper, lower in COLUMN.findall(task.question))


def _table(letters: str, seed: int, lines: int) -> list[tuple[str, str]]:
    """Two columns of which one is worked, for a model that has never seen a digit."""
    rng, made = Random(f"table {seed}"), []
    for _ in range(lines):
        p = draw(2, letters, rng)
        first, second, _ = worked_out(p)
        made.append((f"{written(p)}. {first}", second))
    return made


def steps(text: str) -> tuple[Step, ...]:
    """Every worked column and every sum is a step."""
    return tuple(Step(m.start(), m.end(), {"column": m[1]} if m[1] else {"sum": m[3]}) for m in STEP.finditer(text))


def standing(before: str, text: str) -> list[str]:
    """The steps that hold in the end: those before the wrong one, and all that came after it."""
    said = lambda t: [m.group(0) for m in STEP.finditer(t)]
    return [*said(before)[:-1], *said(text)]


def spelled(case: Case) -> str:
    """An answer is worked columns and one sum at the end, and nothing else but an interruption before them."""
    said = case.text.removeprefix("no, ")
    if said != " ".join(m.group(0) for m in STEP.finditer(said)):
        return f"not understood: {STEP.sub('', said)[:60].strip(' ') or 'spaces'}"
    kinds = ["sum" in s.fields for s in case.steps]
    return "" if kinds and kinds[-1] and not any(kinds[:-1]) else "it does not end in one sum"


def in_order(case: Case) -> str:
    """Step n is about column n of the question, and the sum comes after all of them."""
    asked, held = [letter for letter, _, _ in asked_of(case.task)], standing(case.before, case.text)
    for number, said in enumerate(held):
        if said.startswith("so"):
            return "" if number == len(asked) == len(held) - 1 else f"{number} of {len(asked)} columns are worked"
        if asked[number : number + 1] != [said[0]]:
            return f"column {number + 1} of the question is not {said[0]}"
    return ""


def sums(case: Case) -> str:
    """Each column's total is that of its two digits and of the carry from the column before."""
    carry, given = 0, {letter: upper + lower for letter, upper, lower in asked_of(case.task)}
    for m in map(STEP.fullmatch, standing(case.before, case.text)):
        if m[1] and (off := int(m[2]) - given.get(m[1], -1) - carry):
            forgotten = carry and off == -1
            return f"the carry into {m[1]} is forgotten" if forgotten else f"column {m[1]} does not come to {m[2]}"
        carry = int(bool(m[1]) and int(m[2]) > 9)
    return ""


def answers(case: Case) -> str:
    """The sum is made of the last digits that were worked out, the last column's whole."""
    *worked, last = standing(case.before, case.text) or [""]
    if not last.startswith("so"):
        return ""
    totals = [STEP.fullmatch(c) for c in worked]
    right = [f"{m[1]}{m[2] if n == len(totals) else m[2][-1]}" for n, m in enumerate(totals, 1) if m[1]]
    return "" if last == f"so {' '.join(right)}." else f"the columns come to {' '.join(right)}"


def reasoned(case: Case) -> str:
    """A correction begins with the wrong step's own column, said otherwise."""
    if not case.before:
        return ""
    wrong, said = STEP.findall(case.before)[-1:], STEP.match(case.text.removeprefix("no,").strip())
    if not wrong or not said:
        return "it does not say at once what is wrong"
    same = said[1] == (wrong[0][0] or None) and said.group(0) not in case.before[-len(said.group(0)) :]
    return "" if same else "it does not say what was wrong with the last step"


CHECKS = {c.__name__: c for c in (spelled, in_order, sums, answers, reasoned)}


def spoil(task: Task, text: str, heard: Sequence[str], random: Random) -> tuple[Spoiled, ...]:
    """Each column with a wrong digit, or with its carry forgotten, and the sum with a wrong digit."""
    found, last, carry = [], len(steps(text)) - 1, False
    for number, m in enumerate(STEP.finditer(text)):
        if carry and m[1] and random.random() < 0.5:
            wrong = f"{m[1]}={int(m[2]) - 1}."
        else:
            at = random.choice([d.start() for d in re.finditer(r"\d", m[0])])
            first = m[0][at + 1].isdigit() and not m[0][at - 1].isdigit()  # no number begins with 0
            wrong = m[0][:at] + random.choice([d for d in "0123456789"[first:] if d != m[0][at]]) + m[0][at + 1 :]
        found.append(Spoiled(number, wrong, tuple(range(number, last + 1))))
        carry = bool(m[1]) and int(m[2]) > 9
    return tuple(found)


def grade(task: Task, text: str, before: str) -> Grade:
    """An answer against the truth, which is computed."""
    right, held = worked_out(asked_of(task)), standing(before, text)
    clean = not STEP.sub("", text.removeprefix("no,") if before else text).strip()
    mended = held == right and clean
    ends = clean and bool(held) and held[-1] == right[-1]
    at = len(STEP.findall(before)) - 1
    reason = not before or held[at : at + 1] == right[at : at + 1]
    label = "right" if ends else "wrong"
    return Grade(ends if before else mended, label, tuple({} for _ in steps(text)), mended, reason)


def _items(tasks: Sequence[Task], config: ArithmeticConfig, seed: int) -> list[Item]:
    """Sums that no generation reads, of every size that was read and of one more, and wrong starts."""
    read, made = sorted({len(asked_of(t)) for t in tasks}), []
    for size in [*read, read[-1] + 1]:
        rng = Random(f"items {seed} {size}")
        for n in range(config.asked * (8 if size == read[-1] else 1)):
            kind = "accuracy" if size in read else "longer"
            measured = ["newest"] * (size == read[-1]) + [kind] * (n < config.asked)
            p = draw(size, OF_TASKS, rng)
            task, name = _task(p), f"{SIZES[size]} {n}{'' if size in read else ' longer'}"
            about = {"context": f"{SIZES[size]} columns", "seen": size in read, "reference": answer(p)}
            made.append(Item(name, name, _right(task, measured), task.messages, **about))
            if size in read and n < config.asked:
                way, parts = rng.choice(spoil(task, answer(p), (), rng)), worked_out(p)
                begun = " ".join([*parts[: way.step], way.text])
                score = _right(task, ["recovery"], begun)
                made.append(Item(f"{name} begun", name, score, task.messages, begun=begun, wrong=True))
    return made


def _right(task: Task, measured: Sequence[str], begun: str = "") -> Callable[[str, bool], dict[str, float]]:
    return lambda text, finished: dict.fromkeys(measured, float(finished and grade(task, text, begun).right))


ADDEND = {"type": "integer", "minimum": 0, "maximum": 99}
CALCULATE = Tool(
    "calculate",
    "Adds two numbers.",
    {"type": "object", "properties": {"upper": ADDEND, "lower": ADDEND}, "required": ["upper", "lower"],
     "additionalProperties": False},
    lambda arguments: str(arguments["upper"] + arguments["lower"]),
)  # fmt: skip
"""What the teacher may call beside `lookup`; students are asked without tools."""
