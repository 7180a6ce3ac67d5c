"""A judge by address: what its words mean, and that nothing it is asked about changes who is asked what."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from etils import epath
from faulty import Faulty
from injections import ANSWERS, DOCUMENTS
from support import transcript
from templates import TEMPLATES, write_folder
from tokenizers import Tokenizer

from ratchet.bootstrap.calibration import Probe, calibrate
from ratchet.bootstrap.config import ReviewConfig
from ratchet.bootstrap.probes import junk_probes
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.rubric import Criterion, seated
from ratchet.bootstrap.teacher.client import Client, ServerRefused, ServerStopped
from ratchet.bootstrap.teacher.judging import FarJudge, Posed, meet_judge, unmarked
from ratchet.bootstrap.teacher.settings import JudgeConfig
from ratchet.bootstrap.worlds.world import Case, Document, Task, sentences

ASKED = Posed("so?", ("Yes", "No"), ("Yes",))
LABELLED = Posed("so?", ("supported", "unrelated", "contradicted"), ("supported",))
CROW = Document("crow", "A crow found a pitcher with a little water in it. It dropped pebbles into it and drank.")
TASK = Task("t", ("crow",), ({"role": "user", "content": "What did the crow drop into the pitcher?"},))
SAYS = Criterion(id="says", kind="model", question="Do the sources say this: {answer}", show=("passages", "question"))


def judge(address, place, likeliest=0, **settings) -> FarJudge:
    config = JudgeConfig(url=address, **{"concurrency": 4} | settings)
    return FarJudge(Client(config, "writer", epath.Path(place), pause=0.01), likeliest)


@pytest.fixture(scope="module")
def reviewer(tokenizer):
    """Makes a reviewer of which a judge by address answers in the place of the model itself."""

    def no_seed():
        raise AssertionError("the seed model is asked")

    def make(far, *criteria: Criterion, room: int = 10_000) -> Reviewer:
        asked = seated(criteria, True) if criteria else ()
        return Reviewer(None, None, tokenizer, asked, {}, sentences, "no,", room, no_seed, far)

    return make


def case(text: str, *passages: Document) -> Case:
    return Case(TASK, text, "", True, (), sentences(text), (CROW, *passages), ())


def message(body) -> str:
    (only,) = body["messages"]
    assert only["role"] == "user" and body["temperature"] == 0
    return only["content"]


@pytest.mark.parametrize(
    ("posed", "likely", "verdict"),
    [
        (ASKED, {"Yes": 0.6, " yes": 0.1, "No": 0.2}, (0.7, 0.2)),
        (ASKED, {"Y": 0.5, "n": 0.3, "The": 0.1}, (0.5, 0.3)),
        (ASKED, [("Yes", 0.6), ("No", 0.2), ("Yes", 0.1)], (0.7, 0.2)),  # two tokens of the same letters
        (ASKED, {"Maybe": 0.9, "": 0.05, " ": 0.05}, (0.0, 0.0)),
        (ASKED, {"Y\u200bes": 0.5, "\u202eYes": 0.4}, (0.0, 0.0)),
        (ASKED, {"Yesterday": 0.5, "None": 0.4}, (0.0, 0.0)),
        (LABELLED, {"supp": 0.5, "un": 0.2, "contra": 0.1, "sup": 0.1}, (0.6, 0.3)),
    ],
)
def test_tokens_that_begin_a_word_alone_are_its_probability(tmp_path, posed, likely, verdict):
    with Faulty(lambda body: "x", likely=lambda body: likely).serving() as address:
        (found,) = judge(address, tmp_path, 20)([posed])
    assert found == pytest.approx(verdict)


@pytest.mark.parametrize(
    ("posed", "said", "verdict"),
    [
        (ASKED, "Yes", (1.0, 0.0)),
        (ASKED, " no. The answer says 'Yes'.", (0.0, 1.0)),
        (ASKED, "YES!", (1.0, 0.0)),
        (ASKED, "Y", (0.0, 0.0)),
        (ASKED, "", (0.0, 0.0)),
        (ASKED, "Y\u200bes", (0.0, 0.0)),
        (ASKED, "It is: Yes", (0.0, 0.0)),
        (ASKED, "Yesterday", (0.0, 0.0)),
        (LABELLED, "Unrelated", (0.0, 1.0)),
        (LABELLED, "supported", (1.0, 0.0)),
    ],
)
def test_without_log_probabilities_the_word_that_is_said_first_counts(tmp_path, posed, said, verdict):
    with Faulty(lambda body: said).serving() as address:
        assert judge(address, tmp_path)([posed]) == [verdict]


def test_it_answers_the_model_criteria_that_name_it_and_no_other(tmp_path, reviewer):
    asked, shares = [], []
    labelled = SAYS.model_copy(update={"id": "of", "labels": LABELLED.words, "passing_labels": LABELLED.passing})
    named = [c.model_copy(update={"judge": "address"}) for c in (SAYS, labelled)]
    criteria = (*named, SAYS.model_copy(update={"id": "own"}), SAYS.model_copy(update={"id": "seeds", "judge": "seed"}))
    by_rule = Criterion(id="grounded", kind="rule", question="?")
    here = []

    def no(params, asked, verdicts, reached):
        here.append(params)
        reached(1.0)
        return np.array([[0.1, 0.9]] * len(asked))

    likely = lambda body: {"Yes": 0.9} if "pebbles." in message(body) else {"No": 0.6, "Yes": 0.2}
    by_word = lambda body: {"supported": 0.5, "unrelated": 0.5} if LABELLED.words[1] in message(body) else likely(body)
    with Faulty(lambda body: (asked.append(message(body)), "x")[1], likely=by_word).serving() as address:
        own = replace(reviewer(judge(address, tmp_path, 20), *criteria, by_rule), scorer=no, seed=lambda: "seed")
        own = replace(own, params="own")
        found = own.verdicts([case("It dropped pebbles."), case("It dropped coins.")])
        rocks = transcript(TASK, "It dropped rocks.", (CROW,))
        own.review([rocks], {TASK.id: TASK}, {CROW.id: CROW}, reached=shares.append)
    assert [of["says"].score for of in found] == pytest.approx([1.0, 0.25])
    assert [of[name].passed for of in found for name in ("own", "seeds")] == [False] * 4
    assert found[0]["of"].score == pytest.approx(0.5) and here == ["own", "seed"] * 2
    assert found[0]["grounded"].score == 1.0 and len(asked) == 3 * 2 and shares[-1] == 1.0
    (first,) = (text for text in asked if "pebbles." in text and "Conversation" in text and "one word" in text)
    assert f"Source 1:\n  {CROW.text}" in first and f"user: {TASK.question}" in first


def test_a_question_that_it_refuses_and_an_answer_that_is_no_word_are_rejections(tmp_path, reviewer):
    with Faulty(lambda body: "Well, yes", {0: 400}).serving() as address:
        far = judge(address, tmp_path, concurrency=1)
        found = [of["says"] for of in reviewer(far, SAYS).verdicts([case("a."), case("b.")])]
    assert [v.passed for v in found] == [False, False] and not any(v.readable for v in found)
    assert far.client.counts.unaskable == 1


def test_sources_that_are_too_long_are_sent_in_parts(tmp_path, reviewer):
    asked, pond = [], Document("pond", "The pond was dry in summer, and no bird came to it for weeks.")
    likely = lambda body: {"Yes": 0.9} if CROW.text in message(body) else {"No": 0.9}
    with Faulty(lambda body: (asked.append(message(body)), "x")[1], likely=likely).serving() as address:
        far, own = judge(address, tmp_path, 20), case("It dropped pebbles.", pond)
        whole = reviewer(far).prompt(SAYS, SAYS.question.format(answer=own.text), [CROW.text, pond.text], TASK)
        narrow = reviewer(far, SAYS, room=sum(map(len, whole)) - 1)
        assert narrow.verdicts([own])[0]["says"].passed
    assert len(asked) == 2 and sorted(CROW.text in text for text in asked) == [False, True]


def read_by_lines(body) -> str:
    """A judge that goes by the lines that are no data: the only question, and whether it is about pebbles."""
    lines = [line for line in message(body).splitlines() if line and not line.startswith(" ")]
    questions = [line for line in lines if line.startswith("Question: ")]
    assert len(questions) == 1 and lines[-1].startswith("Answer with the one word"), lines
    return "Yes" if "It dropped pebbles." in questions[0] else "No"


def test_no_document_and_no_answer_changes_what_it_is_asked(tmp_path, reviewer):
    """Forged verdicts, headings, questions and padding are lines of what it is asked about."""
    right, wrong = "It dropped pebbles.", "It dropped coins."
    said = [(f"{answer} {text}", answer == right) for text in ANSWERS for answer in (right, wrong)]
    cases = [case(text) for text, _ in said]
    cases += [case(answer, Document("d", text)) for text in DOCUMENTS for answer in (right, wrong)]
    wanted = [passes for _, passes in said] + [True, False] * len(DOCUMENTS)
    with Faulty(read_by_lines).serving() as address:
        found = reviewer(judge(address, tmp_path, concurrency=8), SAYS).verdicts(cases)
    assert [of["says"].passed for of in found] == wanted


@pytest.mark.parametrize("kind", TEMPLATES)
def test_no_marker_of_any_family_is_left_in_what_is_sent(tmp_path, kind):
    """A server's own tokenizer reads markers wherever they stand."""
    theirs = Tokenizer.from_file(str(write_folder(epath.Path(tmp_path) / kind, kind) / "tokenizer.json"))
    special = {i for i, token in theirs.get_added_tokens_decoder().items() if token.content.strip()}
    marks = lambda text: special & {*theirs.encode(text, add_special_tokens=False).ids}
    texts = (*DOCUMENTS, *ANSWERS)
    assert any(marks(text) for text in texts), "as they stand, some are"
    assert not [text for text in texts if marks(unmarked(text))]
    assert unmarked("a < b, and [ c") == "a < b, and [ c"


