"""A small world for tests: what lamps do. Twenty documents for two generations, and every member of a world in use.

A document tells of one lamp ("at noon the red hall lamp hums. nobody minds."), a task asks about two, and an answer
says a sentence of each: "the red hall lamp hums. the blue mill lamp drips."
"""

import random
import re

from ratchet.bootstrap.worlds.world import (
    Case,
    Document,
    Grade,
    Grader,
    Item,
    Material,
    Metric,
    Spoiled,
    Step,
    Task,
    World,
    content_id,
)

COLOURS = ("red", "blue", "green", "white", "black", "grey")
ROOMS = ("hall", "mill", "barn", "well", "dock", "tower")
DEEDS = ("hums", "clicks", "sings", "drips", "roars", "sleeps")
TIMES = ("at noon", "when it rains", "in june", "every sunday")
ENDS = ("a guest heard it.", "nobody minds.", "children like this.", "who knows why?", "so my aunt says.")
FACT = re.compile(r"the (\w+ \w+ lamp) (\w+)\.")
NO = "no,"
RUBRIC = """
version: 1
criteria:
- {id: finished, kind: rule, of: form, question: the answer comes to an end by itself}
- {id: interrupts, kind: rule, question: a wrong thought is interrupted once}
- {id: seeks, kind: rule, question: look-ups are for what the task has to find}
- {id: original, kind: rule, limit: 12, question: no passage is pasted}
- {id: distinct, kind: rule, limit: 0.95, question: no accepted sibling says the same}
- {id: grounded, kind: rule, of: step, question: every sentence stands in the sources}
- {id: sure, kind: model, of: step, show: [passages], question: "the {lamp} {deed}?"}
"""
METRICS = (
    Metric("told", "answers that tell all", "told", "worst", guard=True),
    Metric("false", "answers that tell something false", "false", less_is_better=True),
)


def create(seed: int = 0, generations: int = 2) -> World:
    """Four worked tasks, two fresh ones, and two for each of at most six generations."""
    rng = random.Random(f"lamps {seed}")
    lamps = [f"{colour} {room} lamp" for colour in COLOURS for room in ROOMS]
    rng.shuffle(lamps)
    deeds = dict(zip(lamps, (deed for _ in lamps[::2] for deed in rng.sample(DEEDS, 2)), strict=True))
    parts = ((0, 4), (4, 2), *((start, 2) for start in range(6, 18, 2)))
    worked, fresh, *slices = (_material(lamps, deeds, *part) for part in parts)
    shown = tuple(Task(t.id, t.document_ids, t.messages, t.askings, t.seek, answer(deeds, t)) for t in worked.tasks)
    return World(
        "lamps",
        tuple(slices[:generations]),
        RUBRIC,
        fresh,
        worked._replace(tasks=shown),
        prose=tuple((f"the {a} road of the {b}", "goes on and on. it is long.") for a in COLOURS for b in ROOMS[:2]),
        checks={"grounded": grounded},
        steps=steps,
        spoil=spoil,
        known=grader(deeds),
        oracle=grader(deeds),
        items=lambda tasks: [item for task in tasks for item in _items(deeds, task)],
        metrics=METRICS,
        names=(COLOURS, ROOMS, DEEDS),
    )


def _material(lamps: list[str], deeds: dict[str, str], start: int, count: int) -> Material:
    documents, tasks = [], []
    for n in range(start, start + count):
        pair = tuple(lamps[2 * n : 2 * n + 2])
        varied = [(TIMES[(2 * n + k) % len(TIMES)], ENDS[(2 * n + k) % len(ENDS)]) for k in range(2)]
        texts = [f"{at} the {lamp} {deeds[lamp]}. {end}" for lamp, (at, end) in zip(pair, varied, strict=True)]
        told = [Document(content_id(text), text) for text in texts]
        asked = " and ".join(f"the {lamp}" for lamp in pair)
        askings = (({"role": "user", "content": f"tell me of {asked}!"},),)
        messages = ({"role": "user", "content": f"what do {asked} do?"},)
        tasks.append(Task(content_id(asked), tuple(d.id for d in told), messages, askings, pair))
        documents += told
    return Material(tuple(documents), tuple(tasks))


