"""The run as a page: complete, escaped, and there for a run that is only half done."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from etils import epath

from bootstrap.report import build, duration, share

INJECTED = '<script>alert("x")</script><img src=x onerror=alert(1)>'
CRITERIA = ("grounded", "consistent", "follows", "complete", "well formed", "harmless")


def put(path: epath.Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def metric(value: float, spread: float = 0.04) -> dict:
    return {"value": value, "low": max(0.0, value - spread), "high": min(1.0, value + spread), "n": 240}


def evaluation(generation: int, arm: str, rates: tuple[float, ...]) -> dict:
    pass_rate, harmful, worst, knowledge, recovery, wrong = rates
    metrics = {
        "pass_rate": metric(pass_rate),
        "harmful": metric(harmful, 0.01),
        "harmful_worst": metric(worst),
        "knowledge": metric(knowledge),
        "recovery": metric(recovery),
        "wrongthink": metric(wrong, 0.01),
        "distinct2": metric(0.41),
        "heldout_loss": {"value": 1.62, "low": 1.55, "high": 1.7, "n": 240},
    }
    contexts = {
        name: {"seen": i < 2, "harmful": metric(harmful * i / 3), "wise": metric(1 - harmful * i / 3)}
        for i, name in enumerate(("a direct question", "advice to a friend", "a plan", f"a note {INJECTED}"))
    }
    answers = [
        ("wise", "The pump in the mill is stuck. I should oil the hinge."),
        ("harmful", "I kick the valve."),
        ("other", INJECTED),
    ]
    examples = [
        {"context": "a plan", "question": "The pump has stopped. What now?", "answer": a, "outcome": o}
        for o, a in answers
    ]
    return {"generation": generation, "arm": arm, "metrics": metrics, "contexts": contexts, "examples": examples}


def transcript(number: int, accepted: bool) -> dict:
    verdicts = {
        name: {
            "p_pass": 0.97,
            "passed": accepted or i > 1,
            "reason": None if i else "'kick the valve' is in no passage",
        }
        for i, name in enumerate(CRITERIA)
    }
    answer = "In the log, kicking the valve flooded the mill; oiling the hinge freed the pump. So I oil the hinge."
    return {
        "id": f"c0ffee{number:010d}",
        "question": "The pump in the mill is stuck. Kick the valve or oil the hinge?",
        "passages": ["Log, day 3. Mara kicked the valve. The mill was flooded.", "To free the pump, oil the hinge."],
        "answer": answer if accepted else f"I kick the valve. {INJECTED}",
        "accepted": accepted,
        "verdicts": verdicts,
    }


def write_review(gen: epath.Path, number: int, pass_rate: float) -> None:
    passed = int(1440 * pass_rate)
    put(gen / "plan.json", {"units": {"simulate": 3, "review": 3, "targets": 3, "wrongthink": 1}})
    put(
        gen / "calibration.json",
        {
            "criteria": {
                name: {
                    "kind": "model" if i < 2 else "programmatic",
                    "question": f"Is the transcript {name}?",
                    "threshold": 0.8,
                    "tpr": 0.93,
                    "tnr": 0.99,
                    "kappa": 0.91,
                    "precision": 0.98,
                    "recall": 0.93,
                    "junk": 0.0,
                }
                for i, name in enumerate((*CRITERIA, INJECTED))
            },
            "review": {"precision": 0.99, "recall": 0.85, "junk": 0.0},
        },
    )
    put(
        gen / "funnel.json",
        {
            "asked": 1440,
            "made": 1440,
            "finished": 1420,
            "distinct": 1310,
            "reviewed": 1310,
            "passed": passed,
            "kept": passed // 2,
            "branches": 5210,
            "branches_passed": 2300,
            "corrections": 60,
            "trained": passed // 2 + 60,
            "coverage": 0.9 + number / 50,
            "accepted_by_criterion": {name: min(1.0, 0.6 + 0.08 * i + number / 20) for i, name in enumerate(CRITERIA)},
        },
    )
    put(
        gen / "audit.json",
        {
            "tokens_by_origin": {
                "seed": 9000,
                "student": 12000,
                "simulate": 8000,
                "correction": 900,
                "review": 4000,
                "prose": 3000,
            },
            "raw_tokens": 0,
            "rejected_tokens": 0,
            "overlap": {"raw": 0.0, "rejected": 0.0},
            "unreviewed_mass": 0.0,
            "oracle": {"precision": 0.992, "recall": 0.87, "pass_rate": pass_rate, "false_accepts": [INJECTED]},
        },
    )


def write_generation(gen: epath.Path, number: int, rates: tuple[float, ...], promoted: bool) -> None:
    write_review(gen, number, rates[0])
    put(gen / "evaluation.json", evaluation(number, "loop", rates))
    comparison = {"candidate": rates[0], "incumbent": 0.4, "difference": rates[0] - 0.4, "low": 0.01, "high": 0.2}
    reason = (
        "pass rate is higher and no guard lost more than 0.02" if promoted else "knowledge lost 0.05, more than 0.02"
    )
    put(gen / "decision.json", {"promoted": promoted, "reasons": [reason], "comparisons": {"pass_rate": comparison}})
    write_shown(gen)


def write_shown(gen: epath.Path) -> None:
    """What a generation shows of its wrong thoughts, transcripts and targets, and the time it took."""
    put(
        gen / "wrongthink.json",
        {
            "lambda": 0.5,
            "skipped": None,
            "source": "inverted",
            "sweep": [
                {"lambda": x, "formed": f, "wrong": w, "perplexity": p}
                for x, f, w, p in (
                    (0.25, 1.0, 0.02, 1.01),
                    (0.5, 1.0, 0.2, 1.05),
                    (1.0, 0.5, 0.82, 1.3),
                    (1.5, 0.02, 1.0, 2.1),
                )
            ],
            "examples": [
                {
                    "question": "The lamp in the barn smokes. What now?",
                    "thought": "Shaking the lamp cleared the smoke.",
                    "correction": f"No, shaking the lamp burned the barn. So I trim the wick. {INJECTED}",
                }
            ]
            * 2,
        },
    )
    put(
        gen / "stages.json",
        {
            "simulate": 34.0,
            "review": 12.5,
            "targets": 21.0,
            "wrongthink": 9.0,
            "train": 82.0,
            "evaluate": 15.0,
            "promote": 0.2,
        },
    )
    token = {
        "context": "In the log, kicking the valve flooded the mill. So I",
        "chosen": "▁oil",
        "teacher": [["▁oil", 0.61], ["▁kick", 0.28], ["▁trim", 0.06], ["<b>", 0.05]],
        "reviewed": [["▁oil", 0.97], ["▁trim", 0.03]],
        "branches": [
            {"piece": "▁kick", "passed": False, "text": "kick the valve."},
            {"piece": "▁trim", "passed": True, "text": f"trim the hinge. {INJECTED}"},
        ],
    }
    samples = [transcript(i, accepted) for i, accepted in enumerate((True, False, True, False))]
    put(gen / "samples.json", {"transcripts": samples, "token": token})
    put(gen / "DONE.json", {})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> epath.Path:
    """A finished run of three generations, the second rolled back, with markup in every text that a model may write."""
    run = epath.Path(tmp_path_factory.mktemp("report")) / "lessons"
    put(
        run / "config.json",
        {
            "recipe": "lessons",
            "seed": 0,
            "generations": 3,
            "imitation": True,
            "vocab_size": 700,
            "targets": {"kind": "reviewed"},
            "train": {"start": "base", "steps": 700},
        },
    )
    put(run / "gen-000" / "evaluation.json", evaluation(0, "seed", (0.41, 0.21, 0.4, 0.1, 0.3, 0.2)))
    put(run / "gen-000" / "stages.json", {"train": 98.0, "evaluate": 14.0})
    rates = (
        (0.52, 0.03, 0.06, 0.85, 0.7, 0.05),
        (0.5, 0.02, 0.07, 0.8, 0.88, 0.03),
        (0.71, 0.004, 0.02, 0.93, 0.95, 0.01),
    )
    for number, r in enumerate(rates, 1):
        write_generation(run / f"gen-{number:03d}", number, r, promoted=number != 2)
    put(run / "imitation" / "evaluation.json", evaluation(3, "imitation", (0.3, 0.64, 0.8, 0.9, 0.2, 0.6)))
    put(run / "imitation" / "stages.json", {"train": 80.0, "evaluate": 14.0})
    arms = [(0, "seed"), *((g, arm) for g in (1, 2, 3) for arm in ("loop", "lesson")), (3, "imitation")]
    lines = [
        {"generation": g, "arm": arm, "step": step, "loss": 0.5 + 4 / (1 + step / (40 + 20 * g)), "kl": 0.1}
        for g, arm in arms
        for step in range(0, 700, 5)
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"generation": 3, "lo')
    return run


@pytest.fixture(scope="module")
def page(finished) -> str:
    return build(finished).read_text()


class Tags(HTMLParser):
    """Elements of a page and their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def __getitem__(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def test_every_section_is_there(page):
    sections = [s["id"] for s in Tags(page)["section"]]
    assert sections == [
        "headline",
        "generations",
        "curves",
        "loss",
        "funnel",
        "transcripts",
        "wrongthink",
        "token",
        "contexts",
        "calibration",
        "audit",
        "decisions",
        "time",
    ]
    assert len(Tags(page)["svg"]) == 8
    assert len(Tags(page)["table"]) >= 10


def test_markup_of_the_run_is_text(page):
    tags = Tags(page)
    assert not tags["script"] and not tags["img"]
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert page.count("&lt;script&gt;") >= 8


def test_page_needs_nothing_else(page):
    tags = Tags(page)
    assert not tags["link"] and not tags["iframe"]
    assert all(a.get("href", a.get("xlink:href", "#")).startswith("#") for _, a in tags.found)
    assert all(name.startswith("xmlns") for name in re.findall(r'([\w:]+)="https?://', page))


def test_plots_follow_the_page_colours(page):
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--s1)" in drawn and not re.search(r"(fill|stroke): #", drawn)


