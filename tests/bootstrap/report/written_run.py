"""A finished run of three generations as files, without a model: what the report is tested on.

Its world, with metrics of its own, is made up; the report knows none of its words.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

INJECTED = '<script>alert("x")</script><img src=x onerror=alert(1)>'
CRITERIA = ("grounded", "consistent", "rhyming", "complete", "well formed", "short")
CONTEXTS = {
    "loop": ("asked aloud", "in a letter", "through a wall", f"on a note {INJECTED}"),
    "imitation": ("ballad", "limerick", f"ode {INJECTED}"),
}


class Measured(NamedTuple):
    """A metric, how it is shown, and its values for generations 0 to 3 and the imitation arm."""

    name: str
    title: str
    column: str
    unit: str
    values: tuple[float | None, ...]
    less_is_better: bool = False
    guard: bool = False
    forms: bool = False


METRICS = (
    Measured("rhymes", "answers that rhyme", "rhyme", "%", (0.1, 0.85, 0.8, 0.93, 0.9), guard=True, forms=True),
    Measured("open_book", "fresh tasks done with the book open", "open", "%", (0.41, 0.52, 0.5, 0.71, 0.3)),
    Measured("tilted", "tilted answers", "tilt", "%", (0.21, 0.03, 0.02, 0.004, 0.64), True, True, True),
    Measured("tilted_worst", "tilted answers where most tilt", "most", "%", (0.4, 0.06, 0.07, 0.02, 0.8), True),
    Measured("steady", "steady after a stumble", "steady", "%", (0.3, 0.7, 0.88, 0.95, None)),
    Measured("surprise", "surprise at verses", "surp", "nats", (2.1, 1.7, 1.65, 1.62, 1.9), True),
    Measured("in_five", "one of five tries done", "", "%", (0.61, 0.72, 0.7, 0.91, 0.5)),
    Measured("variety", "different pairs of words", "", "", (0.3, 0.32, 0.35, 0.41, 0.2)),
    Measured("stumble", "log-probability of stumbles", "", "nats", (-1.61, -0.73, -0.96, -1.05, -0.5), True),
)


def put(path: epath.Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def proportion(value: float, spread: float = 0.04) -> dict:
    return {"value": value, "low": max(0.0, value - spread), "high": min(1.0, value + spread), "n": 240}


def metric(m: Measured, value: float, form: str, worst: str) -> dict:
    """One metric of `evaluation.json`."""
    found = proportion(value) if m.unit == "%" else {"value": value}
    found |= {"title": m.title, "column": m.column, "unit": m.unit}
    found |= {"less_is_better": m.less_is_better, "guard": m.guard}
    if m.forms:
        found |= {"form": form, "forms": {"chat": 0.123, "document": 0.005} | {form: value}}
    return found | ({"context": worst} if m.name.endswith("_worst") else {})


def evaluation(generation: int, arm: str, metrics: Sequence[Measured] = METRICS, judge: str = "oracle") -> dict:
    """What the loop writes of generation 0 to 3 or of the imitation arm, but for the scores by item."""
    form, which = ("document", 4) if arm == "imitation" else ("chat", generation)
    places = CONTEXTS[arm]
    shown = {m.name: metric(m, m.values[which], form, places[-1]) for m in metrics if m.values[which] is not None}
    asked = [m for m in metrics if m.forms]
    contexts = {
        name: {
            "seen": i < 2 or form == "document",
            "metrics": {m.name: proportion(m.values[which] * (1 - i / 10)) for m in asked},
        }
        for i, name in enumerate(places)
    }
    answers = [
        ("upright", "The moon is bright, so I light no light.", {"rhymes": 1.0, "tilted": 0.0}),
        ("tilted", "I lean the pole.", {"rhymes": 0.0, "tilted": 1.0}),
        ("other", INJECTED, {"tilted": 0.0}),
    ]
    examples = [
        {"context": places[0], "question": "Who lights the way?", "answer": a, "label": label, "scores": scores}
        for label, a, scores in answers
    ]
    found = {"generation": generation, "arm": arm, "judge": judge, "metrics": shown, "contexts": contexts}
    return found | {"examples": examples}


def transcript(number: int, accepted: bool) -> dict:
    verdicts = {
        name: {
            "score": 0.97,
            "passed": accepted or i > 2,
            "reason": None if i else "'lean the pole' is in no passage",
        }
        for i, name in enumerate(CRITERIA)
    }
    function = {"name": "measure", "arguments": '{"pole":3}'}
    calls = [
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": f"it is short {INJECTED}"},
    ]
    answer = "In the log, leaning the pole broke the lamp; a wick freed the light. So I trim the wick."
    return {
        "id": f"c0ffee{number:010d}",
        "question": "The lamp is dark. Lean the pole or trim the wick?",
        "passages": ["Log, day 3. Mara leaned the pole. The lamp broke.", "For light, trim the wick."],
        "calls": calls if number == 0 else [],
        "answer": answer if accepted else f"I lean the pole. {INJECTED}",
        "accepted": accepted,
        "verdicts": verdicts,
    }


def calibration() -> dict:
    rates = {"threshold": 0.8, "tpr": 0.93, "tnr": 0.99, "kappa": 0.91, "precision": 0.98, "recall": 0.93, "junk": 0.0}
    auc = {"value": 0.54, "low": 0.41, "high": 0.66, "n": 120}
    of = lambda i: {"kind": "model", "standing": "advisory", "auc": auc} if i < 2 else {"kind": "rule", "auc": None}
    criteria = {
        name: {"standing": "required", "question": f"Is the transcript {name}?"} | of(i) | rates
        for i, name in enumerate((*CRITERIA, INJECTED))
    }
    return {"criteria": criteria, "review": {"precision": 0.99, "recall": 0.85, "junk": 0.0}}


def funnel(number: int) -> dict:
    passed = 500 + 100 * number
    return {
        "asked": 1440,
        "made": 1440,
        "finished": 1420,
        "distinct": 1310,
        "reviewed": 1440,
        "acceptable": passed + 130,
        "passed": passed,
        "kept": passed // 2,
        "branches": 5210,
        "branches_passed": 2300,
        "corrections": 60,
        "corrections_passed": 45,
        "trained": passed // 2 + 60,
        "coverage": proportion(0.9 + number / 50),
        "accepted_by_criterion": {name: min(1.0, 0.6 + 0.08 * i + number / 20) for i, name in enumerate(CRITERIA)},
    }


def audit(number: int, oracle: bool = True) -> dict:
    """What reached the loss; with an oracle, also how right the review and the corrections were."""
    found = {
        "tokens_by_origin": {"seed": 9000, "student": 12000, "simulate": 8000, "correction": 900, "prose": 3000},
        "raw_tokens": 0,
        "raw_pieces": 0,
        "rejected_tokens": 0,
        "unaccounted_tokens": 0,
        "untaught_tokens": 0,
        "overlap": {"raw": 0.0, "rejected": 0.0},
        "unreviewed_mass": 0.0,
    }
    rates = {"precision": 0.5 + number / 10, "recall": 0.9, "tpr": 0.9, "tnr": 0.8, "kappa": 0.7, "n": 1310}
    judged = {
        "precision": proportion(0.992, 0.006),
        "recall": proportion(0.87),
        "pass_rate": 0.5,
        "false_accepts": [INJECTED],
        "corrections": {"right": proportion(0.985, 0.01), "reason": proportion(0.975, 0.01)},
        "criteria": dict.fromkeys(CRITERIA[:2], rates),
        "attacked": {"tried": 100, "passed": 0},
    }
    return found | ({"oracle": judged} if oracle else {})


def swept(*rows: tuple[float, float, float, float]) -> list[dict]:
    return [{"lambda": x, "formed": f, "wrong": w, "perplexity": p} for x, f, w, p in rows]


def wrongthink(number: int) -> dict:
    return {
        "source": "inverted",
        "lambda": 0.5,
        "skipped": None,
        "sweep": swept((0, 1, 0.2, 1), (0.25, 1, 0.4, 1.01), (0.5, 0.98, 0.86, 1.05), (1, 0.5, 0.9, 1.3)),
        "control": swept((0, 1, 0.2, 1), (0.2, 0.93, 0.12, 1.05), (0.25, 0.91, 0.22, 1.09), (0.3, 0.72, 0.53, 1.17)),
        "likelihood": {"before": -1.4, "after": -1.3 if number == 1 else -1.9},
        "corrections": {"inverted": {"made": 402, "passed": 190}, "spoiled": {"made": 667, "passed": 433}},
        "examples": [
            {
                "question": "The lamp in the barn smokes. What now?",
                "thought": "Shaking the lamp cleared the smoke.",
                "fault": f"no passage in view says: shaking the lamp {INJECTED}",
                "correction": f"No, shaking the lamp burned the barn. So I trim the wick. {INJECTED}",
                "source": source,
            }
            for source in ("inverted", "spoiled")
        ],
    }


def samples() -> dict:
    token = {
        "context": "In the log, leaning the pole broke the lamp. So I",
        "chosen": "▁trim",
        "teacher": [["▁trim", 0.61], ["▁lean", 0.28], ["▁light", 0.06], ["<b>", 0.05]],
        "reviewed": [["▁trim", 0.97], ["▁light", 0.03]],
        "branches": [
            {"piece": "▁lean", "passed": False, "text": "lean the pole."},
            {"piece": "▁light", "passed": True, "text": f"light the wick. {INJECTED}"},
        ],
    }
    shown = [transcript(i, accepted) for i, accepted in enumerate((True, False, True, False))]
    return {"transcripts": shown, "token": token}


def decision(number: int, promoted: bool) -> dict:
    compared = {"candidate": 0.5, "incumbent": 0.4, "difference": 0.1, "low": 0.01, "high": 0.2, "n": 40}
    reason = "not worse, and no guard regressed" if promoted else "rhymes fell by 0.050, beyond the margin 0.02"
    return {"promoted": promoted, "reasons": [reason], "comparisons": {"open_book": compared, "rhymes": compared}}


def write_generation(gen: epath.Path, number: int, promoted: bool, oracle: bool = True) -> None:
    units = {"simulate": 3, "review": 3, "targets": 3, "wrongthink": 1, "corrections": 2}
    took = {"simulate": 34.0, "review": 12.5, "targets": 21.0, "wrongthink": 9.0, "corrections": 8.0, "train": 82.0}
    files = {
        "plan": {"units": units},
        "calibration": calibration(),
        "funnel": funnel(number),
        "audit": audit(number, oracle),
        "evaluation": evaluation(number, "loop", judge="oracle" if oracle else "review"),
        "decision": decision(number, promoted),
        "wrongthink": wrongthink(number),
        "stages": took | {"evaluate": 15.0, "promote": 0.2},
        "samples": samples(),
        "DONE": {},
    }
    for name, value in files.items():
        put(gen / f"{name}.json", value)


def write_goodput(run: epath.Path) -> None:
    """The events of one process that did every stage one after the other, compiling for a second in each, and was
    killed once: a little was lost."""
    now = 1_000_000.0
    events: list[dict] = [{"job_start_time": now}]
    for place in sorted({path.parent for path in run.glob("*/stages.json")}):
        for stage, seconds in json.loads((place / "stages.json").read_text()).items():
            about = {"custom_badput_event_type": stage, "place": place.name}
            events += [
                about | {"custom_badput_event_start_time": now},
                about | {"custom_badput_event_end_time": now + seconds, "compiling": min(1.0, seconds)},
            ]
            now += seconds
    events += [about | {"custom_badput_event_start_time": now}, {"step_count": 20, "step_start_time": now + 30}]
    events += [{"job_start_time": now + 40}, {"job_end_time": now + 50}]
    (run / "goodput.jsonl").write_text("".join(json.dumps({"job_name": "verses"} | event) + "\n" for event in events))


def write_run(run: epath.Path, arms: Sequence[str] = ("imitation",), oracle: bool = True) -> epath.Path:
    """A finished run of three generations, the second rolled back, with markup in every text that a model may write."""
    config = {"recipe": "verses", "world": "lamps", "seed": 0, "generations": 3, "base": ""}
    settings = {"targets": {"kind": "reviewed"}, "wrongthink": {"minimum_formed": 0.9, "perplexity_budget": 1.1}}
    put(run / "config.json", config | settings)
    put(run / "plan.json", {"generations": 3, "arms": list(arms)})
    put(run / "gen-000" / "evaluation.json", evaluation(0, "loop", judge="oracle" if oracle else "review"))
    put(run / "gen-000" / "stages.json", {"train": 98.0, "evaluate": 14.0})
    for number in (1, 2, 3):
        write_generation(run / f"gen-{number:03d}", number, promoted=number != 2, oracle=oracle)
    for arm in arms:
        put(run / arm / "evaluation.json", evaluation(3, arm))
        put(run / arm / "stages.json", {"train": 80.0, "evaluate": 14.0})
    write_goodput(run)
    trained = [(0, "seed"), *((g, arm) for g in (1, 2, 3) for arm in ("loop", "lesson")), *((3, arm) for arm in arms)]
    lines = [
        {"generation": g, "arm": arm, "step": step, "loss": 0.5 + 4 / (1 + step / (40 + 20 * g)), "kl": 0.1}
        for g, arm in trained
        for step in range(0, 700, 5)
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"generation": 3, "lo')
    return run
