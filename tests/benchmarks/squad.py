"""What a student knows of real passages, closed book: python tests/benchmarks/squad.py FOLDER [PASSAGES [SEEDS]].

FOLDER holds squad200.jsonl: passages of SQuAD, one a line, with their `title`, `context` and `questions` (`question`,
`answer`), and with `texts` that others published about them (arXiv 2506.10943). A generation of the recipe `documents`
reads PASSAGES of them: SmolLM2 proposes tasks, answers them and reviews its answers, by the loop's own stages. Then
arms are trained from SmolLM2, each on as many tokens, at one rate, by the loop's own training:

* passages: the passages themselves, and of others, GPT-4.1: what GPT-4.1 wrote about them; in parts of a document;
* unreviewed: every question that was proposed, with an answer to it, whatever is measured of either;
* reviewed: what the loop trains students on;
* swapped: the same, but each answer is given to a task about another passage.

All questions of the passages that were read are asked without sources. None of them is trained on or calibrates the
review: that goes by questions about other passages. Each seed reads passages of its own and trains its own arms; the
table, which is printed and written to results/squad.json after each seed, is of all questions of all seeds. The same
command goes on with a run that was cut.

The rate and the number of steps were chosen once, by `rates FOLDER`: by what passages that this run does not read bring
when they themselves are trained on.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import numpy as np  # noqa: E402
import yaml  # noqa: E402
from etils import epath  # noqa: E402
from flax import nnx  # noqa: E402
from reviewing import documents_in, text_of  # noqa: E402
from support import changed  # noqa: E402

from ratchet.bootstrap import config as configs  # noqa: E402
from ratchet.bootstrap import config_changes, config_files  # noqa: E402
from ratchet.bootstrap import run as runs  # noqa: E402
from ratchet.bootstrap.arms import arm_of, train_arm  # noqa: E402
from ratchet.bootstrap.calibration import ReviewerBelowFloor  # noqa: E402
from ratchet.bootstrap.examples import for_students, imitation_examples  # noqa: E402
from ratchet.bootstrap.generation import Generation  # noqa: E402
from ratchet.bootstrap.given import base_weights  # noqa: E402
from ratchet.bootstrap.progress import Silent  # noqa: E402
from ratchet.bootstrap.proposals import from_json  # noqa: E402
from ratchet.bootstrap.review import Reviewer, with_thresholds  # noqa: E402
from ratchet.bootstrap.run import Run  # noqa: E402
from ratchet.bootstrap.signals import words  # noqa: E402
from ratchet.bootstrap.simulate import draft, finish, prompt_of  # noqa: E402
from ratchet.bootstrap.stages import propose, transcripts  # noqa: E402
from ratchet.bootstrap.stages.audit import audit_generation, untaught_tokens  # noqa: E402
from ratchet.bootstrap.stages.calibrate import calibration  # noqa: E402
from ratchet.bootstrap.stages.evaluate import ask_items  # noqa: E402
from ratchet.bootstrap.stages.train import dataset, mixture, tokens_per_step  # noqa: E402
from ratchet.bootstrap.targets import make_targets  # noqa: E402
from ratchet.bootstrap.transcript import Transcript  # noqa: E402
from ratchet.bootstrap.worlds.answers import f1, holds, normalised  # noqa: E402
from ratchet.bootstrap.worlds.documents import KINDS  # noqa: E402
from ratchet.bootstrap.worlds.world import Document, Item, Task  # noqa: E402
from ratchet.launch.recipes import RECIPES  # noqa: E402
from ratchet.train.batches import Batches  # noqa: E402
from ratchet.train.optimizer import OptimizerConfig  # noqa: E402
from ratchet.train.records import Example  # noqa: E402

RESULT = HERE / "results" / "squad.json"
PASSAGES, TOKENS, RATE = 16, 10_000, 1e-3
"""Passages that are read, tokens that each arm is trained on, and its learning rate."""
RATES, TRIED = (3e-4, 1e-3, 3e-3), 6
"""Rates between which `rates` chooses, and how many passages it trains on for that."""
TASKS, BATCH, LONGEST = 6, 4, 256
"""Tasks of a passage at most; answers in a step, or one part of a raw text, of so many tokens at most."""
THEIRS = "implications_gpt41"
PAIRS = (("reviewed", "unreviewed"), ("reviewed", "passages"), ("unreviewed", "passages"))
"""Arms whose difference is shown, beside that of each from the base."""
COUNTED = ("steps", "tokens", "examples", "untaught_tokens", "minutes")
"""What is told of an arm beside its scores, by seed."""
DRAWN = 10_000
"""Times that passages are drawn anew for an interval of 95 %."""
Pools = list[tuple[list[Example], int]]
Scores = Mapping[str, Mapping[str, float]]
"""By item, its scores by name."""


@dataclass(frozen=True)
class Telling(Silent):
    """Prints what a run says, with the minutes since it began."""

    began: float

    def line(self, text: str) -> None:
        print(f"{self.minutes:5.1f}  {text}", flush=True)

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.began) / 60


class Made(NamedTuple):
    """What a generation makes before it trains: accepted answers, what they teach students, and an account of it."""

    g: Generation
    kept: list[Transcript]
    taught: list[Example]
    about: dict


def main(folder: str, count: int = PASSAGES, seeds: int = 1) -> None:
    tell, rows, items, generations = Telling(time.monotonic()), rows_of(folder), [], []
    arms: dict[str, list[dict]] = {}
    for seed in range(seeds):
        run = prepared(Path("runs") / f"squad-{count}-{seed}", rows, count, tell, seed=seed)
        made = one_generation(run, base_weights(run.config, run.mesh))
        read = read_by(run, rows)
        own = items_of(read)
        for name, pools in arms_of(made, read).items():
            of = lambda name=name, pools=pools, made=made, own=own: arm(made, name, pools, own)
            found = run.commits.once(run.directory / "arms" / f"{name}.json", of)
            tell.line(f"seed {seed} {name:10} {line_of(table({name: found}, own)['arms'][name])}")
            arms.setdefault(name, []).append(found)
        items += [replace(item, id=f"{seed} {item.id}") for item in own]
        generations.append(made.about)
        told = table({name: together(by_seed) for name, by_seed in arms.items()}, items)
        about = {"passages": count, "seeds": seed + 1, "questions": len(items), "generations": generations}
        RESULT.write_text(json.dumps(about | told | {"minutes": round(tell.minutes, 1)}, indent=1) + "\n")
    for compared in ("arms", "differences"):
        for name, of in told[compared].items():
            print(f"{name:22} {line_of(of)}")


def together(by_seed: Sequence[dict]) -> dict:
    """An arm of several seeds as one, whose items begin with their seed."""
    scores = {f"{seed} {i}": of for seed, found in enumerate(by_seed) for i, of in found["scores"].items()}
    return {name: [found[name] for found in by_seed] for name in COUNTED} | {"scores": scores}


def rows_of(folder: str) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "squad200.jsonl").read_text().splitlines()]


def prepared(place: Path, rows: Sequence[dict], count: int, tell: Silent, **changes) -> Run:
    """A run of one generation before its first stage, or the one that was begun in its place."""
    kinds = yaml.safe_load(KINDS.read_text())
    kinds["kinds"] = [kind | {"times": TASKS} for kind in kinds["kinds"] if kind["id"] == "ask"]
    place.mkdir(parents=True, exist_ok=True)
    (place / "kinds.yaml").write_text(yaml.safe_dump(kinds))
    config = runs.with_base(changed(
        RECIPES["documents"].config, generations=1, documents__slice=count, documents__fresh=1,
        documents__per_document=TASKS, documents__tasks=str(place / "kinds.yaml"), train__batch=BATCH,
        train__optimizer=OptimizerConfig("adamw", RATE), **documents_in(place, rows) | changes,
    ))  # fmt: skip
    if not config_files.begun(epath.Path(place)):
        config_files.save(epath.Path(place), config)
    for other in config_changes.changed(config_files.saved(epath.Path(place)), config):
        raise SystemExit(f"{place}: it was begun with other settings ({other}); remove it")
    return runs.prepare(epath.Path(place), config, tell)


def read_by(run: Run, rows: Sequence[dict]) -> dict[str, dict]:
    """The passages that the run's generation reads, by the ids of its documents."""
    return {d.id: row_of(d.id, rows) for d in run.material(1).documents}


