"""What reached the loss, by origin, and the review against the truth."""

import json
from dataclasses import replace

import little
import numpy as np
import pytest
from support import transcript

from ratchet.bootstrap.copies import GRAM, Texts
from ratchet.bootstrap.examples import example, for_simulator, for_students, imitation_examples, one_hot, renamed
from ratchet.bootstrap.intervals import proportion
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.stages.audit import NEVER, AuditFailed, audit, audit_generation, untaught_tokens
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.tools import LOOKUP, call_text
from ratchet.bootstrap.transcript import Capture, Review, Verdict, to_json
from ratchet.train.records import ORIGINS, Example


def target(t, unreviewed=0.0):
    return Target(t.id, t.capture, unreviewed)


@pytest.fixture(scope="module")
def clean(world, deeds, tokenizer):
    """(examples, documents, transcripts, reviews): one accepted and one rejected transcript to each of four tasks."""
    made, transcripts, reviews = [], [], {}
    for task in (t for part in world.slices for t in part.tasks):
        good = transcript(task, little.answer(deeds, task), tokenizer=tokenizer)
        bad = transcript(task, little.answer(deeds, task, (0, 1)), tokenizer=tokenizer)
        transcripts += [good, bad]
        reviews |= {good.id: Review(good.id, {}, True), bad.id: Review(bad.id, {}, False)}
        made += for_students(tokenizer, good, target(good), task, "gen-000", lambda t, task, number: t.forced)
        made.append(for_simulator(good, target(good), task, "gen-000"))
    return made, Texts(tokenizer.encode(d.text) for d in documents_of(world)), transcripts, reviews


def documents_of(world):
    return [d for part in world.slices for d in part.documents]


NOTHING = Texts([])


def test_a_clean_set_holds_no_raw_and_no_rejected_tokens(clean):
    made, documents, transcripts, reviews = clean
    found = audit(made, documents, NOTHING, transcripts, reviews)
    assert found["raw_tokens"] == found["rejected_tokens"] == 0
    assert found["overlap"] == {"raw": 0.0, "rejected": 0.0}
    assert found["tokens_by_origin"] == {
        origin: sum(int(e.weights.sum()) for e in made if e.origin == origin) for origin in ("simulate", "student")
    }


def test_a_raw_document_is_found_whatever_it_is_called(clean, tokenizer, world):
    made, documents, transcripts, reviews = clean
    document = documents_of(world)[0]
    (raw,) = imitation_examples(tokenizer, document, 64)
    assert audit([*made, raw], documents, NOTHING, transcripts, reviews)["raw_tokens"] == len(raw.ids)
    tokens = tokenizer.encode(document.text)
    for origin in ORIGINS:
        hidden = example(tokenizer.prose(""), tokens, one_hot(tokens), origin, {"task": "x"})
        found = audit([*made, hidden], documents, NOTHING, transcripts, reviews)
        total = sum(int(e.weights.sum()) for e in [*made, hidden])
        assert found["raw_tokens"] == len(tokens) and found["overlap"]["raw"] == pytest.approx(len(tokens) / total)


def test_a_quotation_as_long_as_the_rubric_allows_is_no_copy(clean, tokenizer, world):
    made, documents, transcripts, reviews = clean
    tokens = tokenizer.encode(world.slices[0].documents[0].text)[:12]
    quoting = example(tokenizer.encode("so. "), tokens, one_hot(tokens), "student", {"task": "x"})
    raw = lambda gram: audit([*made, quoting], documents, NOTHING, transcripts, reviews, gram=gram)["raw_tokens"]
    assert [raw(8), raw(12), raw(13)] == [12, 12, 0]


def test_the_worlds_own_prose_may_share_words_with_a_document(clean, tokenizer, world):
    made, documents, transcripts, reviews = clean
    tokens = tokenizer.encode(documents_of(world)[0].text)
    shown = lambda origin: example(tokenizer.prose(""), tokens, one_hot(tokens), origin, {})
    raw = lambda origin: audit([*made, shown(origin)], documents, Texts([tokens]), transcripts, reviews)["raw_tokens"]
    assert raw("seed") == raw("prose") == 0 and raw("student") == len(tokens)


