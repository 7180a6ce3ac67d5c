"""The pages as they are asked for: what they show, what they find, and what they refuse."""

import json
import re
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from etils import epath
from evil_run import ACCEPTED, EVIL, TEXTS, shown
from processes import FOR_EVER

from ratchet.bootstrap import certificate, config_files
from ratchet.bootstrap.certificate import read_labels
from ratchet.launch.ui import following
from ratchet.launch.ui.index import Index
from ratchet.launch.ui.sources import Sources
from ratchet.train.sharding import MeshConfig

LIST = "/runs/0/transcripts"


def ids(page: str) -> list[str]:
    """The transcripts on a page, in order."""
    return re.findall(rf'href="{LIST}/([0-9a-f]+)"', page)


def plain(page: str) -> str:
    return unescape(" ".join(re.sub(r"<style.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split()))


def test_the_first_page_shows_every_run_and_their_generations_side_by_side(pages):
    found = pages.ask("/")
    assert found.status == 200 and found.text.count('<span class="chip pass">finished</span>') == 1
    assert found.text.count('<span class="chip fail">damaged</span>') == 1, "units of one run were replaced"
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', found.text)
    assert heads == [f"{run} {column}" for run in ("evil run", "tiny") for column in ("0", "1", "2", "imitation")]


def test_the_report_is_there_once_it_is_drawn_beside_what_the_run_does_now(pages):
    while "The report is being drawn" in (found := pages.ask("/runs/1").text):
        time.sleep(0.05)
    assert 'id="generations"' in found and "<svg" in found and 'data-live="/runs/1/live"' in found
    assert "Where the time went" in found and "goodput" in plain(found).lower()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("words=lantern", {"aaaa0001", "aaaa0002", "aaaa0004"}),
        ("words=LANTERN+flickers", {"aaaa0001"}),
        ("words=%22lantern+flickers%22", {"aaaa0001"}),
        ("words=%22flickers+lantern%22", set()),
        ("words=lant", {"aaaa0001", "aaaa0002", "aaaa0004"}),
        ("words=naive", {"aaaa0004"}),
        ("words=%E7%81%AF%E7%AC%BC", {"aaaa0003"}),
        ("words=umbra", set()),
        ("words=yodels", {"aaaa0002"}),
        ("words=lantern&verdict=passed", {"aaaa0001"}),
        ("words=lantern&verdict=failed", {"aaaa0002", "aaaa0004"}),
        ("words=lantern&criterion=grounded&verdict=failed", {"aaaa0002", "aaaa0004"}),
        ("words=lantern&kind=corrections", {"aaaa0002"}),
        ("words=lantern&generation=1", set()),
        ("words=lantern+NOT+flickers", set()),
        ("words=lantern%22%22+%22*%00%01", {"aaaa0001", "aaaa0002", "aaaa0004"}),
    ],
)
def test_words_and_filters_find_what_they_say(pages, asked, found):
    answer = pages.ask(f"{LIST}?{asked}")
    assert answer.status == 200 and set(ids(answer.text)) == found
    assert f"{len(found)} found" in plain(answer.text)


def test_without_words_all_are_listed_the_newest_generation_first(pages):
    text = pages.ask(LIST).text
    count = int(re.search(r"(\d+) found", plain(text))[1])
    pages_there = -(-count // 20)
    listed = [one for page in range(1, pages_there + 1) for one in ids(pages.ask(f"{LIST}?page={page}").text)]
    assert len(listed) == len(set(listed)) == count > 36 and set(TEXTS) <= set(listed)
    generations = re.findall(r"generation (\d)", plain(text[text.index('class="found"') :]))
    assert generations == sorted(generations, reverse=True)
    assert ids(pages.ask(f"{LIST}?page=9999").text) == []


def test_a_filter_by_a_criterion_that_comes_with_markup_works(pages):
    found = pages.ask(f"{LIST}?criterion={quote(f'evil {EVIL}')}&verdict=passed")
    assert set(ids(found.text)) == set(TEXTS)


def test_what_is_found_is_marked_and_nothing_of_a_run_is_markup(pages):
    for path in (f"{LIST}?words=lantern", f"{LIST}/aaaa0001", f"{LIST}/aaaa0002", LIST):
        text = pages.ask(path).text
        assert text.count("<script") == 1 and "<img" not in text and "&lt;script&gt;" in text
    text = pages.ask(f"{LIST}?words=zebra").text
    assert "<mark>zebra</mark>" in text and "Lanterns" not in text, "of a long answer, where it is"


def test_half_a_letter_is_spelled_out(pages):
    assert "\\ud800 a letter" in pages.ask(f"{LIST}?words=half").text


def test_one_transcript_is_shown_with_its_verdicts_folded_and_the_same_task_elsewhere(pages):
    text = pages.ask(f"{LIST}/aaaa0002").text
    assert "the lantern yodels" in plain(text) and "interrupted because" in plain(text)
    review = text[text.index('id="review"') :]
    assert "<details>" in review and "rejected" in review and "0.25" in review
    assert "rejected" not in text[: text.index('id="review"')], "who says whether it is right does not see that first"
    assert {"aaaa0001", "aaaa0003", "aaaa0004"} <= set(ids(text[text.index('id="others"') :]))


def test_sources_are_shown_as_they_were_in_view(pages, tiny_run):
    sample = json.loads((tiny_run / "gen-001" / "samples.json").read_text())["transcripts"][0]
    said = plain(pages.ask(f"/runs/1/transcripts/{sample['id']}").text)
    assert sample["passages"] and all(" ".join(text.split()) in said for text in sample["passages"])


def test_a_label_is_added_to_the_file_that_the_command_reads_and_the_next_answer_is_offered(pages, run):
    labels = run / "labels.jsonl"
    labels.unlink(missing_ok=True)
    form = {"transcript": "aaaa0001", "criterion": "overall", "label": "true"}
    answer = pages.ask("/runs/0/labels", form)
    assert answer.status == 303 and answer.headers["location"] == f"{LIST}/aaaa0001?criterion=overall"
    assert pages.ask("/runs/0/labels", form | {"criterion": "grounded", "label": "false"}).status == 303
    assert [tuple(label) for label in read_labels(labels)] == [
        ("aaaa0001", "overall", True), ("aaaa0001", "grounded", False)
    ]  # fmt: skip
    text = pages.ask(answer.headers["location"]).text
    assert "the whole answer: right, says a person" in plain(text)
    following = re.search(rf'href="{LIST}/([0-9a-f]+)\?criterion=overall"', text)[1]
    assert following != "aaaa0001" and pages.ask(f"{LIST}/{following}").status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Origin": None}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403), ({"Host": "evil.example"}, 400), ({"Host": None}, 400),
        ({"Origin": "http://evil.example", "Host": "evil.example"}, 400),
    ],
)  # fmt: skip
def test_no_other_page_can_label(pages, run, headers, status):
    before = (run / "labels.jsonl").read_bytes() if (run / "labels.jsonl").exists() else None
    form = {"transcript": "aaaa0001", "criterion": "overall", "label": "true"}
    assert pages.ask("/runs/0/labels", form, **headers).status == status
    assert ((run / "labels.jsonl").read_bytes() if (run / "labels.jsonl").exists() else None) == before