def row_of(document: str, rows: Sequence[dict]) -> dict:
    return rows[int(document.split()[-1])]


def items_of(read: Mapping[str, dict]) -> list[Item]:
    """All questions about passages, to be answered without them."""
    return [
        Item(f"{i} {n}", i, partial(scored, q["answer"]), ({"role": "user", "content": q["question"]},), greedy=True,
             reference=q["answer"])
        for i, row in read.items() for n, q in enumerate(row["questions"])
    ]  # fmt: skip


def scored(known: str, text: str, finished: bool) -> dict[str, float]:
    """An answer as SQuAD grades it, and whether it holds the known one."""
    return {
        "holds": float(holds(text, known)), "exact": float(normalised(text) == normalised(known)),
        "f1": f1(text, [known]),
    }  # fmt: skip


def one_generation(run: Run, base: nnx.State) -> Made:
    """Tasks, answers, reviews, targets and the audit, by the stages of the loop."""
    if propose.missing(run, 1):
        propose.propose(run, 1, base)
    g = Generation(run, 1, 0, base, base, run.tasks(1), {t.id: t for t in run.read(1)})
    units = transcripts.simulate(g)
    reviewer, quality = calibrated(g, units, base)
    units = transcripts.review(g, reviewer, units)
    per_task = run.config.targets.per_task
    found = transcripts.target(g, reviewer, units, per_task, ("targets", "review"))
    newest = dataset(g, [(unit.transcripts, of) for unit, of in zip(units, found, strict=True)], [])
    every, targets = [pair for unit in units for pair in zip(*unit, strict=True)], [t for of in found for t in of]
    audit_generation(g, newest, every, [], targets, reviewer)
    kept = [t for unit in units for t in transcripts.kept(unit, per_task)]
    about = {
        "tasks": len(g.tasks), "passages with tasks": len({t.document_ids for t in g.tasks}), "answers": len(every),
        "accepted": sum(r.accepted for _, r in every), "kept": len(kept),
        "review of answers about other passages": quality["review"],
        "audit": run.commits.read(g.directory / "audit.json"),
    }  # fmt: skip
    run.progress.line(json.dumps(about))
    return Made(g, kept, [e for e in newest if e.origin == "student"], about)


