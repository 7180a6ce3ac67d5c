"""What a generation comes to: evaluation, promotion, audit, funnel, and the samples that the report shows."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from flax import nnx

from ratchet.bootstrap import examples
from ratchet.bootstrap.audit import audit
from ratchet.bootstrap.corrections import source_of, why_wrong
from ratchet.bootstrap.evaluate import PARTS, Items, evaluate, proportion
from ratchet.bootstrap.generation import Batch, Generation, kept
from ratchet.bootstrap.ledger import once, write_json
from ratchet.bootstrap.lineage import reviewed
from ratchet.bootstrap.promote import decide
from ratchet.bootstrap.review import agreement
from ratchet.bootstrap.seed import Run, train_arm
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Review, Task, Transcript
from ratchet.train.checkpoint import has_weights, load_weights, save_weights
from ratchet.train.records import Example


def items(run: Run, number: int) -> Items:
    """What generation `number` is asked: every situation read so far, and the fresh slice, the same for all."""
    read = run.world.situations[: max(number, 1) * run.config.world.slice]
    return Items(run.world, read, run.slices[-1], run.oracle, run.index)


def evaluate_generation(run: Run, number: int, params: nnx.State) -> None:
    if run.oracle:
        once(run.generation(number) / "evaluation.json", lambda: evaluation(run, number, params))


def evaluation(run: Run, number: int, params: nnx.State, arm: str = "loop") -> dict:
    """All metrics of a generation; the same numbers whenever it is asked again."""
    with run.progress.stage(f"gen {number} evaluate ({arm})", PARTS) as advance:
        found = evaluate(
            run.writer(params), items(run, number), run.config.simulate, run.config.evaluate.fresh_samples, run.room,
            seed=run.seed("evaluate"), form="story" if arm == "imitation" else "chat",
            advance=advance,
        )  # fmt: skip
    return {"generation": number, "arm": arm} | found


def promote(g: Generation) -> bool:
    """Compares the new weights' evaluation with the incumbent's on the same items and writes the decision."""
    run = g.run
    if not run.oracle:
        return once(g.directory / "decision.json", lambda: {
            "promoted": True, "reasons": ["no oracle: promoted without a comparison"], "comparisons": {},
        })["promoted"]  # fmt: skip

    def make() -> dict:
        candidate, incumbent = (
            json.loads((run.generation(n) / "evaluation.json").read_text())["items"] for n in (g.number, g.incumbent)
        )
        return decide(candidate, incumbent, run.config.evaluate.margin)

    return once(g.directory / "decision.json", make)["promoted"]


def imitate(run: Run, base: nnx.State, read: Sequence[Task]) -> None:
    """The contrast: the same seed model on the raw stories of every slice read, one-hot, for as many tokens."""
    place = run.directory / "imitation"
    told = {i for t in read for i in t.document_ids}
    stories = [examples.imitation_example(run.tokenizer, d) for d in run.corpus if d.id in told]
    last = run.config.generations
    with timed(place, "train"):
        if not has_weights(place / "model"):
            per_story = float(np.mean([len(e.ids) for e in stories]))
            trained = json.loads((run.generation(last) / "training.json").read_text())
            batch = max(1, round(trained["tokens_per_step"] / per_story))
            params = train_arm(run, last, "imitation", base, [(stories, batch)], trained["steps"])
            save_weights(place / "model", params)
        params = load_weights(place / "model", base)
    with timed(place, "evaluate"):
        once(place / "evaluation.json", lambda: evaluation(run, last, params, "imitation"))


def plan(g: Generation) -> None:
    """How many units each stage has, for `ratchet status`."""
    units = len(g.units())
    correcting = bool(g.run.config.wrongthink.first_generation) and g.number >= g.run.config.wrongthink.first_generation
    counts = {"simulate": units, "review": units, "targets": units, "wrongthink": int(correcting)}
    once(g.directory / "plan.json", lambda: {"units": counts})


def accepted(g: Generation, units: Sequence[Batch]) -> Counter[tuple[str, ...]]:
    """Accepted transcripts by the documents that they learned from."""
    tasks = g.read
    return Counter(
        tasks[t.task_id].document_ids
        for transcripts, reviews in units
        for t, r in zip(transcripts, reviews, strict=True)
        if r.accepted
    )


def funnel(g: Generation, units: Sequence[Batch], found: Sequence[Sequence[Target]], corrected: tuple[list, list, list],
           trained: int, accepted_now: Counter) -> None:  # fmt: skip
    """Counts from asked to trained, and acceptance by criterion."""
    transcripts = [t for unit, _ in units for t in unit]
    reviews = [r for _, unit in units for r in unit]
    written, judged, corrected_targets = corrected
    branches = [b for unit in [*found, corrected_targets] for one in unit for b in one.branches]
    read = {t.document_ids for tasks in g.run.slices[: g.number] for t in tasks}
    names = [c.name for c in g.run.rubric]
    write_json(g.directory / "funnel.json", {
        "asked": len(g.tasks) * g.run.config.simulate.samples, "made": len(transcripts),
        "finished": sum(t.finished for t in transcripts), "distinct": len({(t.task_id, t.text) for t in transcripts}),
        "reviewed": len(reviews), "passed": sum(r.accepted for r in reviews), "kept": sum(map(len, found)),
        "branches": len(branches), "branches_passed": sum(b.passed for b in branches),
        "corrections": len(written), "corrections_passed": sum(r.accepted for r in judged), "trained": trained,
        "lookups": sum(bool(t.called) for t in transcripts),
        "coverage": proportion({str(n): float(documents in accepted_now) for n, documents in enumerate(read)}),
        "accepted_by_criterion": {n: float(np.mean([r.verdicts[n].passed for r in reviews])) for n in names},
    })  # fmt: skip


def audit_generation(g: Generation, trained: Sequence[Example], units: Sequence[Batch],
                     found: Sequence[Sequence[Target]], calibration: dict) -> None:  # fmt: skip
    """Audits what will be trained on, as read from disk, against all that was ever rejected; with an oracle, also the
    review's verdicts."""
    run = g.run
    transcripts, reviews = {}, {}
    for n in range(1, g.number + 1):
        more, judged = reviewed(run.generation(n))
        assert not more.keys() & transcripts.keys(), "one generation's verdicts would pass for another's"
        transcripts, reviews = transcripts | more, reviews | judged
    result = audit(trained, run.corpus, list(transcripts.values()), reviews, run.tokenizer)
    masses = [one.unreviewed for unit in found for one in unit]
    result["unreviewed_mass"] = float(np.mean(masses)) if masses else 0.0
    if run.oracle:
        result["oracle"] = _oracle_audit(run, units, calibration)
    write_json(g.directory / "audit.json", result)


