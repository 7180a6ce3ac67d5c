"""The run as a page: complete, escaped, and there for a run that is only half done."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from etils import epath
from written_run import CONTEXTS, put, transcript, write_run

from ratchet.bootstrap.report import SHOWN_SETTINGS, build, share
from ratchet.bootstrap.status import duration

NONE = {"made": 0, "passed": 0}
NAMED = ("contexts", "criteria", "verdicts", "accepted_by_criterion", "tokens_by_origin", "comparisons")
"""Objects of a run's files whose keys are names that vary from run to run."""
EXAMPLES = {f".examples[].{name}" for name in ("question", "thought", "correction", "source", "reason")}
"""Of wrongthink.json: `tiny` is too small to be corrected, test_corrections sees to them."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> epath.Path:
    return write_run(epath.Path(tmp_path_factory.mktemp("report")) / "lessons")


@pytest.fixture(scope="module")
def page(finished) -> str:
    return build(finished).read_text()


class Tags(HTMLParser):
    """Elements of a page and their attributes, and the cells of its tables by section."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        here = self.tables.setdefault((self["section"] or [{"id": "header"}])[-1]["id"], [])
        if tag == "table":
            here.append([])
        elif tag == "tr":
            here[-1].append([])
        elif tag in ("td", "th"):
            here[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self._in_cell:
            self.tables[(self["section"] or [{"id": "header"}])[-1]["id"]][-1][-1][-1] += data

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
        "measured",
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


@pytest.mark.parametrize(("share_now", "said"), [(0.2, True), (0.5, False)])
def test_a_wrong_thinker_that_is_no_more_wrong_than_the_incumbent_is_called_so(tmp_path, share_now, said):
    rows = [{"lambda": x, "formed": 1.0, "wrong": w, "perplexity": 1.0} for x, w in ((0.0, 0.2), (0.1, share_now))]
    put(epath.Path(tmp_path) / "gen-002" / "wrongthink.json", {"lambda": 0.1, "sweep": rows, "skipped": None})
    page = build(epath.Path(tmp_path)).read_text()
    assert f"{100 * share_now:.0f} % of the thoughts" in page
    assert ("no more wrong" in page) == said


def test_corrections_of_spoiled_answers_are_not_denied(tmp_path):
    put(
        epath.Path(tmp_path) / "gen-002" / "wrongthink.json",
        {"lambda": None, "skipped": "no λ", "corrections": {"inverted": NONE, "spoiled": {"made": 7, "passed": 5}}},
    )
    page = build(epath.Path(tmp_path)).read_text()
    assert "7 thoughts spoiled by rule, of whose corrections 5 passed" in page
    assert "The wrong-thinker was not asked: no λ" in page and "No corrections were made" not in page


def test_examples_name_their_sources_and_faults(page):
    assert page.count('"chip">of the inverted lesson<') == page.count('"chip">spoiled by rule<') == 1
    assert page.count("no document in view says: shaking the lamp") == 2


def test_the_two_forms_stand_side_by_side(page):
    assert Tags(page).tables["generations"][1][1:] == [
        ["generation 3", "0.4", "0.1", "99.6", "0.2", "93", "0.3"],
        ["imitation", "12.3", "64", "4.5", "36", "6.7", "90"],
    ]
    assert page.count("imitation, in story form") == 4
    contexts, genres = Tags(page).tables["contexts"]
    assert [row[0] for row in contexts[1:]] == list(CONTEXTS["loop"])
    assert [row[0] for row in genres[1:]] == list(CONTEXTS["imitation"])


def test_wrong_thoughts_that_became_likelier_are_admitted(page):
    text = " ".join(page.split())
    assert "It was -1.61 in generation 0, is -1.05 in generation 3 and was highest in generation 1 (-0.73)" in text
    assert "wrong thoughts are likelier than at first" in text
    rows = Tags(page).tables["measured"][0][1:]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "imitation"] and rows[1] == ["1", "72", "0.320", "-0.73"]


def test_every_generation_has_its_criteria_against_the_oracle(page):
    assert [row[1:] for row in Tags(page).tables["audit"][1][1:]] == [[p, "90", p, "90"] for p in ("60", "70", "80")]


def test_the_fixture_holds_only_what_a_run_writes(finished, tiny_run):
    for name in ("config", "gen-002/*", "imitation/*"):
        for invented in sorted(finished.glob(f"{name}.json")):
            real = shape(json.loads((tiny_run / invented.relative_to(finished)).read_text()))
            found = shape(json.loads(invented.read_text()))
            assert not found - real - EXAMPLES, invented.name
    assert {f".{name}" for name in SHOWN_SETTINGS} <= shape(json.loads((tiny_run / "config.json").read_text()))


def shape(value, path: str = "") -> set[str]:
    """Paths to all values; names that a run gives (criteria, contexts) are stars."""
    if isinstance(value, list):
        return {found for v in value for found in shape(v, f"{path}[]")}
    if isinstance(value, dict):
        named = path.rpartition(".")[2] in NAMED
        return {found for k, v in value.items() for found in shape(v, f"{path}.{'*' if named else k}")}
    return {path}


def test_browser_shows_tables_and_plots(finished, page, tmp_path):
    tags = in_browser(finished, tmp_path)
    assert len(tags["svg"]) == 8 and len(tags["table"]) >= 10 and not tags["script"]
    assert all("viewbox" in svg for svg in tags["svg"])


def test_browser_shows_a_real_run(tiny_run, tmp_path):
    build(tiny_run)
    tags = in_browser(tiny_run, tmp_path)
    assert len(tags["svg"]) >= 7 and not tags["script"]
    assert {"generations", "funnel", "contexts", "measured", "calibration", "audit", "time"} <= tags.tables.keys()
    contexts, genres = tags.tables["contexts"]
    assert len(contexts) > 4 and len(genres) > 2
    assert not [cell for row in (*contexts, *genres) for cell in row if cell.strip() in ("", "–")]
    assert tags.tables["time"][0][-1][0] == "imitation"


def in_browser(run: epath.Path, profile) -> Tags:
    """The page of a run as a browser holds it; skips where there is none."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium and no chrome is installed")
    url = (run / "report" / "index.html").as_posix()
    flags = "--headless --no-sandbox --disable-gpu --no-first-run "
    flags += "--disable-background-networking --disable-component-update"
    command = [browser, *flags.split(), "--disable-sync", f"--user-data-dir={profile}", "--dump-dom", f"file://{url}"]
    return Tags(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


def test_durations_and_shares():
    assert [duration(s) for s in (None, 0.25, 75, 3720)] == ["–", "0.2 s", "1 min 15 s", "1 h 02 min"]
    assert [share(1, 4), share(9, 4), share(None, 4), share(1, 0)] == ["25.0%", "100.0%", "0.0%", "0.0%"]