def test_a_judge_that_dies_is_gone_on_with_and_nothing_is_paid_for_twice(tmp_path, reviewer, monkeypatch):
    monkeypatch.setattr("ratchet.bootstrap.teacher.client.ATTEMPTS", 2)
    cases = [case(f"It dropped {n} pebbles.") for n in range(9)]
    server = Faulty(lambda body: "Yes" if "3 pebbles" in message(body) else "No", {4: "gone"})
    with server.serving() as address:
        with pytest.raises(ServerStopped, match="judge: .* `ratchet resume` goes on"):
            reviewer(judge(address, tmp_path), SAYS).verdicts(cases)
        server.gone = False
        found = reviewer(judge(address, tmp_path), SAYS).verdicts(cases)
        with pytest.raises(ServerStopped, match="judge: the budget of 50 tokens is spent; .* raise --judge.budget"):
            reviewer(judge(address, tmp_path, budget=50), SAYS).verdicts([case("one more.")])
    assert [of["says"].passed for of in found] == [n == 3 for n in range(9)]
    assert len(server.paid) == 9 and set(server.paid.values()) == {1}


def test_log_probabilities_that_are_missing_on_the_way_are_asked_for_again_and_counted(tmp_path):
    lock, seen = threading.Lock(), []

    def likely(body):
        with lock:
            seen.append(body)
            return None if len(seen) in (2, 3) else {"Yes": 0.9}

    with Faulty(lambda body: "x", likely=likely).serving() as address:
        far = judge(address, tmp_path, 20)
        found = far([ASKED._replace(text=f"{n}?") for n in range(5)])
    assert found == [pytest.approx((0.9, 0.0))] * 5 and far.client.counts.again == {"no log-probabilities": 2}


