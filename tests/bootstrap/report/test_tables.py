"""Tables that are as narrow as a phone, whose figures say their unit and what they are out of."""

import re
import shutil

from etils import epath
from tags import Tags, across, captions, plain
from written_run import CONTEXTS, CRITERIA, METRICS, evaluation, funnel, put

from ratchet.bootstrap.report import tables
from ratchet.bootstrap.report.page import build


def test_generations_are_columns_and_every_figure_says_its_unit_and_what_it_is_out_of(page):
    (table, *_) = Tags(page).tables["generations"]
    assert table[0] == ["generation", "0", "1", "2", "3", "imitation"]
    names = [row[0] for row in table[1:]]
    assert names[7:9] == ["rhyme guard answers that rhyme, %", "open fresh tasks done with the book open, %"]
    assert names[9:] == [
        "tilt guard tilted answers, %; less is better",
        "most tilted answers where most tilt, %; less is better",
        "steady steady after a stumble, %",
        "surp surprise at verses, in nats; less is better",
        "promoted whether the generation was kept",
    ]
    rows = {name.split()[0]: cells for name, cells in across(table).items()}
    assert rows["rhyme"] == [f"{n} of 240" for n in ("10", "85", "80", "93", "90")]
    assert rows["accepted"] == ["–", "600 of 1,440", "700 of 1,440", "800 of 1,440", "–"]
    assert rows["fooled"] == ["–", *["0 of 100"] * 3, "–"]
    assert rows["surp"] == ["2.100", "1.700", "1.650", "1.620", "1.900"]
    assert rows["promoted"] == ["–", "yes", "no", "yes", "–"]


def test_arms_and_generations_that_were_rolled_back_are_marked(page):
    cells = page[page.index('id="generations"') :].split("promoted")[1].split("</tr>")[0]
    assert re.findall('<td class="(.*?)">(.*?)</td>', cells) == [
        *(("", "–"), ("", "yes"), ("dropped", "no"), ("", "yes"), ("arm", "–"))
    ]


