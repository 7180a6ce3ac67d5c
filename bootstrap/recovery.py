"""Wrong starts of three kinds, apart, and what a student makes of them.

By rule: an accepted answer with one step spoiled. By a wrong-thinker whose vector made no training example. The
student's own: it is asked until it goes wrong. In each case the wrong start is put into the student's mouth, and it
goes on by itself.
"""

from collections.abc import Sequence
from random import Random

from ratchet.bootstrap.intervals import evenly, proportion
from ratchet.bootstrap.judge import Judge
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import Writer
from ratchet.bootstrap.thinkers import Knower
from ratchet.bootstrap.worlds.world import content_id
from ratchet.bootstrap.wrongthink import HEARD, Said, Thought, step_ends, supervise, think
from ratchet.models.sampler import Request

ENOUGH = 150
"""Wrong starts of a kind that are measured, of every generation's documents, and right ones for false alarms."""
ROUNDS, EACH = 3, 500
"""Times that the student is asked again to find starts of its own that go wrong, and tasks of each time at most."""


def recovery(
    run: Run, writer: Writer, judge: Judge, said: Sequence[Said], right: Sequence[bool], knower: Knower | None
) -> dict:
    """Shares of wrong starts from which the student recovers, by kind, and what it does with its own.

    `said` are the student's answers to what was read and `right` whether they are. Kinds without a wrong start are left
    out, and so is recovery by rule where the world's items measure it.
    """
    starts: dict[str, list[Thought]] = {}
    supervisor, passages = judge.supervisor, run.passages(len(run.world.slices))
    heard = tuple(t.answer for t in run.shown) or tuple(s.text for s, ok in zip(said, right, strict=True) if ok)
    if "recovery" not in {m.name for m in run.world.metrics}:
        starts["rule"] = by_rule(run, knower) if knower else []
    if knower and knower.tasks:
        source = "contrast" if "inverted" in run.config.wrongthink.sources else "inverted"
        params, _ = knower.choose(supervisor, source, knower.vector(source))
        if params is not None:
            thoughts = think(run.writer(params), run.world, knower.tasks, 1, seed=run.seed("unseen thinker"))
            starts["thinker"] = _wrong(supervise(supervisor, thoughts, passages, heard, source))
    starts["own"] = own_starts(run, writer, judge, said, heard)
    found = {}
    for kind, thoughts in starts.items():
        if thoughts := _with_room(run, writer, thoughts):
            found |= _measured(run, writer, judge, kind, evenly(thoughts, ENOUGH))
    return found | _false_alarms(run, writer, said, right)


def _with_room(run: Run, writer: Writer, thoughts: Sequence[Thought]) -> list[Thought]:
    """The starts after which there is room to go on; how many have none is said."""
    fits = [t for t in thoughts if len(run.tokenizer.render(t.task.messages)) + len(t.tokens) <= writer.room]
    if left := len(thoughts) - len(fits):
        run.progress.line(f"recovery: {left} of {len(thoughts)} starts leave no room to go on, and are left out")
    return fits


def by_rule(run: Run, knower: Knower) -> list[Thought]:
    """Accepted answers up to a step that is spoiled, which is drawn for each."""
    tasks, made = {t.id: t for t in knower.tasks}, []
    for t in knower.right:
        rng = Random(f"recovery {t.task_id}")
        ways = run.world.spoil(tasks[t.task_id], t.text, knower.heard[:HEARD], rng) if t.task_id in tasks else ()
        if ways:
            way = rng.choice(ways)
            text = way.thought(t.text, run.world.steps(t.text))
            tokens = tuple(run.tokenizer.encode(text))
            made.append(Thought(tasks[t.task_id], 0, tokens, text, way.text, "spoiled"))
    return made


def own_starts(run: Run, writer: Writer, judge: Judge, said: Sequence[Said], heard: tuple[str, ...]) -> list[Thought]:
    """The student's own answers up to their first wrong step; it is asked again, a few times, until there are
    enough, each time about other tasks where there are many. There are none where no step can be found wrong."""
    if not judge.supervises:
        return []
    supervisor, passages = judge.supervisor, run.passages(len(run.world.slices))
    found = _wrong(supervise(supervisor, said, passages, heard, "incumbent"))
    for again in range(ROUNDS):
        if len(found) >= ENOUGH:
            break
        tasks = [s.task for s in said]
        if len(tasks) > EACH:
            tasks = Random(f"own starts {again}").sample(tasks, EACH)
        more = think(writer, run.world, tasks, 1, seed=run.seed("own starts", again))
        found += _wrong(supervise(supervisor, more, passages, heard, "incumbent"))
    return found


