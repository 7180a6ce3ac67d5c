"""From a transcript to all about it, and back to what was accepted."""

from dataclasses import replace

import little
import pytest
from etils import epath
from support import changed, transcript

from ratchet.bootstrap import lineage, targets, wrongthink
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.lineage import accepted_answers, reviewed, trace
from ratchet.bootstrap.stages.train import dataset
from ratchet.bootstrap.targets import Branch, Target
from ratchet.bootstrap.transcript import Review, Verdict, to_json


@pytest.fixture
def g(turn, deeds, tokenizer):
    """A generation that has committed four answers, one of them a correction, and a dataset."""
    g = turn(1)
    first, other = g.tasks
    shown = g.run.passages(1)[:2]
    thought = little.answer(deeds, first, (1,))
    right = little.answer(deeds, first)
    made = [transcript(first, right, shown, tokenizer=tokenizer, sibling=n) for n in range(2)]
    made.append(transcript(other, little.answer(deeds, other, (0,)), tokenizer=tokenizer))
    wrong = {"forced": tuple(tokenizer.encode(thought)), "forced_text": thought, "source": "spoiled"}
    correction = transcript(first, "no, so.", tokenizer=tokenizer, fault="says so", **wrong)
    review = lambda t, ok: Review(t.id, {"grounded": Verdict(float(ok), ok, "" if ok else "why")}, ok)
    reviews = [review(t, n < 2) for n, t in enumerate(made)]
    Stage(g.directory / "simulate").unit(0, "", lambda: [to_json(t) for t in made])
    Stage(g.directory / "review").unit(0, "", lambda: [to_json(r) for r in reviews])
    Stage(g.directory / "wrongthink").unit(0, "", lambda: [to_json(correction), to_json(review(correction, True))])
    branch = Branch(0, tokenizer.encode("hums")[0], 0.25, False, "hums", "why")
    kept = [Target(made[0].id, made[0].capture, 0.0, (branch,)), Target(correction.id, correction.capture, 0.0)]
    for stage, one in zip(("targets", "corrections"), kept, strict=True):
        Stage(g.directory / stage).unit(0, "", lambda one=one: [targets.to_json(one)])
    dataset(g, [([*made, correction], kept)], [])
    return g


def test_every_transcript_of_a_generation_is_found_with_its_review(g):
    transcripts, reviews = reviewed(g.directory)
    assert transcripts.keys() == reviews.keys() and len(transcripts) == 4
    assert sorted(t.source for t in transcripts.values()) == ["answer"] * 3 + ["spoiled"]
    assert all(reviews[i].transcript_id == i == t.id for i, t in transcripts.items())


def test_one_accepted_answer_to_every_task_is_taken(g):
    found = accepted_answers(g.run, [1])
    assert [(t.task_id, t.source) for t in found] == [(g.tasks[0].id, "answer")]
    assert accepted_answers(g.run, []) == []


def test_a_trained_transcript_leads_to_its_documents_verdicts_branches_and_examples(g, tokenizer):
    t = accepted_answers(g.run, [1])[0]
    first = next(iter(reviewed(g.directory)[0]))
    found = trace(g.run, first[:12])
    assert (found["transcript"], found["generation"], found["source"], found["accepted"]) == (first, 1, "answer", True)
    assert found["documents"] == {d.id: d.text for d in g.run.passages(1)[:2]}
    known = {"kind": "rule", "threshold": 0.5, "standing": "required"}
    assert found["verdicts"] == {"grounded": {"score": 1.0, "passed": True, "reason": ""} | known}
    assert " ".join(found["steps"]).split() == found["text"].split() and len(found["steps"]) > 1
    assert found["branches"][0]["piece"] == tokenizer.piece(found["branches"][0]["token"])
    assert found["branches"][0]["text"] == "hums" and not found["branches"][0]["passed"]
    assert [row["token"] for row in found["targets"]] == [tokenizer.piece(i) for i in t.tokens]
    assert all(row["target"] == {row["token"]: 1.0} for row in found["targets"])
    assert {e["origin"] for e in found["trained"]} == {"student", "simulate"}
    assert {(e["dataset"], e["teacher"]) for e in found["trained"]} == {("gen-001/dataset/1.0.0", "gen-000")}
    assert {e["trained tokens"] for e in found["trained"]} == {len(t.tokens)}


