"""A generation's dataset, the mixture that its weights are trained on, and the weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax import nnx

from ratchet.bootstrap import examples
from ratchet.bootstrap.arms import arm_of, train_arm
from ratchet.bootstrap.config import Config
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.ledger import same_units, units_of
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Transcript
from ratchet.bootstrap.wrongthink import spoiled_again
from ratchet.train import goodput
from ratchet.train.commits import sha256
from ratchet.train.records import Example, has_examples, metadata_of, read_examples, write_examples
from ratchet.train.trainer import Training

POOLS = (
    "newest students",
    "newest simulators",
    "corrections of a model's own words",
    "demonstrations",
    "earlier students",
    "earlier simulators",
    "corrections of spoiled answers",
)
"""What a batch is mixed of, in the order of `mixture`."""
ENTRIES = 1_000_000
"""Entries of a pool, with repeated examples, beyond which nothing is repeated only to balance it."""


class Prepared(NamedTuple):
    """A generation's arm, and what its training.json says of it."""

    arm: Training
    said: dict[str, Any]


class TooFewAccepted(RuntimeError):
    """What passed the review does not fill a batch."""


def dataset(
    g: Generation, taught: Sequence[tuple[Sequence[Transcript], Sequence[Target]]], mistakes: Sequence[Example]
) -> list[Example]:
    """Writes what this generation adds to training, as a TFDS dataset, and reads it back checked.

    `taught` are transcripts with the targets of those that were kept; `mistakes` teach the reviewer. Examples longer
    than a row of training are left out: `record.json` counts them as `left_out` and says how long the `longest` is.
    Of the `units` of each stage that the dataset was made from it holds a hash. Raises ValueError when other units are
    there, and when all examples are left out.
    """
    run, place = g.run, dataset_of(g.run, g.number)
    hashed = lambda: {stage: sha256(json.dumps(of).encode()) for stage, of in units_of(g.directory).items()}
    units = run.decided("what the dataset is made from", hashed)
    there = lambda: has_examples(place)
    files = metadata_of(place)
    if not (run.decided("whether the dataset is there", there) and all(run.commits.has(file) for file in files)):
        made = _examples(g, taught, mistakes)
        header = {
            "vocab_size": run.config.model.vocab_size,
            "tokenizer": run.tokenizer.hash,
            "temperature": run.config.simulate.temperature,
            "K": run.config.simulate.keep,
            "unwarped": True,
            "targets": run.config.targets.kind,
            "units": units,
        }
        fit = run.fitting(made, f"gen {g.number} dataset")
        longest = max((len(e.tokens) for e in made), default=0)
        if made and not fit:
            raise ValueError(
                f"generation {g.number}: all {len(made)} examples are longer than train.columns, "
                f"{run.config.train.columns} tokens; {run.longer_rows(longest)}"
            )
        if len(fit) < len(made):
            header |= {"left_out": len(made) - len(fit), "longest": longest}
        run.decided("the dataset", lambda: write_examples(place, fit, header=header))
        run.commits.adopt(place, files)
    of = run.decided("which units the dataset is of", lambda: _header(place)["units"])
    same_units(g.directory, of, units)
    return read_examples(place, tokenizer=run.tokenizer.hash)


def _examples(
    g: Generation, taught: Sequence[tuple[Sequence[Transcript], Sequence[Target]]], mistakes: Sequence[Example]
) -> list[Example]:
    """What is taught, as `dataset` has it: students get each transcript in several wordings, simulators each answer in
    copies with names exchanged, and reviewers their mistakes in such copies."""
    run, teacher = g.run, f"gen-{g.incumbent:03d}"
    renamed = lambda e: examples.renamed(run.world.names, run.tokenizer, e, run.config.train.renamed)
    made = [copy for e in mistakes for copy in renamed(e)]
    by_id = {t.id: t for transcripts, _ in taught for t in transcripts}
    chosen = [(by_id[one.transcript_id], one) for _, found in taught for one in found]
    heard = tuple(sorted({t.text for t, _ in chosen if not t.forced}))
    interruption = run.config.wrongthink.interruption
    again = lambda *thought: spoiled_again(run.world, run.tokenizer, heard, interruption, *thought)
    for t, target in chosen:
        task = g.read[t.task_id]
        step = len(run.world.steps(run.tokenizer.decode(t.forced)))
        made += examples.for_students(run.tokenizer, t, target, task, teacher, again, step)
        if not t.forced:
            own = target.sampled(t) if run.config.targets.kind == "students" else target
            made += renamed(examples.for_simulator(t, own, task, teacher))
    return made