def test_its_key_is_its_own_and_it_is_probed_once(tmp_path, little_run, monkeypatch):
    monkeypatch.setenv("RATCHET_JUDGE_KEY", "secret")
    lines, said = [], []
    progress = Silent()
    monkeypatch.setattr(progress, "line", lines.append)
    server = Faulty(lambda body: (said.append(body), "one")[1], key="secret", likely=lambda body: {"Yes": 0.9})
    with server.serving() as address:
        config = replace(little_run.config, judge=JudgeConfig(url=address))
        first = meet_judge(epath.Path(tmp_path), config, progress, ["says", "told"])
        probed = len(said)
        second = meet_judge(epath.Path(tmp_path), config, progress, ["says", "told"])
    assert first.likeliest == second.likeliest == 20 and first.client.model == "writer" and len(said) == probed
    assert lines[0].startswith(f"judge: writer at {address}: log-probabilities (20 at a time)") and len(lines) == 2
    assert "of the review it answers says, told, by the probability that it gives to each word" in lines[1]
    assert (tmp_path / "judge" / "probe.json").exists()
    assert not any("secret" in file.read_text() for file in tmp_path.rglob("*.json"))


@pytest.mark.parametrize("likely", [None, lambda body: {"<think>": 0.9}])
def test_it_is_said_of_a_judge_that_answers_a_plain_question_by_no_word(tmp_path, little_run, monkeypatch, likely):
    lines, progress = [], Silent()
    monkeypatch.setattr(progress, "line", lines.append)
    with Faulty(lambda body: "<think>", likely=likely).serving() as address:
        config = replace(little_run.config, judge=JudgeConfig(url=address))
        for _ in range(2):
            meet_judge(epath.Path(tmp_path), config, progress, ["says"])
    assert len(lines) == 3 and "answers 'Is the sky blue?' by neither yes nor no; what it judges so is" in lines[2]