def calibrated(g: Generation, units: Sequence[Sequence[Transcript]], base: nnx.State) -> tuple[Reviewer, dict]:
    """The review by its calibration, and its quality. One below its floor would end a run; here it goes on with the
    strictest thresholds that were tried, and the table says so."""
    try:
        return calibration(g, [t for unit in units for t in unit])[:2]
    except ReviewerBelowFloor as below:
        quality = below.measured | {"review": below.measured["review"] | {"below_floor": str(below)}}
        return with_thresholds(g.run.reviewer(base), quality), quality


def unreviewed(g: Generation) -> list[Example]:
    """What students learn from all proposed questions but those that are asked in the end, and an answer to each."""
    proposals = map(from_json, g.run.stage(g.run.proposals(g.number)).committed())
    asked, seed = {words(q) for q in g.run.world.untaught}, g.seed("simulate")
    tasks = {p.task.id: p.task for p in proposals if p.askings and words(p.question) not in asked}
    drafts = [draft(g.writer, g.index, task, 0, f"{seed}") for task in tasks.values()]
    written = finish(g.writer, g.index, drafts, generation=g.number, seed=seed)
    return students(g, [t for t in written if t.finished], tasks)


def arms_of(made: Made, read: Mapping[str, dict]) -> dict[str, Pools]:
    """What each arm is trained on, as (examples, how many a step takes)."""
    g, run = made.g, made.g.run
    loops = lambda examples: mixture(run.config, examples, [], [])
    theirs = [Document(i, text_of(row, text)) for i, row in read.items() for text in row["texts"][THEIRS]]
    return {
        "base": [],
        "passages": raw(run, run.material(1).documents),
        "unreviewed": loops(unreviewed(g)),
        "reviewed": loops(made.taught),
        "swapped": loops(students(g, swapped(made.kept, g.read), g.read)),
        "GPT-4.1": raw(run, theirs),
    }