def _oracle_audit(run: Run, units: Sequence[Batch], calibration: dict) -> dict:
    """True precision and recall of the review and of its model criteria. It never feeds training."""
    pairs = [(t, r) for transcripts, reviews in units for t, r in zip(transcripts, reviews, strict=True)]
    pairs = [(t, r) for t, r in pairs if "distinct" not in r.verdicts]
    grades = [run.oracle.grade(t.task_id, t.text) for t, _ in pairs]
    right = np.array([grade.right and t.finished for grade, (t, _) in zip(grades, pairs, strict=True)])
    accepted = np.array([r.accepted for _, r in pairs])
    labels = {"told": np.array([x.told for x in grades]), "sound": np.array([x.sound for x in grades])}
    by_criterion = {
        name: agreement(np.array([r.verdicts[name].passed for _, r in pairs]), label)
        for name, label in labels.items()
        if name in calibration["criteria"]
    }
    items = [f"{t.task_id} {t.id}" for t, _ in pairs]
    both = dict(zip(items, (accepted & right).astype(float), strict=True))
    return {
        "precision": proportion({i: both[i] for i, a in zip(items, accepted, strict=True) if a}),
        "recall": proportion({i: both[i] for i, ok in zip(items, right, strict=True) if ok}),
        "pass_rate": float(right.mean()), "criteria": by_criterion,
        "false_accepts": [t.text for (t, _), a, ok in zip(pairs, accepted, right, strict=True) if a and not ok][:10],
    }  # fmt: skip