def dataset_of(run: Run, number: int) -> epath.Path:
    """Where a generation's dataset lies."""
    return run.generation(number) / "dataset" / "1.0.0"


def lacking(run: Run, number: int) -> Mapping[str, int]:
    """How many examples a generation's dataset lacks since they are longer than a row, as `left_out`, and the tokens of
    the `longest`; {} where it lacks none."""
    header = _header(dataset_of(run, number))
    return {name: header[name] for name in ("left_out", "longest") if name in header}


def _header(dataset: epath.Path) -> dict:
    """What a dataset says of itself; {} where there is none."""
    path = dataset / "record.json"
    return json.loads(path.read_text()) if path.exists() else {}


@goodput.activity("data_loading")
def earlier_examples(g: Generation, known: dict[int, list[Example]]) -> list[Example]:
    """The datasets of all generations before this one; none where each replaces the one before. Those that are `known`,
    by their generation, are not read again, and what is read is known from then on."""
    if g.run.config.controls.mixture == "replace":
        return []
    for n in range(1, g.number):
        known[n] = known.get(n) or read_examples(dataset_of(g.run, n), tokenizer=g.run.tokenizer.hash)
    return [e for n in range(1, g.number) for e in known[n]]


def trained_weights(g: Generation) -> nnx.State | None:
    """The weights of this generation; None before its training has ended, or where what is known of it is missing.
    With them, earlier examples need not be read."""
    known = all(g.run.commits.has(g.directory / name) for name in ("audit.json", "training.json"))
    return g.run.weights_in(g.directory) if known and g.run.has_weights(g.directory) else None


def prepared(
    g: Generation, newest: Sequence[Example], earlier: Sequence[Example], demonstrations: Sequence[Example]
) -> Prepared:
    """What the next weights are trained with: half a batch newest, corrections among them up to their share, half
    everything earlier.

    Raises TooFewAccepted when what was accepted is less than a batch takes of it, ValueError when it is less since
    examples are longer than a row.
    """
    c = g.run.config
    pools = mixture(c, newest, earlier, demonstrations)
    found, needed = sum(e.origin == "student" for e in newest), pools[0][1]
    lacks = lacking(g.run, g.number)
    if found < needed <= found + lacks.get("left_out", 0):
        raise ValueError(
            f"generation {g.number}: {found} student examples are no longer than train.columns, {c.train.columns} "
            f"tokens, a batch takes {needed}; {g.run.longer_rows(lacks['longest'])}"
        )
    if found < needed:
        raise TooFewAccepted(
            f"generation {g.number}: the accepted transcripts make {found} student examples, a batch takes {needed}; "
            "start a new run with more --simulate.samples or a smaller --train.batch; "
            f"{g.directory / 'funnel.json'} shows where others went"
        )
    per_step = dict(zip(POOLS, (count for _, count in pools), strict=True))
    trained = {"steps": steps_of(c, g.number), "tokens_per_step": tokens_per_step(pools), "examples_per_step": per_step}
    return Prepared(arm_of(g.run, g.number, "loop", pools, trained["steps"], c.train.later_rate), trained)


def start_of(g: Generation) -> nnx.State:
    """The weights that training starts from: the seed model's, or the incumbent's."""
    return g.base if g.run.config.controls.start == "base" else g.params