def raw(run: Run, texts: Sequence[Document]) -> Pools:
    """Texts to imitate, of which a step takes a part, about as many tokens as of a batch of answers."""
    return [([e for d in texts for e in imitation_examples(run.tokenizer, d, LONGEST)], 1)]


def students(g: Generation, chosen: Sequence[Transcript], tasks: Mapping[str, Task]) -> list[Example]:
    """What answers to tasks train students on, by the recipe's targets."""
    targets = make_targets(g.writer, g.run.scorer, lambda drafts: [], chosen, g.run.config.targets, seed=0)
    examples = []
    for t, target in zip(chosen, targets, strict=True):
        examples += for_students(g.run.tokenizer, t, target, tasks[t.task_id], "gen-000", lambda *_: ())
    return examples


def swapped(chosen: Sequence[Transcript], tasks: Mapping[str, Task]) -> list[Transcript]:
    """Each answer given to a task about another passage, half of all answers further on."""
    by_passage = sorted(chosen, key=lambda t: tasks[t.task_id].document_ids)
    middle = len(by_passage) // 2
    return [
        replace(said, task_id=t.task_id, student_prompt=t.student_prompt)
        for t, said in zip(by_passage, by_passage[middle:] + by_passage[:middle], strict=True)
    ]


def arm(made: Made, name: str, pools: Pools, items: Sequence[Item]) -> dict:
    """Trains an arm, asks it everything, and says what it was trained on."""
    run, params, began, examples = made.g.run, made.g.base, time.monotonic(), []
    steps = round(TOKENS / tokens_per_step(pools)) if pools else 0
    if pools:
        params = trained(run, name, params, pools, steps)
        examples = pools[0][0]
    found = {
        "steps": steps, "tokens": round(steps * tokens_per_step(pools)),
        "examples": len({e.id for e in examples}),
        "untaught_tokens": untaught_tokens(examples, run.world, made.g.read, run.tokenizer.decode),
        "scores": scores(run, params, items), "minutes": round((time.monotonic() - began) / 60, 1),
    }  # fmt: skip
    assert not found["untaught_tokens"], "a question that is asked was trained on"
    return found