def test_a_rejected_transcript_is_found_by_its_lineage_and_by_its_words(clean, tokenizer, world):
    made, documents, transcripts, reviews = clean
    bad, task = transcripts[1], world.slices[0].tasks[0]
    named = for_simulator(bad, target(bad), task, "gen-000")
    found = audit([*made, named], documents, NOTHING, transcripts, reviews)
    assert found["rejected_tokens"] == len(bad.tokens)
    said, lineage = transcripts[0].tokens, {"task": bad.task_id, "transcript": bad.id}
    disguised = example(bad.student_prompt, said, one_hot(said), "student", lineage)
    found = audit([*made, disguised], documents, NOTHING, transcripts, reviews)
    assert found["rejected_tokens"] == len(disguised.ids), "whatever it says"
    unnamed = example(bad.student_prompt, bad.tokens, one_hot(bad.tokens), "student", {"task": bad.task_id})
    assert audit([*made, unnamed], documents, NOTHING, transcripts, reviews)["rejected_tokens"] == len(bad.tokens)


def test_what_is_true_of_another_task_is_still_rejected_for_this_one(clean):
    made, documents, transcripts, reviews = clean
    swapped = replace(transcripts[3], tokens=transcripts[0].tokens, id="swapped")
    seen, lineage = {**reviews, "swapped": Review("swapped", {}, False)}, {"task": swapped.task_id}
    hidden = example(swapped.student_prompt, swapped.tokens, one_hot(swapped.tokens), "student", lineage)
    found = audit([*made, hidden], documents, NOTHING, [*transcripts, swapped], seen)
    assert found["rejected_tokens"] == len(swapped.tokens)


def test_holes_in_the_weights_do_not_hide_what_was_rejected(clean):
    made, documents, transcripts, reviews = clean
    bad = transcripts[1]
    lineage = {"task": bad.task_id}
    said = [token for n, one in enumerate(bad.tokens) for token in ((one, 3) if n % 3 == 0 else (one,))]
    whole = example(bad.student_prompt, said, one_hot(said), "student", lineage)
    weights = np.where(whole.tokens == 3, 0, whole.weights).astype(np.float32)
    targets = one_hot(whole.tokens[weights > 0])
    holed = Example.create(whole.tokens, weights, *targets, origin="student", lineage=lineage)
    found = audit([*made, holed], documents, NOTHING, transcripts, reviews)["rejected_tokens"]
    assert found == int(weights.sum())


def test_names_hide_neither_a_document_nor_a_rejected_transcript(clean, tokenizer, world):
    made, documents, transcripts, reviews = clean
    bad, raw = transcripts[1], tokenizer.encode(documents_of(world)[0].text)
    for tokens in (list(bad.tokens), raw):
        hidden = example(bad.student_prompt, tokens, one_hot(tokens), "student", {"task": bad.task_id})
        copies = renamed(world.names, tokenizer, hidden, 2)
        assert all(copy.tokens.tolist() != hidden.tokens.tolist() for copy in copies)
        found = audit([*made, *copies], documents, NOTHING, transcripts, reviews)
        assert found["raw_tokens"] + found["rejected_tokens"] == 2 * len(tokens)
    kept = [copy for e in made for copy in renamed(world.names, tokenizer, e, 40)]
    found = audit(kept, documents, NOTHING, transcripts, reviews)
    assert found["raw_tokens"] == found["rejected_tokens"] == 0, "other names may chance upon what was rejected"


