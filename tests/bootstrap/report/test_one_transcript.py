"""One transcript as people read it, on 80 columns."""

import io

import pytest
from rich.console import Console

from ratchet.bootstrap.report.transcript import PASSAGE, SHOWN, transcript

INJECTED = "[red]no markup[/red]"


def found(**changes) -> dict:
    """What is known of an accepted answer."""
    verdict = {"score": 1.0, "passed": True, "reason": "", "kind": "rule", "threshold": 0.5, "standing": "required"}
    model = {"score": 0.58, "passed": True, "reason": "", "kind": "model", "threshold": 0.07, "standing": "always"}
    branch = {"position": 1, "token": 7, "probability": 0.28, "passed": False, "piece": " lean"}
    return {
        "transcript": "c0ffee0000000000",
        "generation": 3,
        "task": "t",
        "source": "answer",
        "messages": [
            {"role": "user", "content": f"The lamp is dark. Trim the wick? {INJECTED}"},
            {"role": "assistant", "content": "So I trim the wick."},
        ],
        "wrong thought": "",
        "fault": "",
        "text": "The wick freed the light. So I trim it.",
        "steps": ["The wick freed the light.", "So I trim it."],
        "finished": True,
        "documents": {"log": "Log, day 3. " * 40, "note": "For light, trim the wick."},
        "accepted": True,
        "at random": False,
        "verdicts": {"grounded": verdict, "rhyming": model},
        "targets": [
            {"token": "So", "target": {"So": 1.0}},
            {"token": " trim", "target": {" light": 0.28, " trim": 0.72}},
        ],
        "branches": [branch | {"text": "So I lean the pole.", "reason": "'lean' is in no passage"}],
        "corrects": None,
        "corrections": [],
        "trained": [
            {"example": str(n), "dataset": "gen-003/d", "origin": "student", "trained tokens": 9, "teacher": "gen-002"}
            for n in range(3)
        ],
    } | changes


def shown(width: int = 80, **changes) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(transcript(found(**changes)))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_reads_from_question_to_training_on_any_width(width):
    lines = shown(width)
    assert max(map(len, lines)) <= width
    said, places = " ".join(" ".join(lines).split()), []
    for part in (
        "c0ffee0000000000: an answer of generation 3, accepted",
        "Question The lamp is dark. Trim the wick?",
        "In view: 2",
        "Answer, step by step 1. The wick freed the light. 2. So I trim it.",
        "Verdicts: 2 of 2 passed",
        "Targets 2 tokens, 1 of them all on the one that was said",
        "after “So”: “ trim” 0.72, “ light” 0.28",
        "Branches reviewed: 1 failed “ lean” 0.28: So I lean the pole. ('lean' is in no passage)",
        "Trained on in gen-003/d: 3 student examples of 9 trained tokens, targets by gen-002",
    ):
        places.append(said.index(part))
    assert places == sorted(places)


def test_every_score_stands_beside_the_threshold_that_it_passes_from():
    rows = {line.split()[0]: line.split()[1:] for line in shown() if line.strip()}
    assert rows["criterion"] == ["verdict", "by", "score", "passes", "from", "why", "not"]
    assert rows["grounded"] == ["passed", "rule", "1.00", "0.50"]
    assert rows["rhyming"] == ["passed", "model", "0.58", "0.07"]


def test_a_rejected_transcript_says_why_and_that_nothing_is_trained_on():
    why = {"score": 0.0, "passed": False, "reason": f"in no passage {INJECTED}", "kind": "model", "threshold": 0.5}
    why |= {"standing": "required"}
    said = " ".join(" ".join(shown(accepted=False, verdicts={"sure": why}, targets=[], trained=[])).split())
    assert "rejected" in said and "Verdicts: 0 of 1 passed" in said and "failed" in said
    assert "none: it was not kept for training" in said and "Trained on in nothing" in said


@pytest.mark.parametrize("standing", ["advisory", "earned"])
def test_a_criterion_that_decides_nothing_is_told_from_those_that_do(standing):
    told = found()["verdicts"]
    lines = shown(verdicts=told | {"sure": told["rhyming"] | {"passed": False, "standing": standing}})
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["sure"] == ["failed", "model,", "advisory", "0.58", "0.07"]
    assert "Verdicts: 2 of 3 passed; advisory, and failed: 1" in lines


@pytest.mark.parametrize(("accepted", "said"), [(True, "accepted"), (False, "rejected")])
def test_what_lots_decided_is_told_from_what_the_review_did(accepted, said):
    assert "at random" not in shown(accepted=accepted)[0]
    first = " ".join(" ".join(shown(**{"accepted": accepted, "at random": True})).split())
    assert f"generation 3, {said} at random, whatever its verdicts are Question" in first


def test_words_of_a_model_are_no_markup_and_long_passages_are_shortened():
    said = shown(text=INJECTED, steps=[])
    assert INJECTED in " ".join(said) and f"1. {INJECTED}" in " ".join(said)
    text = " ".join(" ".join(said).split())
    assert "Log, day 3. Log" in text and text.count("Log, day 3.") <= PASSAGE // 11 and "…" in text


def test_a_correction_shows_the_wrong_thought_and_what_it_was_made_of():
    changes = {"source": "spoiled", "wrong thought": "The pole freed it.", "fault": "says: pole", "corrects": "feed"}
    said = " ".join(" ".join(shown(**changes)).split())
    assert "a correction (spoiled) of generation 3" in said
    assert "The pole freed it. interrupted because: says: pole it spoils the answer feed" in said


def test_corrections_made_from_it_are_shown_and_the_rest_counted():
    one = {"transcript": "ab12", "generation": 3, "wrong thought": "It leans.", "text": "No, so.", "accepted": True}
    said = " ".join(" ".join(shown(corrections=[one] * (SHOWN + 2))).split())
    assert f"Corrections made from it: {SHOWN + 2} ab12, generation 3, accepted It leans. No, so." in said
    assert "and 2 more; --json has all" in said


def test_calls_of_tools_stand_with_what_they_answered():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "lookup", "arguments": '{"query": "wick"}'}}]}
    messages = [{"role": "user", "content": "Wick?"}, call, {"role": "tool", "content": "Trim it."}]
    said = " ".join(" ".join(shown(messages=messages)).split())
    assert 'Called lookup {"query": "wick"} → Trim it.' in said
