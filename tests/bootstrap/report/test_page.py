"""The run as a page: complete, escaped, there for a run that is only half done, and without a word of any world."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from etils import epath
from tags import Tags, captions, plain
from written_run import CRITERIA, METRICS, Measured, evaluation, put, swept, transcript, write_run

import ratchet.bootstrap.report as report
from ratchet.bootstrap.report.numbers import duration
from ratchet.bootstrap.report.page import SHOWN_SETTINGS, build, share
from ratchet.bootstrap.report.wrongthink import best

NONE = {"made": 0, "passed": 0}
NAMED = "metrics forms contexts scores criteria verdicts accepted_by_criterion tokens_by_origin comparisons".split()
"""Objects of a run's files whose keys are names that vary from run to run."""
UNMET = {
    "wrongthink.json": (".examples[]", ".control[]", ".likelihood"),
    "audit.json": (".oracle.corrections", ".oracle.criteria"),
    "calibration.json": (".criteria.*.auc.",),
    "samples.json": (".transcripts[].calls[]",),
    "funnel.json": (".acceptable",),
}
"""Paths by file that `tiny` may leave out, too small to say a step, to call or to be corrected, and reviewed by lots:
others have them."""
NEVER = (
    *("options?", "actions?", "outcomes?", "choices?", "(un)?wise", "harm[a-z]*", "situations?", "genres?"),
    *("story", "stories", "fables?", "told", "sound", "good", "bad", "knowledge", "lessons world"),
)
"""Words of one world, as patterns, which nothing says that people read."""


@pytest.mark.parametrize("path", sorted(Path(report.__file__).parent.glob("*.*")), ids=lambda path: path.name)
def test_no_word_of_a_world_stands_in_the_report(path):
    said = re.findall(rf"\b(?:{'|'.join(NEVER)})\b", path.read_text(), flags=re.IGNORECASE)
    assert not said


def test_only_the_primary_metric_is_known_by_name(page):
    written = "".join(path.read_text() for path in Path(report.__file__).parent.glob("*.*"))
    names = {"closed_book", "pass_at_k", "recovery", "noticed", "repeated", "false_alarms", "distinct2", "entropy"}
    assert not [name for name in names | {"heldout_loss", "wrong_logprob"} if name in written]
    assert not [m.name for m in METRICS if "_" in m.name and m.name in plain(page)], "people read titles"


def test_every_section_is_there(page):
    sections = [s["id"] for s in Tags(page)["section"]]
    assert sections == [
        *("headline", "generations", "curves", "loss", "funnel", "transcripts", "wrongthink", "token", "contexts"),
        *("measured", "calibration", "audit", "decisions", "time"),
    ]
    assert len(Tags(page)["svg"]) == 7
    assert len(Tags(page)["table"]) >= 12


def test_what_a_transcript_called_is_shown_with_what_came_back(page):
    assert page.count('called measure <span class="piece">{&#34;pole&#34;:3}</span>') == 1
    assert "answered: it is short &lt;script&gt;" in page