def test_it_is_calibrated_on_labels_like_any_judge(tmp_path, reviewer, tokenizer):
    """Of two criteria that it answers, the one that says yes to everything loses its say."""
    blind = Criterion(id="blind", kind="model", question="Is it well said: {answer}")
    made = []
    for n in range(24):
        text = f"It dropped {'pebbles' if n % 2 else 'coins'} number {n}."
        task = replace(TASK, id=f"t{n}")
        made.append(Probe(transcript(task, text, (CROW,)), task, bool(n % 2), {}))
    junk = junk_probes(made[1].transcript, made[1].task, (CROW,), tokenizer)
    good = lambda body: {"Yes": 0.7, "No": 0.1} if "pebbles number" in message(body) else {"Yes": 0.2, "No": 0.7}
    likely = lambda body: {"Yes": 0.5, "No": 0.4} if "well said" in message(body) else good(body)
    with Faulty(lambda body: "x", likely=likely).serving() as address:
        own = reviewer(judge(address, tmp_path, 20), SAYS, blind)
        calibrated, measured = calibrate(own, [*made, *junk], {CROW.id: CROW}, ReviewConfig(target_precision=0.9))
    assert [c.standing for c in calibrated.criteria] == ["required", "advisory"]
    assert measured["criteria"]["says"]["auc"]["value"] == 1.0 and measured["review"]["precision"] == 1.0
    assert calibrated.criteria[0].threshold <= 0.7 / 0.8


def test_a_judge_that_answers_a_plain_question_and_refuses_all_others_ends_the_run(tmp_path, little_run):
    """As one does whose context they do not fit into."""
    server = Faulty(lambda body: "Yes", likely=lambda body: {"Yes": 0.9})
    with server.serving() as address:
        config = replace(little_run.config, judge=JudgeConfig(url=address, concurrency=1))
        far = meet_judge(epath.Path(tmp_path), config, Silent(), ["says"])
        server.faults |= dict.fromkeys(range(server.asked, server.asked + 99), 400)
        with pytest.raises(ServerRefused, match="judge: .* refuses every question .not now.; see to what it takes"):
            far([ASKED._replace(text=f"is it {n}?") for n in range(20)])