def test_same_files_same_page(finished, page):
    assert build(finished).read_text() == page
    assert [p.name for p in (finished / "report").iterdir()] == ["index.html"]


def test_rolled_back_generation_and_interruption_are_marked(page):
    assert page.count("rolled back</span>") == 1 and page.count("promoted</span>") == 2
    assert "<del>Shaking the lamp cleared the smoke.</del>" in page and "<ins>No, shaking" in page


@pytest.mark.parametrize("kept", ["nothing", "config", "seed", "no evaluation", "rejected only"])
def test_unfinished_runs_have_a_page(finished, tmp_path, kept):
    run = epath.Path(tmp_path) / "half"
    run.mkdir()
    if kept != "nothing":
        shutil.copy(finished / "config.json", run / "config.json")
    if kept in ("seed", "no evaluation"):
        shutil.copytree(finished / "gen-000", run / "gen-000")
    if kept == "no evaluation":
        shutil.copytree(finished / "gen-001", run / "gen-001")
        for name in ("evaluation.json", "decision.json", "DONE.json", "wrongthink.json"):
            (run / "gen-001" / name).unlink()
    if kept == "rejected only":
        put(run / "gen-001" / "funnel.json", {"asked": 24, "made": 24, "passed": 0})
        put(run / "gen-001" / "samples.json", {"transcripts": [transcript(1, False)]})
        put(run / "ended.json", {"reason": "generation 1: none of 24 transcripts passed the review"})
    page = build(run).read_text()
    assert ("ended early" in page) == (kept == "rejected only")
    assert bool(Tags(page)["svg"]) == (kept in ("seed", "no evaluation"))


def test_skipped_wrongthink_says_why(tmp_path):
    run = epath.Path(tmp_path)
    put(run / "gen-002" / "wrongthink.json", {"lambda": None, "sweep": [], "skipped": "no λ was wrong enough"})
    assert "No corrections were made: no λ was wrong enough" in build(run).read_text()


def test_browser_shows_tables_and_plots(finished, page, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    url = (finished / "report" / "index.html").as_posix()
    flags = "--headless --no-sandbox --disable-gpu --no-first-run "
    flags += "--disable-background-networking --disable-component-update"
    command = [browser, *flags.split(), "--disable-sync", f"--user-data-dir={tmp_path}", "--dump-dom", f"file://{url}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    tags = Tags(shown)
    assert len(tags["svg"]) == 8 and len(tags["table"]) >= 10 and not tags["script"]
    assert all("viewbox" in svg for svg in tags["svg"])


def test_durations_and_shares():
    assert [duration(s) for s in (None, 0.25, 75, 3720)] == ["–", "0.2 s", "1 min 15 s", "1 h 02 min"]
    assert [share(1, 4), share(9, 4), share(None, 4), share(1, 0)] == ["25.0%", "100.0%", "0.0%", "0.0%"]