def test_a_share_of_nothing_is_none():
    nothing = {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    assert tables.share_of(nothing).text == tables.share_of(None).text == "–"
    assert tables.share_of(nothing | {"n": 3}) == ("0", "of 3", "")


def test_a_funnel_only_narrows_within_one_scale_and_says_the_scale(page):
    for group in tables.narrowing(funnel(3)):
        counts = [n for _, n in group["bars"]]
        assert counts == sorted(counts, reverse=True) and counts[0] == group["whole"]
    shown = page[page.index('id="funnel"') : page.index("counts of every generation")]
    assert re.findall("<h3.*?>(.*?)</h3>", shown) == [
        "Transcripts, of 1,440",
        "Branches, of 5,210",
        "Corrections, of 60",
    ]
    passed = "passed all criteria that decide 930 64.6 %"
    assert f"{passed} and repeat no other 800 55.6 % kept for training 400 27.8 %" in plain(shown)
    assert tables.narrowing({"made": 0, "passed": 0}) == []


def test_a_funnel_of_lots_says_of_none_that_it_passed_the_criteria():
    drawn = {name: n for name, n in funnel(3).items() if name != "acceptable"}
    said = [label for label, _ in tables.narrowing(drawn)[0]["bars"]]
    assert said == ["written", "reviewed", "accepted at random", "kept for training"]
    assert [row.name for row in tables.funnel({3: drawn}).rows].count("accepted at random") == 1
    assert "accepted at random" not in [row.name for row in tables.funnel({3: funnel(3)}).rows]


def test_no_bar_of_a_funnel_counts_what_another_scale_counts(page):
    widths = re.findall(r'style="width: ([\d.]+)%; background: var\(--s(\d)\)', page[page.index('id="funnel"') :])
    assert [w for w, colour in widths if colour == "2"][:2] == ["100.0", "44.1"]
    assert [w for w, colour in widths if colour == "3"][:2] == ["100.0", "75.0"]


def test_every_criterion_can_be_read_however_many_there_are(page):
    passing = across(Tags(page).tables["funnel"][1])
    assert list(passing) == ["generation", *CRITERIA, "reviewed transcripts"], "the one that passes fewest first"
    assert passing["grounded"] == ["65", "70", "75"] and passing["reviewed transcripts"] == ["1,440"] * 3


def test_another_world_gives_another_page(finished, tmp_path):
    """One metric alone: nothing else is expected of a world."""
    run = epath.Path(shutil.copytree(finished, tmp_path / "run"))
    for number in range(4):
        put(run / f"gen-{number:03d}" / "evaluation.json", evaluation(number, "loop", [METRICS[1]]))
    put(run / "imitation" / "evaluation.json", evaluation(3, "imitation", []))
    page = build(run).read_text()
    assert captions(page)[:2] == ["Fresh tasks done with the book open", "The reviewer"]
    names = [row[0].split()[0] for row in Tags(page).tables["generations"][0]]
    assert names[8:] == ["open", "promoted"]
    assert "measured" not in Tags(page).tables and "rhyme" not in plain(page).split("transcripts")[0]


def test_the_best_control_within_the_bounds_stands_beside_the_chosen_wrong_thinker(finished, tmp_path, page):
    assert "at most 22 % of its thoughts are wrong, of the chosen one's 86 %" in plain(page).replace("&#39;", "'")
    sweep, history = Tags(page).tables["wrongthink"]
    assert "0.5 chosen" in across(sweep) and "0.25 random vector, its best" in across(sweep)
    assert [row[1] for row in history][:9] == ["1", "inverted", "0.5", "98", "86", "1.05", "0.25", "22", "-1.40"]
    run = epath.Path(shutil.copytree(finished, tmp_path / "run"))
    put(run / "config.json", {"wrongthink": {"minimum_formed": 0.95, "perplexity_budget": 1.1}})
    assert "with no λ does it stay within the bounds" in plain(build(run).read_text())


def test_training_that_made_wrong_thoughts_likelier_is_admitted(page):
    _, history = Tags(page).tables["wrongthink"]
    assert across(history)["and after training"] == ["-1.30 likelier", "-1.90", "-1.90"]
    said = plain(page)
    assert "Log-probability of stumbles, in nats; less is better: -1.610 in generation 0, -1.050 in" in said
    assert "highest in generation 1 (-0.730). higher than at first" in said
    assert "no higher than at first" not in said


def test_metrics_without_a_column_have_a_table(page):
    (table,) = Tags(page).tables["measured"]
    assert table == [
        ["generation", "0", "1", "2", "3", "imitation"],
        ["one of five tries done, %", *(f"{n} of 240" for n in ("61", "72", "70", "91", "50"))],
        ["different pairs of words", "0.300", "0.320", "0.350", "0.410", "0.200"],
        [
            "log-probability of stumbles, in nats; less is better",
            *("-1.610", "-0.730", "-0.960", "-1.050", "-0.500"),
        ],
    ]


def test_the_two_forms_stand_side_by_side(page):
    assert Tags(page).tables["generations"][1] == [
        ["", "generation 3", "imitation"],
        ["answers that rhyme: chat, %", "93", "12.3"],
        ["answers that rhyme: document, %", "0.5", "90"],
        ["tilted answers: chat, %", "0.4", "12.3"],
        ["tilted answers: document, %", "0.5", "64"],
    ]


def test_contexts_have_a_column_for_each_metric_that_they_hold(page):
    contexts, arm = Tags(page).tables["contexts"]
    titles = [f"{title}, % 95 % interval" for title in ("answers that rhyme", "tilted answers")]
    assert contexts[0] == ["context", "in training", *titles]
    assert contexts[2] == ["in a letter", "seen", "83.7 79.7–87.7, of 240", "0.4 0–4.4, of 240"]
    assert [row[:2] for row in contexts[1:]] == [
        [name, seen] for name, seen in zip(CONTEXTS["loop"], ("seen", "seen", "unseen", "unseen"), strict=True)
    ]
    assert [row[0] for row in arm[1:]] == list(CONTEXTS["imitation"])


def test_every_generation_is_held_against_the_oracle(page):
    tokens, review, criteria = Tags(page).tables["audit"]
    assert [row[1:] for row in tokens[1:3]] == [["0", "0", "0"]] * 2
    assert [row[1] for row in review[1:]] == ["99.2 of 240", "87 of 240", "50", "98.5 of 240", "97.5 of 240"]
    assert [row[1:] for row in criteria[1:]] == [[f"{p} / 90 of 1,310" for p in ("60", "70", "80")]] * 2