def samples(g: Generation, units: Sequence[Batch]) -> None:
    """A few accepted and rejected transcripts with their verdicts, for the report; repetitions only if need be."""
    if (g.directory / "samples.json").exists():
        return
    shown = []
    pairs = [(t, r) for transcripts, reviews in units for t, r in zip(transcripts, reviews, strict=True)]
    faulty = [(t, r) for t, r in pairs if not r.accepted and "distinct" not in r.verdicts]
    repeated = [(t, r) for t, r in pairs if not r.accepted and "distinct" in r.verdicts]
    for chosen in ([(t, r) for t, r in pairs if r.accepted], faulty or repeated):
        shown += [_shown(g, t, r) for t, r in chosen[:: max(1, len(chosen) // 4)][:4]]
    write_json(g.directory / "samples.json", {"transcripts": shown})


def _shown(g: Generation, t: Transcript, r: Review) -> dict:
    task = g.read[t.task_id]
    verdicts = {n: {"p_pass": v.p_pass, "passed": v.passed, "reason": v.reason} for n, v in r.verdicts.items()}
    return {
        "id": t.id, "question": task.question, "passages": [g.run.passages[p].text for p in t.passages],
        "answer": t.answer, "accepted": r.accepted, "verdicts": verdicts,
    }  # fmt: skip


def token_of(g: Generation, units: Sequence[Batch], found: Sequence[Sequence[Target]]) -> None:
    """One branch-reviewed token for the report: the position where a rejected alternative was likeliest."""
    transcripts = {t.id: t for unit, _ in units for t in unit}
    options = [
        (b.probability, one, b.position) for unit in found for one in unit for b in one.branches if not b.passed
    ]  # fmt: skip
    shown = json.loads((g.directory / "samples.json").read_text())
    if not options or "token" in shown:
        return
    _, one, position = max(options, key=lambda o: (o[0], o[1].transcript_id, o[2]))
    t, piece = transcripts[one.transcript_id], g.run.tokenizer.piece
    shown["token"] = {
        "context": g.run.tokenizer.decode(t.tokens[:position]), "chosen": piece(t.tokens[position]),
        "teacher": [[piece(i), p] for i, p in zip(t.capture.ids[position], t.capture.probs[position], strict=True)],
        "reviewed": [[piece(i), p] for i, p in zip(one.ids[position], one.probs[position], strict=True) if p > 0],
        "branches": [{"piece": piece(b.token), "passed": b.passed, "text": b.text, "reason": b.reason}
                     for b in one.branches if b.position == position],
    }  # fmt: skip
    write_json(g.directory / "samples.json", shown)


def correction_samples(g: Generation, corrected: Batch) -> None:
    """Counts of corrections by source and a few of each, with what was wrong, added to wrongthink.json."""
    path = g.directory / "wrongthink.json"
    if not path.exists():
        return
    counts, shown = {}, []
    for source in g.run.config.wrongthink.sources:
        pairs = [(t, r) for t, r in zip(*corrected, strict=True) if source_of(g, t) == source]
        written, judged = [t for t, _ in pairs], [r for _, r in pairs]
        counts[source] = {"made": len(written), "passed": sum(r.accepted for r in judged)}
        shown += [
            {"question": g.read[t.task_id].question, "thought": t.forced_text, "correction": t.text, "source": source,
             "reason": why_wrong(g, t)}
            for t in kept(written, judged, per_task=1)[:3]
        ]  # fmt: skip
    measured = json.loads(path.read_text())
    write_json(path, measured | {"corrections": counts, "examples": shown})


@contextlib.contextmanager
def timed(directory: epath.Path, stage: str) -> Iterator[None]:
    """Adds the seconds that a stage took to the directory's stages.json, across resumes."""
    began = time.monotonic()
    yield
    path = directory / "stages.json"
    spent = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, spent | {stage: round(spent.get(stage, 0.0) + time.monotonic() - began, 2)})