def _wrong(thoughts: Sequence[Thought | None]) -> list[Thought]:
    return [t for t in thoughts if t]


TITLES = {
    "rule": ("recovery from wrong starts by rule", "recov", "wrong starts by rule"),
    "thinker": ("recovery from an unseen wrong-thinker's starts", "think", "its starts"),
    "own": ("recovery from the student's own wrong starts", "own", "own wrong starts"),
}
"""By kind of wrong start, what its recovery is called, the column that it stands in, and what the starts are called."""


def _measured(run: Run, writer: Writer, judge: Judge, kind: str, thoughts: Sequence[Thought]) -> dict:
    """The share that ends right, and what the student does: notice, put it right when noticed, or say the same
    again."""
    rest, passages = _go_on(run, writer, thoughts), run.passages(len(run.world.slices))
    before, said = [t.text for t in thoughts], run.config.wrongthink.interruption
    right, mended = judge.after(before, rest, passages)
    noticed = [r.text.startswith(said) for r in rest]
    again = [_repeats(run, t, r.text.removeprefix(said)) for t, r in zip(thoughts, rest, strict=True)]
    ids = [f"{kind} {n}" for n in range(len(thoughts))]
    groups = {i: " ".join(t.task.document_ids) for i, t in zip(ids, thoughts, strict=True)}

    def share(values: Sequence[bool], title: str, column: str = "", less: bool = False, among: bool = False) -> dict:
        scores = {i: float(v) for i, v, n in zip(ids, values, noticed, strict=True) if n or not among}
        return proportion(scores, groups) | shown_as(title, column, less)

    title, column, whose = TITLES[kind]
    found = {"recovery" if kind == "rule" else f"recovery_{kind}": share(right, title, column)}
    found[f"noticed_{kind}"] = share(noticed, f"{whose} that are noticed")
    if any(noticed):
        found[f"corrected_{kind}"] = share(mended, f"noticed {whose} that are put right", among=True)
        found[f"repeated_{kind}"] = share(
            again, f"noticed {whose} whose wrong step is said again", less=True, among=True
        )
    return found


def shown_as(title: str, column: str, less: bool) -> dict:
    """How people are shown a share."""
    return {"title": title, "column": column, "less_is_better": less, "guard": False, "unit": "%"}


def _go_on(run: Run, writer: Writer, thoughts: Sequence[Thought]) -> list[Said]:
    """What the student says after each start."""
    prompts = [(*run.tokenizer.render(t.task.messages), *t.tokens) for t in thoughts]
    requests = [Request(int(content_id(n, p)[:8], 16), tuple(p)) for n, p in enumerate(prompts)]
    sampled = writer.sample(requests, seed=run.seed("go on"))
    return [
        Said(t.task, t.sample, tuple(s.tokens.tolist()), run.tokenizer.decode(s.tokens).lstrip(), s.finished)
        for t, s in zip(thoughts, sampled, strict=True)
    ]


def _repeats(run: Run, thought: Thought, rest: str) -> bool:
    """Whether the first step that is said after an interruption is the wrong one again."""
    before, after = run.world.steps(thought.text), run.world.steps(rest)
    if not before or not after:
        return False
    return thought.text[before[-1].start : before[-1].end] == rest[after[0].start : after[0].end]


def _false_alarms(run: Run, writer: Writer, said: Sequence[Said], right: Sequence[bool]) -> dict:
    """The share of right starts, cut after a step of right answers, that the student interrupts."""
    steps = [(s, run.world.steps(s.text)) for s, ok in zip(said, right, strict=True) if ok]
    longer = [(s, own) for s, own in steps if len(own) > 1]
    starts = []
    for s, own in evenly(longer, ENOUGH):
        ends = step_ends(run.tokenizer, s.tokens, own)
        end = ends[Random(f"right start {s.task.id}").randrange(len(ends) - 1)]
        starts.append(Thought(s.task, 0, s.tokens[:end], run.tokenizer.decode(s.tokens[:end]), "", "answer"))
    starts = _with_room(run, writer, starts)
    if not starts:
        return {}
    rest = _go_on(run, writer, starts)
    alarms = {
        s.task.id: float(r.text.startswith(run.config.wrongthink.interruption))
        for s, r in zip(starts, rest, strict=True)
    }
    groups = {s.task.id: " ".join(s.task.document_ids) for s in starts}
    return {"false_alarms": proportion(alarms, groups) | shown_as("right starts that are interrupted", "", less=True)}