def test_targets_that_say_what_was_rejected_are_found(clean, tokenizer):
    made, documents, transcripts, reviews = clean
    bad = transcripts[1]
    said = [tokenizer.encode("lamp")[0]] * len(bad.tokens)
    ids = np.stack([said, bad.tokens], 1).astype(np.int32)
    for share, found in ((0.9, len(said)), (0.6, len(said)), (0.1, 0)):
        mass = np.tile(np.array([[1 - share, share]], np.float32), (len(said), 1))
        taught = Capture(ids, mass, np.zeros(len(said), np.float32))
        hidden = example(bad.student_prompt, said, taught, "student", {"task": bad.task_id})
        rejected = audit([*made, hidden], documents, NOTHING, transcripts, reviews)["rejected_tokens"]
        assert rejected == pytest.approx(found, abs=2), "the ends may be what was said"


def test_what_stands_in_a_prompt_without_weight_is_no_matter(clean, tokenizer, world):
    made, documents, transcripts, reviews = clean
    prompt = [*tokenizer.document(documents_of(world)[0].text), *transcripts[1].tokens]
    end = [tokenizer.end]
    shown = example(prompt, end, one_hot(end), "simulate", {"task": transcripts[1].task_id})
    found = audit([*made, shown], documents, NOTHING, transcripts, reviews)
    assert found["raw_tokens"] == found["rejected_tokens"] == 0


def test_a_call_is_what_its_transcript_said(clean, tokenizer, world):
    """One that an accepted transcript made before its answer is not a rejected one's, though that says it too."""
    made, documents, transcripts, reviews = clean
    good, bad = transcripts[:2]
    call = tuple(tokenizer.call(LOOKUP["name"], call_text("red lamp of the hall")))
    assert len(call) >= GRAM
    called = {"prompt": (*good.prompt, *call), "called": ((len(good.prompt), len(good.prompt) + len(call)),)}
    asked, again = replace(good, id="asked", **called), replace(bad, id="again", tokens=call)
    seen = {**reviews, "asked": Review("asked", {}, True), "again": Review("again", {}, False)}
    trained = [*made, for_simulator(asked, target(asked), world.slices[0].tasks[0], "gen-000")]
    count = lambda *said: audit(trained, documents, NOTHING, [*transcripts, *said], seen)["rejected_tokens"]
    assert count(asked, again) == 0
    assert count(again) == count(replace(bad, id="again", **called)) == len(call)


def committed(g, answers, corrections=()):
    """Puts transcripts with reviews where a generation's stages commit them."""
    Stage(g.directory / "simulate").unit(0, "", lambda: [to_json(t) for t, _ in answers])
    Stage(g.directory / "review").unit(0, "", lambda: [to_json(r) for _, r in answers])
    both = [part for t, r in corrections for part in (to_json(t), to_json(r))]
    Stage(g.directory / "wrongthink").unit(0, "", lambda: both)


def judged(t, accepted, **verdicts):
    return t, Review(t.id, {n: Verdict(float(v), v) for n, v in verdicts.items()}, accepted)


def reviewer_of(g):
    """A reviewer with the rubric's criteria, whose model is not asked."""
    return g.run.reviewer(g.params)


@pytest.fixture
def pairs(world, deeds, tokenizer):
    """Answers to the first slice with reviews, right and wrong ones."""
    first, other = world.slices[0].tasks
    say = lambda task, wrong, n, **more: transcript(
        task, little.answer(deeds, task, wrong), tokenizer=tokenizer, sibling=n, **more
    )
    return [
        judged(say(first, (), 0), True, sure=True),
        judged(say(first, (1,), 1), True, sure=True),
        judged(say(other, (), 2), False, sure=False),
        judged(say(other, (0,), 3), True, sure=False),
        judged(say(other, (), 4, finished=False), False, sure=True),
        judged(say(first, (), 5), False, sure=True, distinct=False),
    ]