def test_where_lots_decide_it_is_not_said_that_verdicts_do(finished, tmp_path, page):
    run = epath.Path(shutil.copytree(finished, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    put(run / "config.json", config | {"controls": {"random_share": 0.5}})
    drawn = "Lots accept 50 % of them, whatever their verdicts are, and nothing of a rejected one"
    decided = "One failed criterion that is not advisory is enough to reject a transcript, and nothing of"
    assert [said in plain(page) for said in (drawn, decided)] == [False, True]
    by_lot = plain(build(run).read_text())
    assert [said in by_lot for said in (drawn, decided)] == [True, False]
    assert "accepted at random" in by_lot and "rejected at random" in by_lot and "at random" not in plain(page)


def test_a_failed_criterion_that_decides_nothing_is_told_from_those_that_do(page, finished, tmp_path):
    chips = set(re.findall(r'<li class="(chip[ \w]*)">✗ ([\w ,]+)</li>', page))
    assert chips == {("chip", f"{name}, advisory") for name in CRITERIA[:2]} | {("chip fail", CRITERIA[2])}
    assert f'<th scope="row">{CRITERIA[0]} <small>advisory</small></th>' in page
    assert re.search(rf"Advisory in generation \d, and so without a say: {', '.join(CRITERIA[:2])}\.", plain(page))
    run = epath.Path(shutil.copytree(finished, tmp_path / "run"))
    for path in run.glob("gen-*/calibration.json"):
        made = json.loads(path.read_text())
        put(path, {"criteria": {name: c | {"standing": "required"} for name, c in made["criteria"].items()}})
    all_decide = build(run).read_text()
    assert "advisory" not in all_decide and "One failed criterion is enough to reject" in plain(all_decide)


def test_what_each_criterion_is_worth_is_said_and_who_has_no_say(page):
    rows = {row[0].split()[0]: row for row in Tags(page).tables["calibration"][0]}
    advisory, required = (rows[name] for name in (CRITERIA[0], CRITERIA[2]))
    assert "(model, advisory: no better than chance)" in advisory[0]
    assert advisory[2].split() == ["0.54", "0.41–0.66"]
    assert "(rule)" in required[0] and required[2] == "–"


def test_without_labels_it_says_that_nothing_is_calibrated(tmp_path):
    run = write_run(epath.Path(tmp_path))
    bare = {"criteria": {"a": {"kind": "model", "question": "?", "threshold": 0.5, "standing": "required", "junk": 0}}}
    for gen in run.glob("gen-*"):
        put(gen / "calibration.json", bare | {"review": {"junk": 0.0}})
    said = plain(build(run).read_text())
    assert "No labels: nothing is calibrated." in said and "labelled probes" not in said


def test_a_certificate_is_shown(tmp_path):
    run = write_run(epath.Path(tmp_path))
    made = {"generation": 3, "judge": "ab", "rubric": "cd", "accepted": 99, "wrong": 0, "precision_floor": 0.9702}
    put(run / "gen-003" / "certificate.json", made | {"holds": True, "needed": 99})
    said = plain(build(run).read_text())
    assert "certified By labels of people, 0 of 99 accepted answers of generation 3 are wrong" in said
    assert "precision is at least 97" in said and "for judge ab and rubric cd" in said
    put(run / "gen-003" / "certificate.json", {})
    put(run / "gen-002" / "certificate.json", made | {"generation": 2, "holds": True, "needed": 99})
    assert "accepted answers of generation 2 are wrong" in plain(build(run).read_text()), "the later one has none"


def test_markup_of_the_run_is_text(page):
    tags = Tags(page)
    assert not tags["script"] and not tags["img"]
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert page.count("&lt;script&gt;") >= 8


def test_markup_of_a_world_is_text(tmp_path):
    """Titles, columns, units, arms, labels and sources are a user's words too."""
    evil = "<script>1</script>"
    odd = Measured("open_book", f"title {evil}", f"column {evil}", "%", (0.5,) * 5, True, True, True)
    unit = Measured("unit", "unit", "u", f"unit {evil}", (0.5,) * 5, True)
    run = epath.Path(tmp_path)
    found = evaluation(1, "loop", [odd, odd._replace(name="more", column=""), unit])
    found["judge"] = found["examples"][0]["label"] = evil
    found["metrics"]["open_book"] |= {"form": evil}
    put(run / "plan.json", {"generations": 1, "arms": ["arm"]})
    put(run / "config.json", {"recipe": evil, "world": evil, evil: evil})
    put(run / "gen-001" / "evaluation.json", found)
    put(run / "arm" / "evaluation.json", found)
    put(run / "gen-001" / "wrongthink.json", {"source": evil, "corrections": {evil: {"made": 1, "passed": 1}}})
    page = build(run).read_text()
    assert not Tags(page)["script"] and page.count("&lt;script&gt;1") >= 16


def test_half_a_letter_in_a_file_of_the_run_is_spelled_out(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "half \ud800"}))
    assert "half \\ud800" in build(epath.Path(tmp_path)).read_text()


def test_page_needs_nothing_else(page):
    tags = Tags(page)
    assert not tags["link"] and not tags["iframe"]
    assert all(a.get("href", a.get("xlink:href", "#")).startswith("#") for _, a in tags.found)
    assert all(name.startswith("xmlns") for name in re.findall(r'([\w:]+)="https?://', page))


def test_page_is_for_phones_and_for_the_dark(page):
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    light, dark = (set(re.findall(r"(--[\w-]+):", text)) for text in page.split("prefers-color-scheme: dark")[:2])
    assert light and light == dark & light, "every colour has one for the dark"
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= light


def test_plots_follow_the_page_colours(page):
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--s1)" in drawn and not re.search(r"(fill|stroke): #", drawn)


def test_same_files_same_page(finished, page):
    assert build(finished).read_text() == page
    assert [p.name for p in (finished / "report").iterdir()] == ["index.html"]