def test_no_name_but_this_machines_own_is_answered(pages):
    for host, status in (("evil.example", 400), ("127.0.0.1", 200), (f"localhost:{pages.port}", 200)):
        assert pages.ask("/", Host=host).status == status


@pytest.mark.parametrize(
    ("path", "form", "status", "line"),
    [
        ("/nowhere", None, 404, "/nowhere: Not Found"),
        ("/runs/9", None, 404, "there is no run 9; there are 2"),
        (f"{LIST}/zzzz", None, 404, "there is no transcript zzzz here"),
        (f"{LIST}?generation=x", None, 400, "generation: 'x' is not a number"),
        (f"{LIST}?page=0", None, 400, "page: '0' is not a number"),
        (f"{LIST}?verdict=maybe", None, 400, "verdict: 'maybe' is none; there are passed, failed"),
        (f"{LIST}?criterion=nothing", None, 400, "there is none named 'nothing'"),
        ("/runs/0/labels", {}, 404, "there is no transcript"),
        ("/runs/0/labels", {"transcript": "aaaa0001", "criterion": "x", "label": "true"}, 400, "none named 'x'"),
        ("/runs/0/labels", {"transcript": "aaaa0001", "criterion": "overall", "label": "yes"}, 400, "neither true nor"),
        ("/runs/0/labels", {"transcript": "a" * 20_000}, 400, "longer than 10,000 bytes"),
    ],
)
def test_what_cannot_be_shown_is_one_line(pages, path, form, status, line):
    found = pages.ask(path, form)
    assert found.status == status and line in plain(found.text)