def test_the_review_is_held_against_the_truth(turn, pairs, tokenizer):
    g = turn(1, review__attacks=0)
    pairs = [*pairs, judged(transcript(g.tasks[0], "so.", tokenizer=tokenizer, sibling=6), False, sure=False)]
    committed(g, pairs)
    audit_generation(g, [], pairs, [], [target(t, 0.5) for t, _ in pairs[:2]], reviewer_of(g))
    found = json.loads((g.directory / "audit.json").read_text())
    oracle = found["oracle"]
    of_groups = proportion({"0": 1.0, "1": 0.0, "3": 0.0}, {"0": "first", "1": "first", "3": "other"})
    assert oracle["precision"] == pytest.approx(of_groups)
    assert (oracle["recall"]["value"], oracle["recall"]["n"]) == (0.5, 2)
    assert oracle["pass_rate"] == 2 / 6, "a repetition says nothing of whether the review is right"
    assert oracle["false_accepts"] == [pairs[1][0].text, pairs[3][0].text]
    sure = oracle["criteria"]["sure"]
    of = (sure["n"], sure["precision"], sure["recall"])
    assert of == (6, pytest.approx(2 / 3), pytest.approx(2 / 3)), "an answer that says nothing has no true step"
    assert found["unreviewed_mass"] == 0.5 and found["tokens_by_origin"] == {}


def test_corrections_are_held_against_the_truth_with_their_reason(turn, pairs, deeds, tokenizer):
    g = turn(1, review__attacks=0)
    task = g.tasks[0]
    said = lambda *numbers: " ".join(["no,", *(f"the {task.seek[n]} {deeds[task.seek[n]]}." for n in numbers)])
    thought = little.answer(deeds, task, (1,))
    of = lambda text, n, ok: judged(transcript(task, text, tokenizer=tokenizer, forced_text=thought, sibling=n), ok)
    corrected = [of(said(1), 0, True), of(said(0), 1, True), of(said(0, 1), 2, True), of("no,", 3, False)]
    committed(g, pairs, corrected)
    audit_generation(g, [], pairs, corrected, [], reviewer_of(g))
    found = json.loads((g.directory / "audit.json").read_text())["oracle"]["corrections"]
    assert (found["right"]["value"], found["right"]["n"]) == (pytest.approx(2 / 3), 3)
    assert (found["reason"]["value"], found["reason"]["n"]) == (pytest.approx(1 / 3), 3)


def test_without_an_oracle_only_what_was_trained_on_is_audited(turn, pairs):
    g = turn(1, review__attacks=0)
    g = replace(g, run=replace(g.run, world=replace(g.run.world, oracle=None)))
    committed(g, pairs)
    audit_generation(g, [], pairs, [], [], reviewer_of(g))
    found = json.loads((g.directory / "audit.json").read_text())
    assert "oracle" not in found and found["unreviewed_mass"] == 0.0


def test_everything_that_was_ever_rejected_counts_and_all_documents_read(turn, pairs, deeds, tokenizer):
    first, g = turn(1, review__attacks=0), turn(2, review__attacks=0)
    rubric = tuple(c for c in g.run.rubric if c.id != "original")
    g = replace(g, run=replace(g.run, rubric=rubric))
    committed(first, [(t, replace(r, accepted=False)) for t, r in pairs])
    late = transcript(g.tasks[0], little.answer(deeds, g.tasks[0], (0, 1)), tokenizer=tokenizer)
    committed(g, [judged(late, False)])
    bad = pairs[3][0]
    raw = tokenizer.encode(g.run.world.slices[1].documents[0].text)
    trained = [
        example(t.student_prompt, tokens, one_hot(tokens), "student", {"task": t.task_id})
        for t, tokens in ((bad, bad.tokens), (late, late.tokens), (late, raw))
    ]
    with pytest.raises(AuditFailed, match="^generation 2: of the tokens to be trained on, the audit found ") as failed:
        audit_generation(g, trained, [], [], [], reviewer_of(g))
    found = json.loads((g.directory / "audit.json").read_text())
    assert f"found {found['rejected_tokens']} that teach rejected transcripts, " in str(failed.value)
    assert f" {found['unaccounted_tokens']} that are not what the accepted" in str(failed.value)
    assert found["rejected_tokens"] >= 8 + len(late.tokens) and found["raw_tokens"] >= len(raw)
    assert np.isfinite(found["overlap"]["rejected"])