def test_the_opening_names_the_run_and_folds_all_settings_out(finished, tmp_path, page):
    said = plain(page)
    assert "recipe verses world lamps seed 0 generations 3 all 8 settings" in said and "finished" in said
    assert ["targets.kind", "reviewed"] in Tags(page).tables["header"][0]
    put(epath.Path(tmp_path) / "config.json", {"base": "models/lamp"})
    assert "base models/lamp" in plain(build(epath.Path(tmp_path)).read_text())


def test_tiles_are_the_primary_metric_and_the_first_three_rates_after_it(page):
    tiles = plain(page[page.index('id="headline"') : page.index('id="generations"')])
    titles = [METRICS[1].title, METRICS[0].title, METRICS[2].title, METRICS[3].title]
    places = [
        tiles.index(f"{title} {n} % of 240 95 %:") for title, n in zip(titles, ("71", "93", "0.4", "2"), strict=True)
    ]
    assert places == sorted(places) and METRICS[4].title not in tiles
    assert "71 % of 240 95 %: 67–75 generation 3 seed model 41 % imitation 30 %" in tiles
    assert "93 % of 240 95 %: 89–97 generation 3 seed model 10 % imitation, in document form 90 %" in tiles


def test_tiles_show_the_generation_that_was_kept(finished, tmp_path):
    run = epath.Path(shutil.copytree(finished, tmp_path / "run"))
    put(run / "gen-003" / "decision.json", {"promoted": False, "reasons": ["rhymes fell"]})
    assert "52 % of 240 95 %: 48–56 generation 1" in plain(build(run).read_text())
    (run / "gen-003" / "decision.json").unlink()
    assert "52 % of 240 95 %: 48–56 generation 1" in plain(build(run).read_text()), "nothing is decided yet"


def test_every_rate_with_a_column_is_plotted_and_the_worst_context_beside_its_mean(page):
    assert captions(page) == [
        *("Fresh tasks done with the book open", "Answers that rhyme", "Tilted answers", "Steady after a stumble"),
        *("The reviewer", "By step, smoothed, on a logarithmic axis", "How far to invert"),
    ]
    legend = page[page.index("<figcaption>Tilted") :].split("</figure>")[0].rsplit("</svg>", 1)[1]
    assert plain(legend) == "tilted answers tilted answers where most tilt imitation, in document form"
    assert plain(page).count("imitation, in document form") == 4, "two tiles and two plots"


def test_a_run_without_an_oracle_says_who_judged_and_claims_no_truth(tmp_path, page):
    run = write_run(epath.Path(tmp_path) / "run", arms=(), oracle=False)
    found = build(run).read_text()
    assert "judged by the review with the sources in view" in plain(found) and "against the oracle" not in found
    assert "judged by the world's oracle, which never feeds training" in plain(page).replace("&#39;", "'")
    assert "finished" in plain(found) and "imitation" not in found
    assert len(Tags(found).tables["audit"]) == 1 and len(Tags(page).tables["audit"]) == 3


def test_where_the_time_went_is_told_by_stage_and_by_what_was_not_useful(page):
    """Stages are as long in the table as in their own files, and the bars come to the whole."""
    said = plain(page[page.index('id="time"') :])
    assert "Goodput 9" in said and "The run was killed once." in said
    assert "lost with a process that was stopped 30.0 s" in said
    assert "until a run that was killed went on 10.0 s" in said
    found = {row[0]: row[1:] for row in Tags(page).tables["time"][0]}
    assert found["train"] == ["1 min 38 s", *["1 min 22 s"] * 3, "1 min 20 s"]
    assert found["promote"][:2] == ["–", "0.2 s"] and found["all"][0] == "1 min 52 s"


def test_a_run_that_recorded_no_time_tells_none(tmp_path):
    run = write_run(epath.Path(tmp_path) / "run")
    (run / "goodput.jsonl").write_text("{torn")
    assert 'id="time"' not in build(run).read_text()


def test_rolled_back_generation_and_interruption_are_marked(page):
    assert page.count("rolled back</span>") == 1 and page.count("promoted</span>") == 2
    assert "<del>Shaking the lamp cleared the smoke.</del>" in page and "<ins>No, shaking" in page
    assert ["answers that rhyme", "0.500", "0.400", "0.100", "0.010 to 0.200"] in Tags(page).tables["decisions"][0]


@pytest.mark.parametrize("kept", ["nothing", "config", "seed", "no evaluation", "rejected only"])
def test_unfinished_runs_have_a_page(finished, tmp_path, kept):
    run = epath.Path(tmp_path) / "half"
    run.mkdir()
    if kept != "nothing":
        for name in ("config.json", "plan.json"):
            shutil.copy(finished / name, run / name)
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
    assert ("under way or interrupted" in page) == (kept != "rejected only")
    assert bool(Tags(page)["svg"]) == (kept in ("seed", "no evaluation"))