def train(g: Generation, ready: Prepared) -> nnx.State:
    """The next weights, or those that are there."""
    g.run.commits.once(g.directory / "training.json", lambda: ready.said)
    if g.run.has_weights(g.directory):
        return g.run.weights_in(g.directory)
    params = train_arm(g.run, start_of(g), ready.arm)
    g.run.keep_weights(g.directory, params)
    return params


def tokens_per_step(pools: Sequence[tuple[Sequence[Example], int]]) -> float:
    """Mean weighted tokens of a step."""
    return float(sum(count * np.mean([len(e.ids) for e in found]) for found, count in pools if found))


def mixture(
    config: Config, newest: Sequence[Example], earlier: Sequence[Example], demonstrations: Sequence[Example]
) -> list[tuple[list[Example], int]]:
    """(examples, count per step): half a batch newest, half everything earlier; students' and simulators' apart.

    Corrections of all generations have one share of the newest half: too many, and students interrupt right thoughts
    as well. It is split evenly between those that interrupt a model's own words and those spoiled by rule.
    """
    c = config.train
    demonstrations = list(demonstrations)
    if not demonstrations:
        c = replace(c, demonstrations=0.0)
    half = c.batch // 2 if config.controls.mixture == "accumulate" and (earlier or demonstrations) else c.batch
    corrections = [e for e in (*newest, *earlier) if e.origin == "correction"]
    own = balanced([e for e in corrections if e.lineage["kind"] != "spoiled"])
    spoiled = balanced([e for e in corrections if e.lineage["kind"] == "spoiled"])
    students, simulators = _by_reader(newest)
    share = round(half * config.wrongthink.share) if corrections else 0
    of_own = share if own and not spoiled else share // 2 if own else 0
    taught = round((half - share) * c.student) if simulators else half - share
    shown = round((c.batch - half) * (c.demonstrations if earlier else 1.0))
    again = c.batch - half - shown
    old_students, old_simulators = _by_reader(earlier)
    recalled = round(again * c.student) if old_simulators else again
    return [
        (students, taught),
        (simulators, half - share - taught),
        (own, of_own),
        (demonstrations, shown),
        (old_students, recalled),
        (old_simulators, again - recalled),
        (spoiled, share - of_own),
    ]


def _by_reader(found: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Student examples, and what teaches the simulator and reviewer."""
    students = balanced([e for e in found if e.origin == "student"])
    simulators = balanced([e for e in found if e.origin == "simulate"])
    return students, simulators + [e for e in found if e.origin == "review"]


def balanced(found: Sequence[Example]) -> list[Example]:
    """Every group of documents as often as its answers are long, squared; corrections of each step are groups apart.

    What was hard to learn, and so passed the review less often, is not trained less; what takes longer answers, in
    which more can go wrong, is trained more. So are early corrections, which say most: a model goes wrong mostly in its
    first step, and one that saw later interruptions as often notices too late.

    No example is left out: the group with the most examples for its share has each of them once, and others repeat
    theirs. Where that makes more than `ENTRIES`, all shares shrink alike, but for groups that would lose an example.
    """
    groups: dict[tuple, list[Example]] = {}
    for e in found:
        groups.setdefault((*e.lineage["documents"], e.lineage.get("step", 0)), []).append(e)
    shares = {of: float(np.mean([len(e.ids) for e in group])) ** 2 for of, group in groups.items()}
    most = max((len(group) / shares[of] for of, group in groups.items()), default=0.0)
    most = min(most, ENTRIES / max(sum(shares.values()), 1.0))
    times = {of: max(len(group), round(most * shares[of])) for of, group in groups.items()}
    return [group[i % len(group)] for of, group in groups.items() for i in range(times[of])]


def steps_of(config: Config, number: int) -> int:
    """Steps of a generation: the more slices there are to remember, the more."""
    return round(config.train.steps * (1 + (number - 1) * config.train.growth))
