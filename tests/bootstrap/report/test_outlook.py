import json

import pytest
from etils import epath
from written_run import put

from ratchet.bootstrap.report.outlook import Left, Outlook, Stage, in_words, outlook, roughly


def stages(*seconds):
    """Two generations of training and review, done as far as seconds are given."""
    planned = (("train", 10), ("review", 4), ("train", 30), ("review", 8), ("write", 1))
    took = [*seconds, *(None for _ in planned[len(seconds) :])]
    return Outlook(tuple(Stage("gen", name, work, s) for (name, work), s in zip(planned, took, strict=True)))


@pytest.mark.parametrize(
    ("seconds", "spent", "ahead", "left", "missing"),
    [
        ((), 0.0, None, 0.0, ("train", "review", "write")),
        ((), 5.0, 5.0, 5.0 + 30.0, ("review", "write")),
        ((20.0,), 0.0, None, 60.0, ("review", "write")),
        ((20.0, 4.0), 0.0, None, 60.0 + 8.0, ("write",)),
        ((20.0, 4.0), 25.0, None, 35.0 + 8.0, ("write",)),
        ((20.0, 4.0), 100.0, None, 0.0 + 8.0, ("write",)),
        ((20.0, 4.0, 60.0, 8.0), 1.0, 3.0, 3.0, ()),
        ((20.0, 4.0, 60.0, 8.0, 1.0), 0.0, None, 0.0, ()),
    ],
)
def test_what_is_left_follows_from_what_was_measured_and_says_what_was_not(seconds, spent, ahead, left, missing):
    assert stages(*seconds).left(spent, ahead) == (left, left, missing)


@pytest.mark.parametrize(
    ("seconds", "spent", "ahead", "low", "high"),
    [
        ((), 0.0, None, 60.0, 180.0),
        ((), 10.0, None, 50.0, 170.0),
        ((), 25.0, None, 40.0, 155.0),
        ((), 5.0, 10.0, 10.0 + 45.0 + 20.0, 10.0 + 45.0 + 60.0),
        ((8.0,), 0.0, None, 20.0 + 24.0, 60.0 + 24.0),
        ((8.0, 2.0, 24.0), 0.0, None, 4.0, 4.0),
    ],
)
def test_what_was_forecast_counts_until_it_is_measured(seconds, spent, ahead, low, high):
    """Two generations of training, 20 to 60 seconds each, and of review, 10 to 30."""
    planned = (("train", 10, (20.0, 60.0)), ("review", 4, (10.0, 30.0)), ("train", 30, (20.0, 60.0)))
    planned = (*planned, ("review", 8, (10.0, 30.0)))
    took = [*seconds, *(None for _ in planned[len(seconds) :])]
    made = (Stage("gen", name, work, s, e) for (name, work, e), s in zip(planned, took, strict=True))
    assert Outlook(tuple(made)).left(spent, ahead) == (low, high, ())


def test_the_time_that_compiled_counts_until_there_is_another():
    made = [Stage("gen", "train", *one) for one in ((10, 100.0), (30, 60.0), (15,), (5,))]
    assert Outlook((made[0], *made[2:])).left() == (200.0, 200.0, ())
    assert Outlook(tuple(made)).left() == (40.0, 40.0, ())
    assert Outlook(tuple(made)).left(spent=10.0, ahead=35.0) == (35.0 + 5 * 105.0 / 45, 35.0 + 5 * 105.0 / 45, ())


def test_the_current_stage_is_the_first_that_is_not_done():
    assert (stages().number, stages().current.name) == (1, "train")
    assert (stages(1.0, 1.0).number, stages(1.0, 1.0).current.work) == (3, 30)
    assert stages(1.0).is_current("gen 2 review") and not stages(1.0).is_current("gen 2 train (anti)")
    done = stages(*[1.0] * 5)
    assert (done.number, done.current, done.is_current("gen 2 review")) == (6, None, False)


def test_what_lies_ahead_is_counted_and_timed_only_where_it_was_measured():
    assert stages().announced().startswith("5 stages, 40 examples to train, 0 answers to write; how long")
    assert stages(20.0, 4.0).announced() == "stage 3 of 5, at least 68 s left in all"
    known = Outlook((Stage("gen", "train", 40, None, (300.0, 900.0)), Stage("gen", "simulate", 7, None, (5.0, 10.0))))
    assert known.announced() == "5 to 15 min left in all: 2 stages, 40 examples to train, 7 answers to write"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (840, "14 min"), (5400, "1.5 h"), (86_400, "24 h"), (4e5, "5 days")],
)
def test_times_are_said_no_more_exactly_than_they_are_known(seconds, words):
    assert roughly(seconds) == words


def test_a_time_is_said_to_be_all_only_when_every_stage_was_measured():
    assert in_words(Left(840.0, 840.0)) == "about 14 min left in all"
    assert in_words(Left(840.0, 900.0)) == "about 15 min left in all"
    assert in_words(Left(840.0, 840.0, ("review",))) == "at least 14 min left in all"
    assert in_words(Left(0.0, 0.0, ("review",))) == "time in all not known yet"


def test_what_is_only_forecast_is_said_with_its_bounds():
    assert in_words(Left(300.0, 1200.0)) == "5 to 20 min left in all"
    assert in_words(Left(40.0, 1200.0)) == "40 s to 20 min left in all"
    assert in_words(Left(1200.0, 9000.0)) == "20 min to 2.5 h left in all"
    assert in_words(Left(40.0, 400_000.0)) == "40 s to 5 days left in all"


def test_a_stage_that_several_processes_did_took_as_long_as_all_of_them(tmp_path):
    """The first was killed a minute after it had kept nine of ten parts of a training; the second did the tenth. Then
    it was killed in the next training, a third of which was kept."""
    run, of = epath.Path(tmp_path), {"custom_badput_event_type": "train", "place": "gen-001"}
    planned = [{"place": f"gen-{n:03d}", "stage": "train", "work": 100} for n in (1, 2, 3)]
    put(run / "plan.json", {"stages": [{"place": "gen-000", "stage": "train", "work": 1}, *planned]})
    put(run / "gen-000" / "stages.json", {"train": 1000.0})
    put(run / "gen-001" / "stages.json", {"train": 60.0})
    begin, end = (lambda at, of=of, a=a: of | {f"custom_badput_event_{a}_time": at} for a in ("start", "end"))
    later = of | {"place": "gen-002"}
    events = [
        {"job_start_time": 0.0}, begin(10.0), end(550.0), begin(550.0),
        {"job_start_time": 700.0}, begin(710.0), end(770.0),
        begin(780.0, later), end(980.0, later), begin(980.0, later),
        {"job_start_time": 2000.0}, begin(2010.0, later),
    ]  # fmt: skip
    (run / "goodput.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    found = outlook(run)
    assert [s.seconds for s in found.stages] == [1000.0, 600.0, None, None]
    assert found.current.begun == 200.0 and found.left() == (400.0 + 600.0, 400.0 + 600.0, ())
    assert found.left(spent=50.0) == (350.0 + 600.0, 350.0 + 600.0, ())
    rate = (600.0 + 200.0 + 50.0 + 350.0) / 200
    assert found.left(spent=50.0, ahead=350.0) == (350.0 + 100 * rate, 350.0 + 100 * rate, ())
    now = outlook(run, now=2060.0)
    assert now.current.begun == 250.0 and now.left() == found.left(spent=50.0)