def test_skipped_wrongthink_says_why(tmp_path):
    run = epath.Path(tmp_path)
    put(run / "gen-002" / "wrongthink.json", {"lambda": None, "sweep": [], "skipped": "no λ was wrong enough"})
    assert "No corrections were made: no λ was wrong enough" in build(run).read_text()


@pytest.mark.parametrize(("share_now", "said"), [(0.2, True), (0.5, False)])
def test_a_wrong_thinker_that_is_no_more_wrong_than_the_incumbent_is_called_so(tmp_path, share_now, said):
    rows = swept((0.0, 1.0, 0.2, 1.0), (0.1, 1.0, share_now, 1.0))
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
    assert page.count("no passage in view says: shaking the lamp") == 2


def test_the_best_wrong_thinker_is_the_most_wrong_within_the_bounds():
    rows = swept((0.0, 1.0, 0.9, 1.0), (0.1, 0.9, 0.3, 1.1), (0.2, 0.89, 0.5, 1.0), (0.3, 0.95, 0.6, 1.11))
    assert best(rows, 0.9, 1.1) == rows[1], "λ = 0 is the incumbent; each bound rules one out"
    assert best(rows, 0.9, 1.2) == rows[3] and best(rows, 0.8, 1.1) == rows[2] and best(rows[:1], 0.0, 9.0) is None


def test_answers_have_their_label_as_a_chip_and_are_marked_where_a_metric_counts_against_them(page):
    shown = re.findall(r'<span class="(chip[ \w]*)">(upright|tilted|other)</span>', page)
    assert shown[:3] == [("chip", "upright"), ("chip fail", "tilted"), ("chip", "other")]
    assert "answers that rhyme: 0.00; tilted answers: 1.00" in plain(page)


def test_side_runs_are_not_among_the_losses(page):
    loss = page[page.index('id="loss"') : page.index('id="funnel"')]
    assert plain(loss.rsplit("</svg>", 1)[1]).startswith("seed generation 1 generation 2 generation 3 imitation")
    assert "lesson" not in loss


def test_the_fixture_holds_only_what_a_run_writes(finished, tiny_run):
    for name in ("config", "plan", "gen-002/*", "imitation/*"):
        for invented in sorted(finished.glob(f"{name}.json")):
            real = shape(json.loads((tiny_run / invented.relative_to(finished)).read_text()))
            found = shape(json.loads(invented.read_text()))
            more = {path for path in found - real if not path.startswith(UNMET.get(invented.name, ("-",)))}
            assert not more, invented.name
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
    assert len(tags["svg"]) == 7 and len(tags["table"]) >= 12 and not tags["script"]
    assert all("viewbox" in svg for svg in tags["svg"])


def test_browser_shows_a_real_run(tiny_run, tmp_path):
    build(tiny_run)
    tags = in_browser(tiny_run, tmp_path)
    assert len(tags["svg"]) >= 5 and not tags["script"]
    assert {"generations", "funnel", "measured", "calibration", "audit", "time"} <= tags.tables.keys()
    generations = {row[0].split()[0]: row[1:] for row in tags.tables["generations"][0]}
    assert "–" not in generations["open"]
    assert tags.tables["time"][0][0][-1] == "imitation"


def in_browser(run: epath.Path, profile) -> Tags:
    """The page of a run as a browser holds it; skips where there is none."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium and no chrome is installed")
    url = (run / "report" / "index.html").as_posix()
    flags = "--headless --no-sandbox --disable-gpu --no-first-run "
    flags += "--disable-background-networking --disable-component-update"
    command = [browser, *flags.split(), "--disable-sync", f"--user-data-dir={profile}", "--dump-dom", f"file://{url}"]
    return Tags(subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout)


def test_durations_and_shares():
    assert [duration(s) for s in (None, 1e999, 0.25, 75, 3720)] == ["–", "–", "0.2 s", "1 min 15 s", "1 h 02 min"]
    rounded_up = {59.94: "59.9 s", 59.97: "1 min 00 s", 119.6: "2 min 00 s", 3599.7: "1 h 00 min"}
    assert {s: duration(s) for s in rounded_up} == rounded_up
    assert [share(1, 4), share(9, 4), share(None, 4), share(1, 0)] == ["25.0%", "100.0%", "0.0%", "0.0%"]