@pytest.mark.parametrize("count", NEVER)
def test_any_count_that_must_be_nothing_ends_a_run_and_raw_pieces_do_not(turn, pairs, monkeypatch, count):
    g = turn(1, review__attacks=0)
    committed(g, pairs)
    counted = lambda name: {**dict.fromkeys(NEVER, 0), "raw_tokens": 5, "raw_pieces": 9, name: 3}
    monkeypatch.setattr("ratchet.bootstrap.stages.audit.audit", lambda *_: counted(count))
    others = ("unaccounted_tokens", "untaught_tokens")
    for name in others:
        monkeypatch.setattr(f"ratchet.bootstrap.stages.audit.{name}", lambda *_, name=name: 3 * (count == name))
    with pytest.raises(AuditFailed, match=f"found 3 that {NEVER[count]}; nothing was trained") as failed:
        audit_generation(g, [], pairs, [], [], reviewer_of(g))
    assert "\n" not in str(failed.value)
    monkeypatch.setattr("ratchet.bootstrap.stages.audit.audit", lambda *_: counted("raw_tokens"))
    for name in others:
        monkeypatch.setattr(f"ratchet.bootstrap.stages.audit.{name}", lambda *_: 0)
    audit_generation(g, [], pairs, [], [], reviewer_of(g))


def test_a_verdict_of_one_generation_must_not_pass_for_anothers(turn, pairs):
    first, g = turn(1, review__attacks=0), turn(2, review__attacks=0)
    for both in (first, g):
        committed(both, pairs)
    with pytest.raises(AssertionError, match="would pass for another's"):
        audit_generation(g, [], [], [], [], reviewer_of(g))


def test_what_teaches_a_probe_or_asks_an_untaught_question_is_counted(clean, world, tokenizer):
    made, tasks = clean[0], {t.id: t for part in world.slices for t in part.tasks}
    weight = lambda some: sum(int((e.weights > 0).sum()) for e in some)
    count = lambda **more: untaught_tokens(made, replace(world, **more), tasks, tokenizer.decode)
    assert count() == count(untaught=("what do lamps do?",)) == 0
    task = world.slices[0].tasks[0]
    about = [e for e in made if e.lineage["task"] == task.id]
    assert count(untaught=(task.question.upper(),)) == weight(about) > 0, "whatever its capitals"
    assert count(untaught=(task.askings[0][-1]["content"],)) == weight(about), "in another wording"
    probes = {t.id for t in world.slices[0].tasks}
    assert count(probes=world.slices[0]) == weight(e for e in made if e.lineage["task"] in probes)
    other = [replace(e, lineage=e.lineage | {"task": "another"}) for e in about]
    found = untaught_tokens(other, replace(world, untaught=(task.question,)), tasks, tokenizer.decode)
    asking = [e for e in other if e.origin == "student" and task.question in tokenizer.decode(e.tokens)]
    assert found == weight(asking) > 0


def test_a_generation_counts_what_asks_an_untaught_question(turn, pairs):
    g = turn(1, review__attacks=0)
    committed(g, pairs)
    task = g.tasks[0]
    trained = [example(t.student_prompt, t.tokens, one_hot(t.tokens), "student", {"task": t.task_id}) for t, _ in pairs]
    asking = {e.id: len(e.ids) for e in trained if e.lineage["task"] == task.id}
    for untaught, expected in (((), 0), ((task.question,), sum(asking.values()))):
        own = replace(g, run=replace(g.run, world=replace(g.run.world, untaught=untaught)))
        with pytest.raises(AuditFailed) as failed:  # of which some are not accepted, either
            audit_generation(own, trained, pairs, [], [], reviewer_of(g))
        found = json.loads((g.directory / "audit.json").read_text())["untaught_tokens"]
        assert found == expected and ("ask labelled questions" in str(failed.value)) == (expected > 0)