def test_it_is_known_whether_lots_decided_about_an_answer(g):
    answer = accepted_answers(g.run, [1])[0]
    correction = next(t for t in reviewed(g.directory)[0].values() if t.forced)
    for share in (0.0, 0.5):
        run = replace(g.run, config=changed(g.run.config, controls__random_share=share))
        assert [trace(run, t.id)["at random"] for t in (answer, correction)] == [bool(share), False]


def test_only_what_mentions_a_transcript_is_decoded(g, monkeypatch):
    read = []
    count = lambda name, decode: monkeypatch.setattr(lineage, name, lambda p: read.append(name) or decode(p))
    for name in ("transcript_from_json", "review_from_json"):
        count(name, getattr(lineage, name))
    for wanted in reviewed(g.directory)[0]:
        read.clear()
        assert trace(g.run, wanted)["transcript"] == wanted
        assert sorted(read) == ["review_from_json", "transcript_from_json"]


def test_a_correction_and_a_rejected_transcript_are_traced_too(g):
    transcripts, reviews = reviewed(g.directory)
    correction = next(t for t in transcripts.values() if t.forced)
    found = trace(g.run, correction.id)
    assert (found["wrong thought"], found["fault"], found["text"]) == (correction.forced_text, "says so", "no, so.")
    assert {e["origin"] for e in found["trained"]} == {"correction"} and len(found["targets"]) == len(correction.tokens)
    rejected = next(i for i, r in reviews.items() if not r.accepted)
    found = trace(g.run, rejected)
    assert not found["accepted"] and found["targets"] == found["branches"] == found["trained"] == []
    assert found["verdicts"]["grounded"]["reason"] == "why"


def test_verdicts_have_the_thresholds_and_the_standing_of_their_generation(g):
    wanted = accepted_answers(g.run, [1])[0].id
    measured = {"criteria": {"grounded": {"kind": "model", "threshold": 0.42, "standing": "advisory"}}}
    g.run.commits.write(g.directory / "calibration.json", measured)
    try:
        verdict = trace(g.run, wanted)["verdicts"]["grounded"]
    finally:
        (g.directory / "calibration.json").unlink()
    found = tuple(verdict[name] for name in ("kind", "threshold", "standing", "score"))
    assert found == ("model", 0.42, "advisory", 1.0)


def test_an_answer_and_the_corrections_of_it_spoiled_lead_to_each_other(g, tokenizer, tmp_path):
    answer = accepted_answers(g.run, [1])[0]
    run, review = replace(g.run, directory=epath.Path(tmp_path)), lambda t: Review(t.id, {}, True)
    made = wrongthink.spoil(run.world, tokenizer, answer, g.tasks[0], (answer.text,), "no,", 2)
    other = transcript(g.tasks[1], "no, so.", tokenizer=tokenizer, forced=(1,), forced_text="so", source="inverted")
    Stage(run.generation(1) / "simulate").unit(0, "", lambda: [to_json(answer)])
    pairs = [part for t in (*made, other) for part in (to_json(t), to_json(review(t)))]
    Stage(run.generation(2) / "wrongthink").unit(0, "", lambda: pairs)
    found = trace(run, answer.id)
    assert [one["transcript"] for one in found["corrections"]] == [t.id for t in made] and found["corrects"] is None
    assert [one["wrong thought"] for one in found["corrections"]] == [t.forced_text for t in made]
    assert trace(run, made[0].id)["corrects"] == answer.id
    assert trace(run, other.id)["corrects"] is None and trace(run, other.id)["corrections"] == []


def test_an_unknown_transcript_is_one_line(g):
    with pytest.raises(ValueError, match="has no transcript nowhere$") as caught:
        trace(g.run, "nowhere")
    assert "\n" not in str(caught.value)