def trained(run: Run, name: str, base: nnx.State, pools: Pools, steps: int) -> nnx.State:
    """The weights of an arm, by the loop's own training, in rows that the fullest step fills."""
    drawn = Batches(pools, seed=run.seed("batches", name, 1), steps=steps, columns=1 << 20)
    fullest = max(sum(int(drawn.lengths[pool][i]) for pool, i in drawn.picks(step)) for step in range(steps))
    columns = -(-fullest // 32) * 32
    config = configs.with_settings(run.config, {"model.max_length": columns, "train.columns": columns})
    longer = replace(run, config=config)
    return train_arm(longer, base, arm_of(longer, 1, name, pools, steps))


def scores(run: Run, params: nnx.State, items: Sequence[Item]) -> Scores:
    """By item, how its answer is graded; the mean log-probability of a token of the known one ("nats"); and whether
    that is above those of the known answers to all other questions about the passage ("choice")."""
    writer, end = run.writer(params), run.tokenizer.end
    prompts = {i.id: prompt_of(writer, i) for i in items}
    known = {i.id: (*run.tokenizer.encode(i.reference), end) for i in items}
    asked = [(i, other) for i in items for other in items if other.group == i.group]
    logs = run.scorer.log_likelihoods(params, [(prompts[i.id], known[other.id]) for i, other in asked])
    nats = {(i.id, other.id): float(of_N.mean()) for (i, other), of_N in zip(asked, logs, strict=True)}
    found = {}
    for answer in ask_items(writer, items, run.seed("evaluate")):
        i, own = answer.item, nats[answer.item.id, answer.item.id]
        others = [nats[i.id, o.id] for o in items if o.group == i.group and known[o.id] != known[i.id]]
        found[i.id] = {**answer.scores, "choice": float(all(own > n for n in others)), "nats": own, "said": answer.text}
    return found


def table(found: Mapping[str, dict], items: Sequence[Item]) -> dict:
    """Each arm and each difference with intervals over passages, and what was trained on."""
    names = ("holds", "exact", "f1", "choice", "nats")
    of = lambda arm, name: {i.id: found[arm]["scores"][i.id][name] for i in items}
    less = lambda arm, other, name: {i: s - of(other, name)[i] for i, s in of(arm, name).items()}
    pairs = [
        pair
        for pair in (*((arm, "base") for arm in found if arm != "base" and "base" in found), *PAIRS)
        if {*pair} <= found.keys()
    ]
    about = lambda arm: {name: value for name, value in found[arm].items() if name != "scores"}
    return {
        "arms": {arm: about(arm) | {name: interval(of(arm, name), items) for name in names} for arm in found},
        "differences": {
            f"{arm} - {other}": {name: interval(less(arm, other, name), items) for name in names}
            for arm, other in pairs
        },
    }


def interval(scores: Mapping[str, float], items: Sequence[Item]) -> dict[str, float]:
    """The mean over questions, and where it lies in 95 % of the times that as many passages are drawn anew."""
    of: dict[str, list[float]] = {}
    for item in items:
        of.setdefault(item.group, []).append(scores[item.id])
    sums_P, counts_P = (np.array([f(of_passage) for of_passage in of.values()], float) for f in (sum, len))
    drawn = np.random.default_rng(0).integers(len(of), size=(DRAWN, len(of)))
    low, high = np.quantile(sums_P[drawn].sum(1) / counts_P[drawn].sum(1), (0.025, 0.975))
    return {"value": float(sums_P.sum() / counts_P.sum()), "low": float(low), "high": float(high)}


def line_of(figures: Mapping[str, dict]) -> str:
    shown = {name: of for name, of in figures.items() if isinstance(of, dict)}
    share = lambda name: 1 if name == "nats" else 100
    number = lambda name, value: f"{share(name) * value:.{2 if name == 'nats' else 1}f}"
    return "  ".join(
        f"{n} {number(n, f['value'])} ({number(n, f['low'])} to {number(n, f['high'])})" for n, f in shown.items()
    )


def rates(folder: str) -> float:
    """Trains the arm of passages at each rate, on a few passages that the benchmark does not read. Returns the rate at
    which the known answers to their questions are likeliest."""
    began, rows = time.monotonic(), rows_of(folder)
    run = prepared(Path("runs") / "squad-rates", rows, PASSAGES, Telling(began))
    base, own = base_weights(run.config, run.mesh), read_by(run, rows)
    others = [f"passage {n}" for n in range(len(rows)) if f"passage {n}" not in own]
    other = {i: row_of(i, rows) for i in others[:TRIED]}
    items, pools = items_of(other), raw(run, [Document(i, text_of(row)) for i, row in other.items()])
    steps, found = round(TOKENS * TRIED / PASSAGES / tokens_per_step(pools)), {}
    for rate in (0.0, *RATES):
        config = changed(run.config, train__optimizer=OptimizerConfig("adamw", rate or RATE))
        params = trained(replace(run, config=config), f"rate-{rate}", base, pools, steps) if rate else base
        found[rate] = {"scores": scores(run, params, items), "loss": run.loss(params, pools[0][0])}
        of = table(found, items)["arms"][rate]
        run.progress.line(f"{rate:7} loss on the passages {of['loss']:.2f}  {line_of(of)}")
    arms = table(found, items)["arms"]
    return max(RATES, key=lambda rate: arms[rate]["nats"]["value"])


if __name__ == "__main__":
    rates(sys.argv[2]) if sys.argv[1] == "rates" else main(sys.argv[1], *map(int, sys.argv[2:]))