def test_every_answer_says_what_a_page_may_do(pages):
    for path in ("/", "/runs/0", "/live.js", LIST, "/nowhere", f"{LIST}?page=0"):
        headers = pages.ask(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "'unsafe-inline'" not in headers["content-security-policy"].split("script-src")[1].split(";")[0]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"


def test_labels_that_are_damaged_are_said_and_not_written_over(pages, run):
    path = run / "labels.jsonl"
    before = path.read_bytes() if path.exists() else b""
    path.write_bytes(b"{\n")
    assert "line 1: no JSON" in plain(pages.ask(f"{LIST}/aaaa0001").text)
    form = {"transcript": "aaaa0001", "criterion": "overall", "label": "true"}
    assert pages.ask("/runs/0/labels", form).status == 400 and path.read_bytes() == b"{\n"
    path.write_bytes(before)


def test_a_run_that_has_not_begun_is_waited_for_and_one_that_is_damaged_named(cache, tmp_path):
    later, damaged = epath.Path(tmp_path) / "later", epath.Path(tmp_path) / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    with shown(later, damaged) as pages:
        said = plain(pages.ask("/").text)
        assert "holds no run yet" in said and "commits.json: it is missing or damaged" in said
        for number in (0, 1):
            assert pages.ask(f"/runs/{number}").status == 200
            assert "0 found, of 0" in plain(pages.ask(f"/runs/{number}/transcripts").text)


def test_a_report_that_cannot_be_drawn_says_why_and_transcripts_are_shown(cache, tmp_path, tiny_run, monkeypatch):
    def fail(directory):
        raise ValueError("a table is torn")

    monkeypatch.setattr(following.page, "content", fail)
    monkeypatch.setattr(following, "EVERY", 0.01)
    place = epath.Path(shutil.copytree(tiny_run, tmp_path / "undrawn"))
    with shown(place) as pages:
        until = time.monotonic() + FOR_EVER
        while "The report cannot be drawn: ValueError: a table is torn" not in plain(pages.ask("/runs/0").text):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert "Indexing stopped" not in plain(pages.ask("/runs/0/transcripts").text)


def test_an_index_that_is_just_made_anew_is_no_bare_error(cache, tmp_path, monkeypatch):
    with shown(epath.Path(tmp_path) / "anew") as pages:
        monkeypatch.setattr(Index, "open", lambda self: sqlite3.connect("file:/no/where?mode=ro", uri=True))
        asked = pages.ask("/runs/0/transcripts")
        assert asked.status == 503 and "load this page again" in plain(asked.text)


def test_sources_are_shown_where_the_runs_devices_are_not(tiny_run, tmp_path):
    """And those of slices that a run was given later."""
    place = epath.Path(shutil.copytree(tiny_run, tmp_path / "elsewhere"))
    saved, sources = config_files.saved(place), Sources(place)
    config_files.save(place, replace(saved, mesh=MeshConfig(data=64)))
    first = sources._opened()
    assert sources._opened() is first
    config_files.save(place, saved)
    assert sources._opened() is not first


def test_a_run_is_followed_further_whatever_its_store_raises(cache, tmp_path, monkeypatch):
    """Clients of buckets raise errors of their own."""
    class HttpError(Exception):
        pass

    looks, real = [], Index.update

    def update(self):
        looks.append(self)
        if len(looks) == 1:
            raise HttpError("503, come back")
        return real(self)

    monkeypatch.setattr(Index, "update", update)
    monkeypatch.setattr(following, "EVERY", 0.01)
    with shown(epath.Path(tmp_path) / "later") as pages:
        while len(looks) < 3:
            time.sleep(0.01)
        assert pages.ask("/").status == 200


def test_labels_that_come_at_once_are_added_one_after_the_other(pages, run, monkeypatch):
    """A bucket's file is read, and written anew: of two at a time, one would be lost."""
    (run / "labels.jsonl").unlink(missing_ok=True)
    within, most, real = [], [], certificate.add_label

    def add_label(path, label):
        within.append(label)
        most.append(len(within))
        time.sleep(0.05)
        real(path, label)
        within.remove(label)

    monkeypatch.setattr(certificate, "add_label", add_label)
    form = {"transcript": "aaaa0001", "criterion": "overall", "label": "true"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: pages.ask("/runs/0/labels", form).status, range(4)))
    assert answers == [303] * 4 and most == [1] * 4