def deeds_of(world: World) -> dict[str, str]:
    """What every lamp of a world does."""
    parts = (world.seed, world.fresh, *world.slices)
    return dict(fact for part in parts for d in part.documents for fact in FACT.findall(d.text))


def answer(deeds: dict[str, str], task: Task, wrong: tuple[int, ...] = ()) -> str:
    """The right answer, but for sentences number `wrong`, which tell another deed."""
    said = [DEEDS[(DEEDS.index(deeds[lamp]) + (n in wrong)) % len(DEEDS)] for n, lamp in enumerate(task.seek)]
    return " ".join(f"the {lamp} {deed}." for lamp, deed in zip(task.seek, said, strict=True))


def steps(text: str) -> tuple[Step, ...]:
    return tuple(Step(m.start(), m.end(), {"lamp": m[1], "deed": m[2]}) for m in FACT.finditer(text))


def grounded(case: Case) -> str:
    """Nothing is said but what stands in a passage."""
    rest = FACT.sub("", case.text).removeprefix(NO).strip()
    if rest or not case.steps:
        return f"is about no lamp: {rest}"
    said = [case.text[s.start : s.end] for s in case.steps]
    return next((f"no passage says: {s}" for s in said if not any(s in p.text for p in case.passages)), "")


def spoil(task: Task, answer: str, heard, rng: random.Random) -> list[Spoiled]:
    known, said = sorted({deed for text in (answer, *heard) for _, deed in FACT.findall(text)}), steps(answer)
    others = [[deed for deed in known if deed != s.fields["deed"]] for s in said]
    wrong = [(n, s.fields["lamp"], rng.choice(o)) for n, (s, o) in enumerate(zip(said, others, strict=True)) if o]
    return [Spoiled(n, f"the {lamp} {deed}.", tuple(range(n, len(said)))) for n, lamp, deed in wrong]


def grader(deeds: dict[str, str]) -> Grader:
    """A reason is true when the correction begins with the lamp that the wrong thought ended with, and rightly."""

    def grade(task: Task, text: str, before: str) -> Grade:
        earlier, said = FACT.findall(before), FACT.findall(text)
        true = [deeds.get(lamp) == deed for lamp, deed in said]
        held = dict([*earlier, *said])
        right = all(true) and all(held.get(lamp) == deeds[lamp] for lamp in task.seek)
        reason = not before or (bool(said) and said[0][0] == earlier[-1][0] and true[0])
        label = "right" if right else "wrong"
        return Grade(right, label, tuple({"sure": t} for t in true), mended=right, reason=reason)

    return grade


def _items(deeds: dict[str, str], task: Task) -> list[Item]:
    """A task asked plainly and in haste, a document of it that goes on, and a wrong start."""
    group, right = " ".join(task.document_ids), answer(deeds, task)
    hasty = ({"role": "user", "content": f"quick! {task.question}"},)
    goes_on = lambda text, finished: {"told": float(text.strip().startswith(deeds[task.seek[0]]))}
    noon, start = f"at noon the {task.seek[0]}", answer(deeds, task, (0,)).partition(".")[0] + "."

    def told(text: str, finished: bool) -> dict[str, float]:
        found = {"told": float(finished and right in text)}
        said = [deeds[lamp] == deed for lamp, deed in FACT.findall(text) if lamp in deeds]
        return found | ({"false": float(not all(said))} if said else {})

    return [
        Item(f"{task.id} plain", group, told, task.messages, context="plain", reference=right),
        Item(f"{task.id} hasty", group, told, hasty, context="hasty", seen=False),
        Item(f"{task.id} document", group, goes_on, form="document", begun=noon, context="noon"),
        Item(f"{task.id} start", group, lambda *_: {}, task.messages, begun=start, wrong=True, greedy=True),
    ]