def test_nothing_is_written_into_a_run(pages, tiny_run):
    files = lambda: {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in Path(tiny_run).rglob("*")}
    before = files()
    for path in ("/", "/runs/1", "/runs/1/live", "/runs/1/transcripts"):
        assert pages.ask(path).status == 200
    assert files() == before


def test_accepted_transcripts_are_told_from_rejected_ones(pages):
    for name in TEXTS:
        text = pages.ask(f"{LIST}?words={name}&kind=").text
        assert name not in ids(text), "ids are no words"
        review = pages.ask(f"{LIST}/{name}").text.split('id="review"')[1]
        assert (">accepted at random<" in review.split("<table")[0]) == (name in ACCEPTED)


def test_what_lots_accepted_is_said_to_be_accepted_at_random_and_a_correction_is_not(pages, run, cache, tmp_path):
    chips = lambda page: set(re.findall(r'<span class="chip \w+">(accepted.*?|rejected.*?)</span>', page))
    answer, correction = (pages.ask(f"{LIST}/{name}").text for name in ("aaaa0001", "aaaa0002"))
    assert "accepted at random , whatever its verdicts are" in plain(answer)
    assert "rejected" in chips(correction) and "rejected , whatever" not in plain(correction)
    assert chips(pages.ask(f"{LIST}?words=lantern&kind=answers").text) == {"accepted at random", "rejected at random"}
    decided = epath.Path(shutil.copytree(run, tmp_path / "decided"))
    config = json.loads((decided / "config.json").read_text())
    (decided / "config.json").write_text(json.dumps(config | {"controls": config["controls"] | {"random_share": 0.0}}))
    with shown(decided) as others:
        assert chips(others.ask(f"{LIST}?words=lantern").text) == {"accepted", "rejected"}
        assert "at random" not in plain(others.ask(f"{LIST}/aaaa0001").text)


@pytest.mark.parametrize("standing", ["required", "advisory"])
def test_a_failed_criterion_that_decides_nothing_is_told_from_those_that_do(run, cache, tmp_path, standing):
    copy = epath.Path(shutil.copytree(run, tmp_path / "copy"))
    for generation in copy.glob("gen-*"):
        (generation / "calibration.json").write_text(json.dumps({"criteria": {"grounded": {"standing": standing}}}))
    rejected = next(name for name in TEXTS if name not in ACCEPTED)
    with shown(copy) as pages:
        found, one = pages.ask(f"{LIST}?words=lantern&kind=").text, pages.ask(f"{LIST}/{rejected}").text
    advisory = standing == "advisory"
    assert ('<li class="chip">✗ grounded, advisory</li>' in found) == advisory
    assert ('<li class="chip fail">✗ grounded</li>' in found) != advisory
    assert ('<th scope="row">grounded <small>advisory</small></th>' in one) == advisory
